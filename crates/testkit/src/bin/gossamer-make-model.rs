//! Writes a GPT-OSS folder of random weights: the published layout and shape without the download.

use std::path::PathBuf;
use std::process::ExitCode;

use gossamer_testkit::random_model::RandomModel;

const USAGE: &str = "usage: gossamer-make-model [--shape 20b|small] [--layers N] [--vocab N] [--seed N] [--shard-mb N] DIR

Writes config.json, generation_config.json and random weights to DIR, as a published GPT-OSS folder.
The default is the shape of GPT-OSS-20B: 24 layers, a vocabulary of 201088, 13.8 GB in files of 4800 MB.";

fn main() -> ExitCode {
    let (model, dir, shard_bytes) = match parse(std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = model.write(&dir, shard_bytes) {
        eprintln!("cannot write {}: {error}", dir.display());
        return ExitCode::FAILURE;
    }
    println!(
        "wrote {} layers of random weights to {}",
        model.num_layers,
        dir.display()
    );
    ExitCode::SUCCESS
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<(RandomModel, PathBuf, u64), String> {
    let (mut shape, mut dir) = ("20b".to_owned(), None);
    let (mut layers, mut vocab, mut seed, mut shard_mb) = (None, None, 1, 4800);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|_| format!("{text} is not a whole number"))
        };
        match arg.as_str() {
            "--shape" => shape = value()?,
            "--layers" => layers = Some(number(value()?)? as usize),
            "--vocab" => vocab = Some(number(value()?)? as usize),
            "--seed" => seed = number(value()?)?,
            "--shard-mb" => shard_mb = number(value()?)?,
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            _ if dir.is_some() => return Err(format!("unexpected argument {arg}")),
            _ => dir = Some(PathBuf::from(arg)),
        }
    }
    let mut model = match shape.as_str() {
        "20b" => RandomModel::gpt_oss_20b(24, 201_088, seed),
        "small" => RandomModel::small(seed),
        other => return Err(format!("unknown shape {other}")),
    };
    model.num_layers = layers.unwrap_or(model.num_layers);
    model.vocab_size = vocab.unwrap_or(model.vocab_size);
    if model.num_layers == 0 || model.vocab_size == 0 {
        return Err("--layers and --vocab must be at least 1".to_owned());
    }
    let dir = dir.ok_or("DIR is missing")?;
    Ok((model, dir, shard_mb * 1_000_000))
}
