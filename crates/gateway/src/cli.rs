//! The command line: five verbs, and one flag for every configuration key.
//!
//! Knows how things are typed, not what they mean.
//! Invariant: flags come from the table of keys, so a key without a flag cannot exist.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{Config, ConfigError, Environment, KEYS, Key, Kind, RawConfig};
use crate::hub::HubModel;

/// The flag of the key file, which `gossamer keys` takes too.
const KEY_FILE_FLAG: &str = "key-file";

/// The whole command line.
pub fn command() -> Command {
    let flags = || KEYS.iter().map(flag).chain([config_file()]);
    Command::new("gossamer")
        .version(env!("CARGO_PKG_VERSION"))
        .about("An OpenAI-compatible server for GPT-OSS")
        .after_help("Start with: gossamer serve")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("serve")
                .about("Load a model and serve it over HTTP")
                .args(flags()),
        )
        .subcommand(
            Command::new("pull")
                .about("Download a model from the Hugging Face hub, and print where it lies")
                .arg(
                    Arg::new("model")
                        .value_name("OWNER/NAME[@REVISION]")
                        .help("The repository, as openai/gpt-oss-20b")
                        .required(true)
                        .value_parser(|text: &str| {
                            HubModel::parse(text).ok_or("must be OWNER/NAME or OWNER/NAME@REVISION")
                        }),
                ),
        )
        .subcommand(
            Command::new("config")
                .about("Print every configuration value and where it came from")
                .args(flags())
                .arg(
                    Arg::new("toml")
                        .long("toml")
                        .help("Print a commented configuration file instead")
                        .action(ArgAction::SetTrue),
                ),
        )
        .subcommand(crate::keys::command([config_file(), key_file()]))
        .subcommand(Command::new("openapi").about("Print the OpenAPI document"))
}

fn flag(key: &'static Key) -> Arg {
    let (short, _) = key
        .help
        .split_once(". ")
        .unwrap_or((key.help.trim_end_matches('.'), ""));
    let default = if key.default.is_empty() {
        "empty"
    } else {
        key.default
    };
    let arg = Arg::new(key.flag)
        .long(key.flag)
        .value_name(key.kind.placeholder());
    // `--insecure` alone is `--insecure true`. Other values may begin with a hyphen, so they cannot be left out.
    let arg = match key.kind {
        Kind::Bool => arg.num_args(0..=1).default_missing_value("true"),
        _ => arg.allow_hyphen_values(true),
    };
    arg.help(format!("{short} [default: {default}]"))
        .long_help(format!(
            "{}\n[default: {default}] [env: {}]",
            key.help,
            key.env()
        ))
        .help_heading(key.section)
}

/// The one key that `gossamer keys` needs.
fn key_file() -> Arg {
    let key = KEYS.iter().find(|key| key.flag == KEY_FILE_FLAG);
    flag(key.expect("the table has the key file"))
}

fn config_file() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Configuration file (TOML) [env: GOSSAMER_CONFIG]")
}

/// Gathers the configuration of a `serve`, `config` or `keys` call.
///
/// # Errors
/// Anything wrong in the file, the environment or the flags.
pub fn gather(
    matches: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(RawConfig, Config), ConfigError> {
    let mut raw = RawConfig::defaults();
    let file = matches
        .get_one::<String>("config")
        .cloned()
        .or_else(|| environment("GOSSAMER_CONFIG"))
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    if let Some(file) = file.as_deref().map(Path::new) {
        raw.read_file(file)?;
    }
    raw.read_env(variables)?;
    for key in KEYS {
        // `gossamer keys` has only some of the flags.
        let given = matches.try_get_one::<String>(key.flag);
        if let Some(text) = given.ok().flatten() {
            raw.set_flag(key.flag, text)?;
        }
    }
    let environment = Environment::parse(environment("GOSSAMER_ENV").as_deref())?;
    let config = Config::resolve(&raw, environment)?;
    Ok((raw, config))
}

/// What `gossamer config` prints: one line per key, with its value as in a file and its origin.
pub fn render_config(raw: &RawConfig, config: &Config) -> String {
    let rows: Vec<[String; 3]> = raw
        .iter()
        .map(|(key, setting)| {
            [
                key.path(),
                setting.value.to_toml(),
                setting.origin.to_string(),
            ]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut out = format!("environment: {}\n", config.environment.name());
    for [key, value, origin] in &rows {
        out.push_str(&format!("{key:first$} = {value:second$}  # {origin}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn a_flag_reaches_the_configuration() {
        let matches = command()
            .try_get_matches_from(["gossamer", "serve", "--port", "81", "--max-num-seqs=7"])
            .unwrap();
        let (_, matches) = matches.subcommand().unwrap();
        let (raw, config) = gather(matches, |_| None, []).unwrap();
        assert_eq!((config.server.port, config.scheduler.max_num_seqs), (81, 7));
        let printed = render_config(&raw, &config);
        assert!(printed.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words == ["server.port", "=", "81", "#", "flag", "--port"]
        }));
        assert_eq!(printed.lines().count(), 1 + KEYS.len());
    }
}
