//! What speculation brings: the scheduler over the engine, without HTTP, each prompt with and without drafts in turns.
//!
//! `cargo run --release -p gossamer-engine --example speculation -- PROMPTS [DIR|tiny] [THREADS] [BATCH,BATCH,...] [MAX_TOKENS] [ROUNDS]`
//!
//! PROMPTS has a kind of prompt, a tab and the prompt's tokens as a JSON array on each line; what `POST /tokenize` says of
//! a chat is such an array. A batch takes the prompts of a kind in turns, greedy, to the model's own end. All prompts are in
//! the prefix cache before anything is measured, so what is measured is decoding. Medians of ROUNDS alternating rounds,
//! and of the ratios of neighbours.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use gossamer_engine::{
    DeviceChoice, Engine, EngineConfig, EngineExecutor, KvCacheSize, KvDtype, ModelSource,
    WeightFormat,
};
use gossamer_scheduler::{
    Executor, NewRequest, RequestId, SamplingParams, Scheduler, SchedulerConfig, Speculation,
    StopConditions, TokenEvent, TokenId,
};

type Error = Box<dyn std::error::Error>;
type Prompts = BTreeMap<String, Vec<Vec<TokenId>>>;

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("speculation: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<String>) -> Result<(), Error> {
    let arg =
        |index: usize, default: &str| args.get(index).map_or(default, String::as_str).to_owned();
    let prompts = read(&std::fs::read_to_string(arg(0, "prompts.tsv"))?)?;
    let source = match arg(1, "tiny").as_str() {
        "tiny" => ModelSource::Tiny,
        folder => ModelSource::Folder(folder.into()),
    };
    let batches: Result<Vec<usize>, _> = arg(3, "1,16").split(',').map(str::parse).collect();
    let (max_tokens, rounds) = (arg(4, "128").parse()?, arg(5, "5").parse()?);
    let engine = EngineConfig {
        device: DeviceChoice::Cpu,
        threads: arg(2, "0").parse()?,
        block_size: 16,
        kv_cache: KvCacheSize::Blocks(8192),
        kv_cache_dtype: KvDtype::Bf16,
        window_groups: true,
        max_model_len: None,
        weights: WeightFormat::Int8,
        kernels: None,
        repack_cache: None,
    };
    let engine = Engine::load(&source, &engine)?;
    println!("{:?}", engine.info());
    let config = SchedulerConfig {
        max_num_batched_tokens: 512,
        max_num_seqs: 64,
        max_waiting: 256,
        enable_prefix_caching: true,
        speculation: Speculation::Auto,
        queue_timeout: None,
    };
    let mut bench = Bench {
        scheduler: Scheduler::new(&config, &engine.capacity()),
        engine,
        max_tokens,
        next_id: 0,
    };
    for batch in batches? {
        for (kind, prompts) in &prompts {
            bench.compare(kind, prompts, batch, rounds)?;
        }
    }
    Ok(())
}

fn read(text: &str) -> Result<Prompts, Error> {
    let mut prompts = Prompts::new();
    for line in text.lines() {
        let (kind, tokens) = line.split_once('\t').ok_or("a line without a tab")?;
        let tokens = serde_json::from_str(tokens)?;
        prompts.entry(kind.to_owned()).or_default().push(tokens);
    }
    Ok(prompts)
}

struct Bench {
    scheduler: Scheduler,
    engine: EngineExecutor,
    max_tokens: usize,
    next_id: u64,
}

/// One batch, from its first step to its last.
#[derive(Default)]
struct Measured {
    seconds: f64,
    steps: usize,
    tokens: usize,
    drafted: u64,
    accepted: u64,
    texts: BTreeMap<u64, Vec<TokenId>>,
}

impl Bench {
    fn compare(
        &mut self,
        kind: &str,
        prompts: &[Vec<TokenId>],
        batch: usize,
        rounds: usize,
    ) -> Result<(), Error> {
        self.measure(prompts, batch, Speculation::Off)?;
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            off.push(self.measure(prompts, batch, Speculation::Off)?);
            on.push(self.measure(prompts, batch, Speculation::Auto)?);
        }
        for (off, on) in off.iter().zip(&on) {
            if off.texts != on.texts {
                return Err("the texts differ".into());
            }
        }
        let rate = |run: &Measured| run.tokens as f64 / run.seconds;
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let ratio = median(
            on.iter()
                .zip(&off)
                .map(|(on, off)| rate(on) / rate(off))
                .collect(),
        );
        let sum = |of: fn(&Measured) -> f64, runs: &[Measured]| runs.iter().map(of).sum::<f64>();
        let [without, with] = [&off, &on].map(|runs| median(runs.iter().map(rate).collect()));
        let drafted = sum(|run| run.drafted as f64, &on);
        println!(
            "{batch:2} x {kind:10} {:5} tokens: {without:8.1} -> {with:8.1} tokens/s ({ratio:.2} times), {:.2} tokens per step and sequence, \
             {:.0} of {drafted:.0} drafts accepted ({:.0}%)",
            off[0].tokens,
            sum(|run| run.tokens as f64, &on) / sum(|run| run.steps as f64, &on),
            sum(|run| run.accepted as f64, &on),
            100.0 * sum(|run| run.accepted as f64, &on) / drafted.max(1.0),
        );
        Ok(())
    }

    fn measure(
        &mut self,
        prompts: &[Vec<TokenId>],
        batch: usize,
        speculation: Speculation,
    ) -> Result<Measured, Error> {
        let first_id = self.next_id;
        for prompt in prompts.iter().cycle().take(batch) {
            let request = NewRequest {
                prompt: prompt.clone(),
                n: 1,
                sampling: Arc::new(SamplingParams::greedy()),
                stop: StopConditions {
                    stop_token_ids: self.engine.info().stop_token_ids.clone().into(),
                    max_tokens: self.max_tokens,
                    min_tokens: 0,
                },
                cache_salt: 0,
                priority: 0,
                handover: None,
                prompt_logprobs: None,
                constraint: None,
                speculation,
            };
            self.scheduler.submit(RequestId(self.next_id), request)?;
            self.next_id += 1;
        }
        let before = self.scheduler.draft_counts();
        let mut measured = Measured::default();
        let start = Instant::now();
        while let Some(plan) = self.scheduler.next_plan() {
            let step = Instant::now();
            let output = self.engine.execute(&plan)?;
            let took = step.elapsed();
            self.scheduler.commit(output)?;
            self.scheduler.observe_step(plan.num_tokens(), took);
            measured.steps += plan.sample_specs().count();
            for (id, event) in self.scheduler.take_events() {
                if let TokenEvent::Token { token, .. } = event {
                    measured.tokens += 1;
                    measured
                        .texts
                        .entry(id.0 - first_id)
                        .or_default()
                        .push(token);
                }
            }
        }
        measured.seconds = start.elapsed().as_secs_f64();
        let drafts = self.scheduler.draft_counts();
        measured.drafted = drafts.drafted - before.drafted;
        measured.accepted = drafts.accepted - before.accepted;
        Ok(measured)
    }
}
