//! Speed of the executor alone, without HTTP and scheduler: decode steps at several batch sizes, prefill at several lengths.
//!
//! `cargo run --release -p gossamer-engine --example speed -- [DIR|tiny] [THREADS] [TEMPERATURE] [BATCH,BATCH,...] [int8|bf16] [OPTIONS]`
//!
//! Every sequence continues the same prompt, whose blocks they share, and is fed random tokens: what a random model would
//! say itself runs in circles, and a circle touches few experts. Every step samples, as a server's would.
//! `make bench-peers` reads the lines that `--json` prints; their fields are the ones of `Line`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossamer_engine::{
    DeviceChoice, Engine, EngineConfig, EngineExecutor, KvCacheSize, KvDtype, ModelSource,
    WeightFormat,
};
use gossamer_scheduler::{
    BatchPlan, BlockId, ExecuteError, Executor, SampleSpec, SamplingParams, SeqId, SeqSlice,
};

const USAGE: &str =
    "usage: speed [DIR|tiny] [THREADS] [TEMPERATURE] [BATCH,BATCH,...] [int8|bf16] [OPTIONS]

THREADS 0 takes every core; BATCH 0 measures no decode. OPTIONS:
  --context N        tokens of the prompt before decoding, a multiple of 16 [256]
  --steps N          decode steps; without it as many as take two seconds, 8 to 240
  --prefill N,N,...  measure prompts of these lengths, each computed in chunks
  --chunk N          tokens per step of prefill [512]
  --kv-cache-dtype T bf16 or int8 [bf16]
  --device NAME      auto, cpu, metal or cuda [cpu]
  --repack-cache DIR keep repacked weights there, or take them from there
  --json             one JSON object per line, the first for the load";

const BLOCK_SIZE: usize = 16;
const DEVICES: [DeviceChoice; 4] = [
    DeviceChoice::Auto,
    DeviceChoice::Cpu,
    DeviceChoice::Metal,
    DeviceChoice::Cuda,
];
const MAX_STEPS: usize = 240;

struct Args {
    source: ModelSource,
    device: DeviceChoice,
    threads: usize,
    temperature: f32,
    batches: Vec<usize>,
    weights: WeightFormat,
    context: usize,
    steps: Option<usize>,
    prefill: Vec<usize>,
    chunk: usize,
    kv_cache_dtype: KvDtype,
    repack_cache: Option<PathBuf>,
    json: bool,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("speed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("{text} is not a number"))
    }
    fn list(text: &str) -> Result<Vec<usize>, String> {
        text.split(',').map(number).collect()
    }
    let mut parsed = Args {
        source: ModelSource::Tiny,
        device: DeviceChoice::Cpu,
        threads: 0,
        temperature: 0.0,
        batches: vec![1, 4, 16, 64],
        weights: WeightFormat::Int8,
        context: 256,
        steps: None,
        prefill: Vec::new(),
        chunk: 512,
        kv_cache_dtype: KvDtype::Bf16,
        repack_cache: None,
        json: false,
    };
    let mut position = 0;
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--context" => parsed.context = number(&value()?)?,
            "--steps" => parsed.steps = Some(number(&value()?)?),
            "--prefill" => parsed.prefill = list(&value()?)?,
            "--chunk" => parsed.chunk = number(&value()?)?,
            "--kv-cache-dtype" => {
                parsed.kv_cache_dtype = match value()?.as_str() {
                    "bf16" => KvDtype::Bf16,
                    "int8" => KvDtype::Int8,
                    other => return Err(format!("{other} is neither bf16 nor int8")),
                }
            }
            "--device" => {
                let name = value()?;
                let mut choices = DEVICES.into_iter();
                let found = choices.find(|device| device.name() == name);
                parsed.device = found.ok_or(format!("no device is called {name}"))?;
            }
            "--repack-cache" => parsed.repack_cache = Some(value()?.into()),
            "--json" => parsed.json = true,
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            text => {
                match position {
                    0 if text == "tiny" => {}
                    0 => parsed.source = ModelSource::Folder(PathBuf::from(text)),
                    1 => parsed.threads = number(text)?,
                    2 => parsed.temperature = number(text)?,
                    3 => parsed.batches = list(text)?,
                    4 if text == "int8" => parsed.weights = WeightFormat::Int8,
                    4 if text == "bf16" => parsed.weights = WeightFormat::Bf16,
                    _ => return Err(format!("unexpected argument {text}")),
                }
                position += 1;
            }
        }
    }
    parsed.batches.retain(|&batch| batch > 0);
    if parsed.context == 0 || !parsed.context.is_multiple_of(BLOCK_SIZE) {
        return Err(format!("--context must be a multiple of {BLOCK_SIZE}"));
    }
    if parsed.chunk == 0 || parsed.steps == Some(0) || parsed.prefill.contains(&0) {
        return Err("--chunk, --steps and --prefill must be at least 1".to_owned());
    }
    Ok(parsed)
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let own_blocks = args.steps.unwrap_or(MAX_STEPS).div_ceil(BLOCK_SIZE);
    let most = args.batches.iter().max().map_or(0, |&batch| batch);
    let longest = args.prefill.iter().max().map_or(0, |&len| len);
    let blocks = (args.context / BLOCK_SIZE + most * own_blocks).max(longest.div_ceil(BLOCK_SIZE));
    let config = EngineConfig {
        device: args.device,
        threads: args.threads,
        block_size: BLOCK_SIZE,
        kv_cache: KvCacheSize::Blocks(blocks),
        kv_cache_dtype: args.kv_cache_dtype,
        window_groups: false,
        max_model_len: None,
        weights: args.weights,
        kernels: None,
        repack_cache: args.repack_cache.clone(),
    };
    let start = Instant::now();
    let engine = Engine::load(&args.source, &config)?;
    let load = start.elapsed().as_secs_f64();
    if args.json {
        println!("{{\"kind\": \"load\", \"seconds\": {load:.3}}}");
    } else {
        println!("{:?}\nloaded in {load:.2} s", engine.info());
    }
    let mut bench = Bench {
        random: Random(1),
        vocab: engine.info().vocab_size as u64,
        engine,
        params: Arc::new(SamplingParams {
            temperature: args.temperature,
            ..SamplingParams::greedy()
        }),
        args,
        own_blocks,
    };
    // The first step of a process pays for pages and threads.
    bench.prefill(args.context)?;
    for &batch in &args.batches {
        bench.decode(batch)?.print(args.json);
    }
    for &len in &args.prefill {
        let seconds = bench.prefill(len)?.as_secs_f64();
        let line = Line {
            kind: "prefill",
            sequences: 1,
            context: len,
            steps: len.div_ceil(args.chunk),
            tokens: len,
            seconds,
        };
        line.print(args.json);
    }
    Ok(())
}

