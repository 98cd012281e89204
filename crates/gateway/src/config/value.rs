//! What a configuration value can be, and how it is read from text and written back.
//!
//! Knows nothing of keys or of where a value came from.
//! Invariant: `kind.parse(&value.to_string()) == Ok(value)` for every value that a kind accepts.

use std::fmt;

/// The set of values that a key accepts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// An integer in `min..=max`, or `word`, which stands for something that is not a number.
    Int {
        min: u64,
        max: u64,
        word: Option<&'static str>,
    },
    /// A number of bytes: an integer, or one with a unit of 1024 (`512MiB`, `2GiB`); or `word`.
    Size {
        min: u64,
        max: u64,
        word: Option<&'static str>,
    },
    /// Any text that is not empty; a key that gives `word` a meaning names it for the help text.
    Text { word: Option<&'static str> },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts; on the command line and in the environment separated by commas.
    List,
}

/// A value, checked against its [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Int(u64),
    Bytes(u64),
    Text(String),
    /// The special word of the kind (`auto`, `off`), or one of a choice.
    Word(&'static str),
    List(Vec<String>),
}

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Kind {
    /// Reads a value from the text of a flag or an environment variable.
    ///
    /// # Errors
    /// A sentence saying what is accepted, to be put behind "must be".
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self {
            Kind::Bool => match text {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err(self.expected()),
            },
            Kind::Int { min, max, word } => match (word, text.parse::<u64>()) {
                (Some(word), _) if word == text => Ok(Value::Word(word)),
                (_, Ok(number)) if (min..=max).contains(&number) => Ok(Value::Int(number)),
                _ => Err(self.expected()),
            },
            Kind::Size { min, max, word } => match (word, parse_size(text)) {
                (Some(word), _) if word == text => Ok(Value::Word(word)),
                (_, Some(bytes)) if (min..=max).contains(&bytes) => Ok(Value::Bytes(bytes)),
                _ => Err(self.expected()),
            },
            Kind::Text { word } => match word {
                Some(word) if word == text => Ok(Value::Word(word)),
                _ if text.is_empty() => Err(self.expected()),
                _ => Ok(Value::Text(text.to_owned())),
            },
            Kind::Choice(words) => match words.iter().find(|word| **word == text) {
                Some(word) => Ok(Value::Word(word)),
                None => Err(self.expected()),
            },
            Kind::List => Ok(Value::List(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(str::to_owned)
                    .collect(),
            )),
        }
    }

    /// What stands for a value in the help text.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Bool => "BOOL",
            Kind::Int { .. } => "N",
            Kind::Size { .. } => "SIZE",
            Kind::Text { .. } => "TEXT",
            Kind::Choice(_) => "WORD",
            Kind::List => "LIST",
        }
    }

    /// What is accepted, for messages and help: "an integer from 1 to 64, or `auto`".
    pub fn expected(self) -> String {
        let or_word = |word: Option<&str>| word.map_or(String::new(), |w| format!(", or \"{w}\""));
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Int { min, max, word } => {
                format!("an integer from {min} to {max}{}", or_word(word))
            }
            Kind::Size { min, max, word } => format!(
                "a size from {} to {} (bytes, or with KiB, MiB, GiB){}",
                format_size(min),
                format_size(max),
                or_word(word)
            ),
            Kind::Text { word } => format!("a text that is not empty{}", or_word(word)),
            Kind::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Kind::List => "a list of texts".to_owned(),
        }
    }
}

/// The plain form, as a flag takes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Bytes(value) => f.write_str(&format_size(*value)),
            Value::Text(value) => f.write_str(value),
            Value::Word(value) => f.write_str(value),
            Value::List(items) => f.write_str(&items.join(",")),
        }
    }
}

impl Value {
    /// The form that a TOML file takes.
    pub fn to_toml(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Bytes(_) | Value::Text(_) | Value::Word(_) => toml_string(&self.to_string()),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|item| toml_string(item)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

/// A TOML basic string.
fn toml_string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    let number: u64 = digits.trim().parse().ok()?;
    number.checked_mul(1 << shift)
}

/// Bytes in the largest unit of 1024 that divides them exactly: `2GiB`, `1536MiB`, `100`.
pub fn format_size(bytes: u64) -> String {
    for (unit, shift) in UNITS {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Kind = Kind::Size {
        min: 1 << 20,
        max: 1 << 40,
        word: Some("auto"),
    };

    #[test]
    fn sizes_with_and_without_unit() {
        assert_eq!(SIZE.parse("2GiB"), Ok(Value::Bytes(2 << 30)));
        assert_eq!(SIZE.parse("1536 MiB"), Ok(Value::Bytes(1536 << 20)));
        assert_eq!(SIZE.parse("1048576"), Ok(Value::Bytes(1 << 20)));
        assert_eq!(SIZE.parse("auto"), Ok(Value::Word("auto")));
        for bad in [
            "",
            "GiB",
            "2GB",
            "-1",
            "1.5GiB",
            "1048575",
            "2TiB",
            "99999999TiB",
        ] {
            assert!(SIZE.parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn integers_at_and_beyond_their_bounds() {
        let kind = Kind::Int {
            min: 1,
            max: 64,
            word: Some("auto"),
        };
        assert_eq!(kind.parse("1"), Ok(Value::Int(1)));
        assert_eq!(kind.parse("64"), Ok(Value::Int(64)));
        assert_eq!(kind.parse("auto"), Ok(Value::Word("auto")));
        for bad in ["0", "65", "-1", "1.0", "one", "", "off"] {
            let message = kind.parse(bad).unwrap_err();
            assert_eq!(message, "an integer from 1 to 64, or \"auto\"");
        }
    }

    #[test]
    fn printed_values_read_back() {
        let cases = [
            (Kind::Bool, Value::Bool(true)),
            (SIZE, Value::Bytes(3 << 20)),
            (SIZE, Value::Bytes((3 << 20) + 1)),
            (Kind::Text { word: None }, Value::Text("a b".into())),
            (Kind::Choice(&["x", "y"]), Value::Word("y")),
            (Kind::List, Value::List(vec!["a".into(), "b".into()])),
            (Kind::List, Value::List(vec![])),
        ];
        for (kind, value) in cases {
            assert_eq!(kind.parse(&value.to_string()), Ok(value));
        }
    }

    #[test]
    fn toml_strings_are_escaped() {
        assert_eq!(
            Value::Text("a\"b\\c\n".into()).to_toml(),
            r#""a\"b\\c\u000A""#
        );
    }
}
