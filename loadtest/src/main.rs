//! `gossamer-loadtest`: runs scenarios, or a storm of hostile requests, against a server, and fails when a threshold is
//! missed, an answer is wrong or something leaks.
//!
//! Knows the server only by its HTTP interface; works on any OpenAI-compatible one (the leak check needs Gossamer's metrics).
//! Invariant: exit code 0 means that every scenario kept its thresholds, and that a storm did no harm.

mod client;
mod hostile;
mod report;
mod run;
mod scenario;

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, Command};

use client::Target;
use hostile::Storm;
use report::Report;
use scenario::Scenario;

fn command() -> Command {
    Command::new("gossamer-loadtest")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run load scenarios against an OpenAI-compatible server")
        .arg(Arg::new("url").long("url").required(true).help("http://HOST:PORT"))
        .arg(Arg::new("model").long("model").help("Model name [default: the first that the server lists]"))
        .arg(Arg::new("json").long("json").value_name("FILE").help("Write the reports to this file"))
        .arg(
            Arg::new("min-ratio")
                .long("min-ratio")
                .value_name("X")
                .value_parser(clap::value_parser!(f64))
                .help("Fail unless the last scenario makes at least X times the tokens per second of the first, by medians over the rounds"),
        )
        .arg(number("rounds", "N", "Run the scenarios N times in turns [default: 1]"))
        .arg(number("hostile", "N", "Send N hostile requests, after a warm-up of as many, at most 2500"))
        .arg(number("seed", "N", "With --hostile: decides every byte that is sent [default: 1]"))
        .arg(number("concurrency", "N", "With --hostile: connections at the same time [default: 32]"))
        .arg(number("max-growth-mib", "N", "With --hostile: most growth of the server's memory [default: 24]"))
        .arg(
            Arg::new("scenarios")
                .value_name("SCENARIO")
                .num_args(1..)
                .required_unless_present("hostile")
                .help("Scenario files, run one after the other"),
        )
}

fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .value_parser(clap::value_parser!(u64))
        .help(help)
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    // One thread: the load generator should not take the cores that the server computes on.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run_all(&matches)),
        Err(error) => Err(format!("cannot start the runtime: {error}")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("gossamer-loadtest: {message}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything stayed within its limits.
async fn run_all(matches: &clap::ArgMatches) -> Result<bool, String> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let files: Vec<String> = matches
        .get_many("scenarios")
        .unwrap_or_default()
        .cloned()
        .collect();
    let scenarios: Vec<Scenario> = files
        .iter()
        .map(|file| Scenario::read(Path::new(file)))
        .collect::<Result<_, _>>()?;
    let target = Target::parse(&text("url").unwrap_or_default())?;
    let model = match text("model") {
        Some(model) => model,
        None => first_model(&target).await?,
    };

    if let Some(requests) = matches.get_one::<u64>("hostile") {
        let or = |name: &str, default| *matches.get_one::<u64>(name).unwrap_or(&default);
        let storm = Storm {
            requests: *requests,
            warm_up: (*requests).min(2500),
            concurrency: or("concurrency", 32).max(1) as usize,
            seed: or("seed", 1),
            max_growth: Some(or("max-growth-mib", 24) as f64 * f64::from(1 << 20)),
        };
        let verdict = hostile::run(&storm, &target, &model).await;
        println!("hostile: {}", verdict.summary());
        for failure in &verdict.failures {
            println!("hostile: FAILED: {failure}");
        }
        if let Some(path) = text("json") {
            write_json(&path, &verdict)?;
        }
        return Ok(verdict.failures.is_empty());
    }

    let mut reports = Vec::new();
    let rounds = *matches.get_one::<u64>("rounds").unwrap_or(&1) as usize;
    for scenario in (0..rounds).flat_map(|_| &scenarios) {
        eprintln!(
            "running {} ({} requests) ...",
            scenario.name, scenario.requests
        );
        let run = run::run(scenario, &target, &model).await;
        let held = run::settle(&target).await.unwrap_or_default();
        reports.push(Report::new(scenario, &run, held));
    }

    print!("{}", report::table(&reports));
    let mut good = true;
    for report in &reports {
        for (error, count) in &report.errors {
            println!("{}: {count} x {error}", report.scenario);
        }
        for failure in &report.failures {
            println!("{}: FAILED: {failure}", report.scenario);
            good = false;
        }
    }
    if let (Some(needed), [first, .., last]) =
        (matches.get_one::<f64>("min-ratio"), scenarios.as_slice())
    {
        let tokens_per_s = |scenario: &Scenario| {
            let same = reports
                .iter()
                .filter(|report| report.scenario == scenario.name);
            median(same.map(|report| report.tokens_per_s).collect())
        };
        let ratio = tokens_per_s(last) / tokens_per_s(first);
        println!(
            "{} makes {ratio:.2} times the tokens per second of {} (medians of {rounds})",
            last.name, first.name
        );
        if ratio.is_nan() || ratio < *needed {
            println!("FAILED: the ratio must be at least {needed}");
            good = false;
        }
    }
    if let Some(path) = text("json") {
        write_json(&path, &reports)?;
    }
    Ok(good)
}

/// The middle one, or the mean of the middle two; NaN of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len => (values[(len - 1) / 2] + values[len / 2]) / 2.0,
    }
}

fn write_json(path: &str, value: &impl serde::Serialize) -> Result<(), String> {
    let json = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    std::fs::write(path, json + "\n").map_err(|error| format!("cannot write {path}: {error}"))
}

async fn first_model(target: &Target) -> Result<String, String> {
    let list = target
        .get("/v1/models")
        .await
        .map_err(|error| format!("/v1/models: {error}"))?;
    let list: serde_json::Value = serde_json::from_str(&list).map_err(|error| error.to_string())?;
    let id = list["data"][0]["id"].as_str();
    id.map(str::to_owned)
        .ok_or_else(|| "the server lists no model".to_owned())
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert!(median(Vec::new()).is_nan());
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