/// One measurement.
struct Line {
    kind: &'static str,
    sequences: usize,
    /// Tokens before the first decode, or of the prompt.
    context: usize,
    steps: usize,
    tokens: usize,
    seconds: f64,
}

impl Line {
    fn print(&self, json: bool) {
        let Self {
            kind,
            sequences,
            context,
            steps,
            tokens,
            seconds,
        } = self;
        let rate = *tokens as f64 / seconds;
        if json {
            println!(
                "{{\"kind\": \"{kind}\", \"sequences\": {sequences}, \"context\": {context}, \"steps\": {steps}, \
                 \"tokens\": {tokens}, \"seconds\": {seconds:.6}, \"tokens_per_s\": {rate:.3}}}"
            );
        } else {
            let each = seconds * 1e3 / *steps as f64;
            println!(
                "{kind:7} {sequences:2} x {context:5} tokens: {each:8.2} ms/step, {rate:8.1} tokens/s"
            );
        }
    }
}

struct Bench<'a> {
    engine: EngineExecutor,
    args: &'a Args,
    params: Arc<SamplingParams>,
    random: Random,
    vocab: u64,
    /// Blocks of each sequence behind the shared ones.
    own_blocks: usize,
}

impl Bench<'_> {
    /// Computes a prompt as the first sequence.
    fn prefill(&mut self, len: usize) -> Result<Duration, ExecuteError> {
        let table: Vec<BlockId> = (0..len.div_ceil(BLOCK_SIZE) as u32).map(BlockId).collect();
        let start = Instant::now();
        let mut computed = 0;
        while computed < len {
            let chunk = self.args.chunk.min(len - computed);
            let mut plan = BatchPlan::default();
            let last = computed + chunk == len;
            self.add(&mut plan, 0, computed, chunk, table.clone(), last);
            self.engine.execute(&plan)?;
            computed += chunk;
        }
        Ok(start.elapsed())
    }

    /// Decode steps of `batch` sequences behind one shared prompt.
    fn decode(&mut self, batch: usize) -> Result<Line, ExecuteError> {
        let context = self.args.context;
        let shared = context / BLOCK_SIZE;
        self.prefill(context)?;
        let start = Instant::now();
        let mut steps = 0;
        while match self.args.steps {
            Some(wanted) => steps < wanted,
            None => (steps < 8 || start.elapsed().as_secs_f64() < 2.0) && steps < MAX_STEPS,
        } {
            let mut plan = BatchPlan::default();
            for sequence in 0..batch {
                let own = shared + sequence * self.own_blocks;
                let blocks = (0..shared).chain(own..own + self.own_blocks);
                let table = blocks.map(|block| BlockId(block as u32)).collect();
                self.add(&mut plan, sequence, context + steps, 1, table, true);
            }
            self.engine.execute(&plan)?;
            steps += 1;
        }
        Ok(Line {
            kind: "decode",
            sequences: batch,
            context,
            steps,
            tokens: batch * steps,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Adds `len` random tokens of a sequence after `computed` earlier ones.
    fn add(
        &mut self,
        plan: &mut BatchPlan,
        sequence: usize,
        computed: usize,
        len: usize,
        table: Vec<BlockId>,
        sample: bool,
    ) {
        let sample = sample.then(|| SampleSpec {
            seq: SeqId(sequence as u64),
            choice: 0,
            output_len: computed,
            params: Arc::clone(&self.params),
            banned: None,
            history: None,
            constraint: None,
        });
        plan.slices.push(SeqSlice {
            seq: SeqId(sequence as u64),
            query_start: plan.tokens.len(),
            query_len: len,
            context_len: computed + len,
            num_drafts: 0,
            block_tables: vec![table],
            samples: sample.into_iter().collect(),
            scores: None,
        });
        for _ in 0..len {
            let token = self.random.next() % self.vocab;
            plan.tokens.push(token as u32);
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
