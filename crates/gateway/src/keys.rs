//! `gossamer keys create|list|revoke`: the key file from the command line.
//!
//! Knows how keys are asked for and shown; what a key is and how the file is written is the HTTP layer's.
//! Invariant: a key goes to standard output once, when it is made, and nowhere else.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use gossamer_api::auth::{
    KeyFileError, KeyRecord, KeyState, Limits, NewKey, Scopes, create_key, list_keys, revoke_key,
};
use gossamer_api::unix_seconds;

use crate::{EXIT_USAGE, gather, print};

/// What a key may do if nobody says otherwise: all that clients do. Metrics are for those who watch them.
const DEFAULT_SCOPES: &str = "inference,models,status,docs";

/// The verb; `common` are the arguments that say where the file is.
pub fn command(common: [Arg; 2]) -> Command {
    let arg = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let own_limit = |name: &'static str, help: &'static str| {
        arg(name, "N", help).value_parser(clap::value_parser!(u64).range(1..=Limits::MAX_RATE))
    };
    Command::new("keys")
        .about("Make, list and revoke API keys")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("create")
                .about("Make a key and print it: this is the only time that it is shown")
                .arg(arg("name", "NAME", "What the key is for").required(true))
                .arg(
                    arg(
                        "scopes",
                        "LIST",
                        "What it may do: inference, models, status, metrics, docs",
                    )
                    .default_value(DEFAULT_SCOPES),
                )
                .arg(
                    arg(
                        "expires-in",
                        "TIME",
                        "How long it is accepted, as 90d, 12h, 30m or 45s [default: for ever]",
                    )
                    .value_parser(lifetime),
                )
                .arg(own_limit(
                    "requests-per-minute",
                    "Its own limit, instead of limits.requests_per_minute",
                ))
                .arg(own_limit(
                    "tokens-per-minute",
                    "Its own limit, instead of limits.tokens_per_minute",
                ))
                .arg(own_limit(
                    "concurrent-requests",
                    "Its own limit, instead of limits.concurrent_requests",
                ))
                .args(common.clone()),
        )
        .subcommand(
            Command::new("list")
                .about("List every key, without its secret, which nobody has but its owner")
                .args(common.clone()),
        )
        .subcommand(
            Command::new("revoke")
                .about("Refuse a key from now on; a running server notices at once")
                .arg(
                    Arg::new("id")
                        .value_name("ID")
                        .required(true)
                        .help("The key's id, from the list"),
                )
                .args(common),
        )
}

/// Does what was asked for.
pub fn run(matches: &ArgMatches) -> ExitCode {
    // clap lets nothing through without a verb.
    let Some((verb, matches)) = matches.subcommand() else {
        return ExitCode::from(EXIT_USAGE);
    };
    let config = match gather(matches) {
        Ok((_, config)) => config,
        Err(code) => return code,
    };
    let Some(path) = config.auth.config.key_file else {
        eprintln!(
            "gossamer: which key file? Give --key-file FILE, or set auth.key_file or GOSSAMER_KEY_FILE"
        );
        return ExitCode::from(EXIT_USAGE);
    };
    let result = match verb {
        "create" => create(matches, path),
        "list" => list(path),
        _ => revoke(matches, path),
    };
    result.unwrap_or_else(|error| {
        eprintln!("gossamer: {error}");
        match error {
            KeyFileError::Name | KeyFileError::UnknownId { .. } => ExitCode::from(EXIT_USAGE),
            _ => ExitCode::FAILURE,
        }
    })
}

