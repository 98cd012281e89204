//! Speed of the executor alone: prefill, then decode steps at several batch sizes.
//!
//! `cargo run --release -p gossamer-engine --example speed -- [DIR|tiny] [THREADS] [TEMPERATURE] [BATCH,BATCH,...] [int8|bf16]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use gossamer_engine::{Engine, EngineConfig, KvCacheSize, ModelSource, WeightFormat};
use gossamer_scheduler::{
    BatchPlan, BlockId, Executor, SampleSpec, SamplingParams, SeqId, SeqSlice,
};

const PROMPT_LEN: usize = 256;
const BLOCK_SIZE: usize = 16;
const SEQUENCE_BLOCKS: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let source = match args.next().as_deref() {
        None | Some("tiny") => ModelSource::Tiny,
        Some(dir) => ModelSource::Folder(PathBuf::from(dir)),
    };
    let threads = args.next().map_or(Ok(0), |arg| arg.parse())?;
    let temperature = args.next().map_or(Ok(0.0), |arg| arg.parse())?;
    let batches = args.next().unwrap_or_else(|| "1,4,16,64".to_owned());
    let batches = batches
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<usize>, _>>()?;
    let weights = match args.next().as_deref() {
        Some("bf16") => WeightFormat::Bf16,
        _ => WeightFormat::Int8,
    };
    let config = EngineConfig {
        threads,
        block_size: BLOCK_SIZE,
        kv_cache: KvCacheSize::Blocks(batches.iter().max().unwrap_or(&1) * SEQUENCE_BLOCKS),
        window_groups: false,
        max_model_len: None,
        weights,
        kernels: None,
    };
    let start = Instant::now();
    let mut engine = Engine::load(&source, &config)?;
    println!(
        "{:?}\nloaded in {:.2} s",
        engine.info(),
        start.elapsed().as_secs_f64()
    );
    let params = Arc::new(SamplingParams {
        temperature,
        ..SamplingParams::greedy()
    });

    for batch in batches {
        let prompts = plan(batch, 0, PROMPT_LEN, &params);
        engine.execute(&prompts)?;
        let start = Instant::now();
        let output = engine.execute(&prompts)?;
        let prefill = start.elapsed().as_secs_f64();

        let mut tokens: Vec<u32> = output.samples.iter().map(|sample| sample.token).collect();
        let start = Instant::now();
        let mut steps = 0;
        while (steps < 8 || start.elapsed().as_secs_f64() < 2.0) && steps < 240 {
            let mut step = plan(batch, PROMPT_LEN + steps, 1, &params);
            step.tokens.copy_from_slice(&tokens);
            tokens = engine
                .execute(&step)?
                .samples
                .iter()
                .map(|sample| sample.token)
                .collect();
            steps += 1;
        }
        let each = start.elapsed().as_secs_f64() / steps as f64;
        println!(
            "batch {batch:2}: prefill {:8.0} tokens/s, decode {:8.2} ms/step, {:8.1} tokens/s",
            (batch * PROMPT_LEN) as f64 / prefill,
            each * 1e3,
            batch as f64 / each
        );
    }
    Ok(())
}

/// `len` tokens of each of `batch` sequences, after `computed` earlier ones, and one sample each.
fn plan(batch: usize, computed: usize, len: usize, params: &Arc<SamplingParams>) -> BatchPlan {
    let mut plan = BatchPlan::default();
    for sequence in 0..batch {
        plan.slices.push(SeqSlice {
            seq: SeqId(sequence as u64),
            query_start: plan.tokens.len(),
            query_len: len,
            context_len: computed + len,
            block_tables: vec![
                (0..SEQUENCE_BLOCKS)
                    .map(|block| BlockId((sequence * SEQUENCE_BLOCKS + block) as u32))
                    .collect(),
            ],
            samples: vec![SampleSpec {
                seq: SeqId(sequence as u64),
                choice: 0,
                output_len: computed,
                params: Arc::clone(params),
                banned: None,
                history: None,
            }],
            scores: None,
        });
        plan.tokens
            .extend((0..len).map(|i| ((sequence * 31 + i * 7) % 1000) as u32));
    }
    plan
}
