//! `gossamer`, the only binary: reads the configuration, wires the crates together, starts and stops them in order.
//!
//! Knows every crate and does no work of theirs.
//! Invariant: it exits 0 only after a clean stop, 2 on a mistake of the caller, 1 on anything else.

mod banner;
mod cli;
mod config;
mod health;
mod hub;
mod keys;
mod logging;
mod memory;
mod progress;
mod running;
mod serve;

use std::process::ExitCode;

/// A mistake in arguments, environment or file.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    match matches.subcommand() {
        Some(("serve", matches)) => serve(matches),
        Some(("pull", matches)) => pull(matches),
        Some(("config", matches)) => print_config(matches),
        Some(("keys", matches)) => keys::run(matches),
        // clap lets nothing else through.
        _ => print_openapi(),
    }
}

fn serve(matches: &clap::ArgMatches) -> ExitCode {
    let config = match gather(matches) {
        Ok((_, config)) => config,
        Err(code) => return code,
    };
    match serve::serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gossamer: {error}");
            if error.is_usage() {
                return ExitCode::from(EXIT_USAGE);
            }
            ExitCode::FAILURE
        }
    }
}

fn pull(matches: &clap::ArgMatches) -> ExitCode {
    // clap asks for it.
    let Some(model) = matches.get_one::<hub::HubModel>("model") else {
        return ExitCode::from(EXIT_USAGE);
    };
    logging::init(&config::Log::TO_A_PERSON);
    let hub = hub::Hub::new(|name| std::env::var(name).ok());
    match hub.pull(model, &mut progress::Progress::new("downloading")) {
        Ok(folder) => print(&format!("{}\n", folder.display())),
        Err(error) => {
            eprintln!("gossamer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_openapi() -> ExitCode {
    match gossamer_api::openapi().to_pretty_json() {
        Ok(document) => print(&(document + "\n")),
        Err(error) => {
            eprintln!("gossamer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_config(matches: &clap::ArgMatches) -> ExitCode {
    match gather(matches) {
        Ok((raw, _)) if matches.get_flag("toml") => print(&raw.to_toml()),
        Ok((raw, config)) => print(&cli::render_config(&raw, &config)),
        Err(code) => code,
    }
}

/// The configuration, or the exit code after its mistake was printed.
fn gather(matches: &clap::ArgMatches) -> Result<(config::RawConfig, config::Config), ExitCode> {
    // Names and values that are not UTF-8 cannot be ours.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    cli::gather(matches, |name| std::env::var(name).ok(), variables).map_err(|error| {
        eprintln!("gossamer: {error}");
        ExitCode::from(EXIT_USAGE)
    })
}

/// Prints to standard output; a reader that went away is no error.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