fn create(matches: &ArgMatches, path: PathBuf) -> Result<ExitCode, KeyFileError> {
    let text = |name| matches.get_one::<String>(name).map_or("", String::as_str);
    let names = text("scopes").split(',').map(str::trim);
    let scopes = match Scopes::parse(names.filter(|name| !name.is_empty())) {
        Ok(scopes) if scopes != Scopes::NONE => scopes,
        Ok(_) => {
            eprintln!(
                "gossamer: --scopes names no scope; the scopes are {}",
                Scopes::ALL
            );
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        Err(error) => {
            eprintln!("gossamer: --scopes: {error}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let limit = |name| matches.get_one::<u64>(name).copied();
    let new = NewKey {
        name: text("name").to_owned(),
        scopes,
        lifetime: matches.get_one::<Duration>("expires-in").copied(),
        limits: Limits {
            requests_per_minute: limit("requests-per-minute"),
            tokens_per_minute: limit("tokens-per-minute"),
            concurrent_requests: limit("concurrent-requests"),
        },
    };
    let (secret, record) = create_key(&path, new, unix_seconds())?;
    eprintln!(
        "key {} \"{}\" may: {}; it {}. Keep it: it is not shown again.",
        record.id,
        record.name,
        record.scopes,
        record
            .expires
            .map_or("never expires".to_owned(), |at| format!(
                "expires {}",
                utc(at)
            ))
    );
    // Alone on standard output, for KEY=$(gossamer keys create ...).
    Ok(print(&format!("{}\n", secret.reveal())))
}

fn list(path: PathBuf) -> Result<ExitCode, KeyFileError> {
    let now = unix_seconds();
    let head = [
        "id",
        "name",
        "state",
        "created",
        "expires",
        "scopes",
        "own limits",
    ];
    let rows: Vec<[String; 7]> = (list_keys(&path)?.iter())
        .map(|key| {
            [
                key.id.clone(),
                key.name.clone(),
                match key.state(now) {
                    KeyState::Valid => "valid",
                    KeyState::Expired => "expired",
                    KeyState::Revoked => "revoked",
                }
                .to_owned(),
                utc(key.created),
                key.expires.map_or("never".to_owned(), utc),
                key.scopes.to_string(),
                own_limits(key),
            ]
        })
        .collect();
    let rows = std::iter::once(head.map(str::to_owned)).chain(rows);
    Ok(print(&table(rows.collect())))
}

fn revoke(matches: &ArgMatches, path: PathBuf) -> Result<ExitCode, KeyFileError> {
    let id = matches.get_one::<String>("id").map_or("", String::as_str);
    let key = revoke_key(&path, id, unix_seconds())?;
    let at = key.revoked.map_or_else(String::new, utc);
    eprintln!("key {} \"{}\" is revoked since {at}", key.id, key.name);
    Ok(ExitCode::SUCCESS)
}

fn own_limits(key: &KeyRecord) -> String {
    let limits = [
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (key.concurrent_requests, "at a time"),
    ];
    let parts: Vec<String> = (limits.iter())
        .filter_map(|(limit, what)| limit.map(|limit| format!("{limit} {what}")))
        .collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Columns, two spaces apart.
fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| {
        let lengths = rows.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `90d`, `12h`, `30m`, `45s`.
fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number with d, h, m or s, at least 1s and at most 36500d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = (text[..text.len() - 1].parse()).map_err(|_| wrong())?;
    let total = number.checked_mul(seconds).ok_or_else(wrong)?;
    if !(1..=36_500 * 86_400).contains(&total) {
        return Err(wrong());
    }
    Ok(Duration::from_secs(total))
}

/// `2026-11-22 09:30 UTC`.
fn utc(seconds: i64) -> String {
    let (date, minutes) = (
        gossamer_api::civil_date(seconds.div_euclid(86_400)),
        seconds.rem_euclid(86_400) / 60,
    );
    format!("{date} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        for (text, seconds) in [
            ("1s", 1),
            ("30m", 1800),
            ("12h", 43_200),
            ("90d", 7_776_000),
        ] {
            assert_eq!(lifetime(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in [
            "",
            "d",
            "0s",
            "1",
            "-1d",
            "1w",
            "1.5h",
            "36501d",
            "99999999999999999999d",
            "1é",
        ] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_for_people() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(1_795_339_859), "2026-11-22 09:30 UTC");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![["id".to_owned(), "name".into()], ["ü".into(), "b".into()]];
        assert_eq!(table(rows), "id  name\nü   b\n");
    }
}
