//! What was given, and where: defaults, then the file, then the environment, then flags.
//!
//! Knows the table of keys, not what they mean.
//! Invariant: every key has exactly one value, and it is the one of the highest origin that gave it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::{KEYS, Key, OTHER_ENV, nearest};
use super::value::{Kind, Value};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// A file and the line in it.
    File(PathBuf, usize),
    /// This environment variable.
    Env(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub value: Value,
    pub origin: Origin,
}

/// One setting per key of [`KEYS`], in that order.
#[derive(Clone, Debug)]
pub struct RawConfig {
    settings: Vec<Setting>,
}

impl RawConfig {
    /// Every key at its default.
    pub fn defaults() -> Self {
        let settings = KEYS
            .iter()
            .map(|key| Setting {
                value: key.default_value(),
                origin: Origin::Default,
            })
            .collect();
        Self { settings }
    }

    /// Keys with their settings, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Setting)> {
        KEYS.iter().zip(&self.settings)
    }

    /// The setting of a key, by `section.name`.
    pub fn get(&self, path: &str) -> &Setting {
        self.iter()
            .find_map(|(key, setting)| (key.path() == path).then_some(setting))
            .expect("keys are asked for by their names in the table")
    }

    /// Takes what a file gives.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has an unknown key or a bad value.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        self.read_toml(&text, path)
    }

    /// Takes what a file with this text gives; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::read_file`].
    pub fn read_toml(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        let origin = |offset: usize| {
            let line = 1 + text[..offset].matches('\n').count();
            Origin::File(path.to_owned(), line)
        };
        for (section, value) in document.get_ref() {
            let here = origin(section.span().start);
            let section = section.get_ref().as_ref();
            let keys: Vec<usize> = (0..KEYS.len())
                .filter(|&i| KEYS[i].section == section)
                .collect();
            let Some(table) = value.get_ref().as_table().filter(|_| !keys.is_empty()) else {
                return Err(unknown_top_level(here, section, value.get_ref()));
            };
            for (name, value) in table {
                let here = origin(name.span().start);
                let name = name.get_ref().as_ref();
                let Some(&index) = keys.iter().find(|&&i| KEYS[i].name == name) else {
                    let close = nearest(name, keys.iter().map(|&i| KEYS[i].name))
                        .map(|close| format!("{section}.{close}"))
                        .or_else(|| other_section(name));
                    return Err(ConfigError::Unknown {
                        origin: here,
                        what: "key",
                        name: format!("{section}.{name}"),
                        nearest: close,
                    });
                };
                let key = &KEYS[index];
                let value =
                    from_toml(key.kind, value.get_ref()).map_err(|given| ConfigError::Value {
                        origin: here.clone(),
                        key: key.path(),
                        given,
                        expected: key.kind.expected(),
                    })?;
                self.settings[index] = Setting {
                    value,
                    origin: here,
                };
            }
        }
        Ok(())
    }

    /// Takes what the environment gives. Only names that begin with `GOSSAMER_` are looked at.
    ///
    /// # Errors
    /// A `GOSSAMER_` variable that does not exist, or a bad value.
    pub fn read_env(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        // Sorted, so that of several mistakes the same one is always named first.
        let variables: BTreeMap<String, String> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with("GOSSAMER_"))
            .collect();
        let known: Vec<String> = KEYS.iter().map(Key::env).collect();
        for (name, text) in variables {
            if OTHER_ENV.contains(&name.as_str()) {
                continue;
            }
            let Some(index) = known.iter().position(|candidate| *candidate == name) else {
                let candidates = known
                    .iter()
                    .map(String::as_str)
                    .chain(OTHER_ENV.iter().copied());
                return Err(ConfigError::Unknown {
                    nearest: nearest(&name, candidates).map(str::to_owned),
                    origin: Origin::Env(name.clone()),
                    what: "environment variable",
                    name,
                });
            };
            self.set_text(index, &text, Origin::Env(name))?;
        }
        Ok(())
    }

    /// Takes one flag's value.
    ///
    /// # Errors
    /// A bad value.
    pub fn set_flag(&mut self, flag: &str, text: &str) -> Result<(), ConfigError> {
        let index = KEYS
            .iter()
            .position(|key| key.flag == flag)
            .expect("the command line is made from the table");
        self.set_text(index, text, Origin::Flag(flag.to_owned()))
    }

    fn set_text(&mut self, index: usize, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let key = &KEYS[index];
        let value = key
            .kind
            .parse(text)
            .map_err(|expected| ConfigError::Value {
                origin: origin.clone(),
                key: key.path(),
                given: format!("\"{text}\""),
                expected,
            })?;
        self.settings[index] = Setting { value, origin };
        Ok(())
    }

    /// The whole configuration as a commented file.
    pub fn to_toml(&self) -> String {
        let mut out = String::from(FILE_HEAD);
        let mut section = "";
        for (key, setting) in self.iter() {
            if key.section != section {
                section = key.section;
                out.push_str(&format!("\n[{section}]\n"));
            }
            for line in wrap(key.help, 100) {
                out.push_str(&format!("# {line}\n"));
            }
            let accepted = key.kind.expected();
            out.push_str(&format!("# {accepted}; --{}, {}\n", key.flag, key.env()));
            out.push_str(&format!("{} = {}\n", key.name, setting.value.to_toml()));
        }
        out
    }
}

