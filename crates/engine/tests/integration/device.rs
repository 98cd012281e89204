//! The accelerator of this build against the CPU, on the real device; skipped, saying why, where there is none.
//!
//! `cargo test -p gossamer-engine --features metal|cuda device -- --nocapture`. Activations are bf16 there and f32 here, so
//! logits agree within a share of their own deviation, and greedy tokens wherever the best logit is ahead by more.

use gossamer_engine::{
    DeviceChoice, Engine, EngineConfig, EngineExecutor, LoadError, ModelSource, WeightFormat,
};
use gossamer_scheduler::{BlockCopy, BlockId};
use gossamer_testkit::random_model::RandomModel;

use crate::driver::{Row, largest, plan, prompt};
use crate::folder::{Folder, config};

/// The engine on the accelerator; `None`, with the reason printed, where there is none.
fn on_device(source: &ModelSource, settings: &EngineConfig) -> Option<EngineExecutor> {
    for device in [DeviceChoice::Metal, DeviceChoice::Cuda] {
        let settings = EngineConfig {
            device,
            ..settings.clone()
        };
        match Engine::load(source, &settings) {
            Ok(engine) => {
                let info = engine.info();
                println!("on {} ({:?})", info.backend, info.device);
                return Some(engine);
            }
            Err(error @ LoadError::NoDevice { .. }) => println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
    None
}

fn deviation(row: &[f32]) -> f64 {
    let squares = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    (squares / row.len() as f64).sqrt()
}

/// Largest difference of a row of logits, in units of the expected row's deviation.
fn off(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let pairs = expected.iter().zip(found);
    let worst = pairs.map(|(a, b)| f64::from((a - b).abs()));
    worst.fold(0.0, f64::max) / deviation(expected)
}

/// How far the best logit is ahead, in the same units.
fn lead(row: &[f32]) -> f64 {
    let best = largest(row);
    let others = row.iter().enumerate().filter(|(index, _)| *index != best);
    let second = others.map(|(_, x)| *x).fold(f32::MIN, f32::max);
    f64::from(row[best] - second) / deviation(row)
}

/// Chunks of several sizes beside decodes, copies of blocks, contexts beyond the window: every row that both compute.
fn compare(pair: [&mut EngineExecutor; 2], vocab: usize, tolerance: f64) {
    let [cpu, device] = pair;
    let lens = [1usize, 40, 16, 17, 33, 5, 150, 90];
    let blocks = |index: usize, len: usize| {
        let count = (len + 8).div_ceil(16);
        (0..count).map(move |block| (block * 8 + index) as u32)
    };
    let mut rows: Vec<Row> = lens
        .iter()
        .enumerate()
        .map(|(index, len)| Row::new(&prompt(index as u64, *len + 8, vocab), blocks(index, *len)))
        .collect();
    let (mut all, mut agreed) = (Vec::new(), 0);
    let mut spare = 110;
    for round in 0.. {
        let chunk = |index: usize, left: usize| {
            match left {
                0..=8 => left.min(1),
                _ => left - 8,
            }
            .min([64, 1, 23][(round + index) % 3])
        };
        let counts: Vec<usize> = rows
            .iter()
            .enumerate()
            .map(|(i, row)| chunk(i, row.left()))
            .collect();
        if counts.iter().all(|count| *count == 0) {
            break;
        }
        let mut copies = Vec::new();
        for (index, row) in rows.iter_mut().enumerate() {
            if round % 3 == index % 3 && row.computed > 0 && spare < 125 {
                let moved = row.computed / 16 / 2;
                let dst = BlockId(spare);
                spare += 1;
                let src = std::mem::replace(&mut row.blocks[moved], dst);
                copies.push(BlockCopy { src, dst });
            }
        }
        // Every row samples, so that every row's logits are seen.
        let cut: Vec<Row> = rows
            .iter()
            .zip(&counts)
            .map(|(row, count)| Row {
                tokens: row.tokens[..row.computed + count].to_vec(),
                ..row.clone()
            })
            .collect();
        let batch: Vec<(&Row, usize)> = cut
            .iter()
            .zip(&counts)
            .filter(|(_, count)| **count > 0)
            .map(|(row, count)| (row, *count))
            .collect();
        let mut plan = plan(&batch);
        plan.copies = copies;
        let expected = cpu.logits(&plan).unwrap();
        let found = device.logits(&plan).unwrap();
        for (a, b) in expected.chunks_exact(vocab).zip(found.chunks_exact(vocab)) {
            all.push(off(a, b));
            agreed += usize::from(largest(a) == largest(b) || lead(a) < 2.0 * tolerance);
        }
        for (row, count) in rows.iter_mut().zip(&counts) {
            row.computed += count;
        }
    }
    all.sort_by(f64::total_cmp);
    let [middle, worst] = [all[all.len() / 2], all[all.len() - 1]];
    println!(
        "{} rows: {middle:.1e} off, at most {worst:.1e}; {agreed} agree",
        all.len()
    );
    assert!(all.len() >= 8 * 9, "{} rows", all.len());
    // A choice of expert that rounding turns moves a whole row: few may be off by more.
    let beyond = all.iter().filter(|off| **off > tolerance).count();
    assert!(
        20 * beyond <= all.len(),
        "{beyond} of {} beyond {tolerance}",
        all.len()
    );
    assert!(
        20 * (all.len() - agreed) <= all.len(),
        "{agreed} of {} agree",
        all.len()
    );
}

fn check(model: &RandomModel, weights: WeightFormat, tolerance: f64) {
    let folder = Folder::of(model, 600_000_000);
    let source = ModelSource::Folder(folder.path().to_owned());
    // One group, as the driver's plans have it; two are under test where no device is needed.
    let settings = EngineConfig {
        weights,
        ..config(0, 128)
    };
    let Some(mut device) = on_device(&source, &settings) else {
        return;
    };
    let mut cpu = folder.load(0, 128);
    compare([&mut cpu, &mut device], model.vocab_size, tolerance);
}

#[test]
fn device_small_shape_as_published() {
    check(&RandomModel::small(51), WeightFormat::Bf16, 0.15);
}

#[test]
fn device_small_shape_in_eight_bits() {
    check(&RandomModel::small(52), WeightFormat::Int8, 0.25);
}

#[test]
fn device_widths_of_20b() {
    let model = RandomModel::gpt_oss_20b(2, 1024, 53);
    check(&model, WeightFormat::Int8, 0.15);
}

/// Greedy text of the embedded model, the sampler by blocks included.
#[test]
fn device_embedded_model_says_what_the_cpu_says() {
    let settings = EngineConfig {
        weights: WeightFormat::Int8,
        ..config(0, 64)
    };
    let Some(mut device) = on_device(&ModelSource::Tiny, &settings) else {
        return;
    };
    let mut cpu = Engine::load(&ModelSource::Tiny, &config(0, 64)).unwrap();
    let vocab = cpu.info().vocab_size;
    let (mut same, mut all) = (0, 0);
    for seed in 0..4 {
        let tokens = prompt(seed, 150, 2000);
        let mut row = Row::new(&tokens, 0..16);
        for _ in 0..16 {
            let left = row.left();
            let plan = plan(&[(&row, left)]);
            let expected = cpu.logits(&plan).unwrap();
            let drawn = gossamer_scheduler::Executor::execute(&mut device, &plan).unwrap();
            let best = largest(&expected[..vocab]);
            same += usize::from(drawn.samples[0].token as usize == best);
            all += 1;
            row.computed += left;
            row.tokens.push(best as u32);
        }
    }
    println!("{same} of {all} tokens are the CPU's");
    assert!(10 * same >= 9 * all, "{same} of {all}");
}