const FILE_HEAD: &str = "\
# Gossamer's configuration: every key at its default. Written by `gossamer config --toml`; a test compares.
#
# A value is taken from the last of these that gives it: this default, the file named by --config or
# GOSSAMER_CONFIG, the environment variable, the flag. Unknown keys are errors.
";

fn unknown_top_level(origin: Origin, name: &str, value: &DeValue<'_>) -> ConfigError {
    let is_table = value.is_table();
    let sections = KEYS.iter().map(|key| key.section);
    let close = if is_table {
        nearest(name, sections).map(str::to_owned)
    } else {
        other_section(name)
    };
    ConfigError::Unknown {
        origin,
        what: if is_table { "section" } else { "key" },
        name: name.to_owned(),
        nearest: close,
    }
}

/// The key of this name (or flag) in whatever section has it.
fn other_section(name: &str) -> Option<String> {
    KEYS.iter()
        .find(|key| key.name == name || key.flag == name.replace('_', "-"))
        .map(Key::path)
}

/// A value of the kind, or what was given, in the words of a message.
fn from_toml(kind: Kind, value: &DeValue<'_>) -> Result<Value, String> {
    let text = match (kind, value) {
        (Kind::Bool, DeValue::Boolean(value)) => return Ok(Value::Bool(*value)),
        (Kind::List, DeValue::Array(items)) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect();
            return items
                .map(Value::List)
                .ok_or_else(|| "a list of other things".to_owned());
        }
        (Kind::Int { .. } | Kind::Size { .. } | Kind::Choice(_), DeValue::Integer(number)) => {
            let digits = number.as_str();
            i128::from_str_radix(digits, number.radix())
                .map_or(digits.to_owned(), |n| n.to_string())
        }
        // A word is written as a string; a number in quotes is not a number.
        (Kind::Int { word, .. }, DeValue::String(text)) if word != Some(text.as_ref()) => {
            return Err(format!("the text \"{text}\""));
        }
        (
            Kind::Int { .. } | Kind::Size { .. } | Kind::Text { .. } | Kind::Choice(_),
            DeValue::String(text),
        ) => text.to_string(),
        (_, other) => return Err(format!("of type {}", other.type_str())),
    };
    kind.parse(&text).map_err(|_| match value {
        DeValue::String(_) => format!("\"{text}\""),
        _ => text,
    })
}

/// Breaks a text into lines of at most `width` characters, at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
