//! The same sequence gives bit-identical logits however it is batched, chunked, paged or shared.

use gossamer_engine::{EngineExecutor, KvDtype, WeightFormat};
use gossamer_scheduler::{BlockCopy, BlockId, ExecuteError, Executor, PromptScores};
use gossamer_testkit::random_model::RandomModel;

use crate::driver::{BLOCK_SIZE, Row, generate, plan, prompt, step};
use crate::folder::Folder;

const STEPS: usize = 6;
const FORMATS: [(WeightFormat, KvDtype); 3] = [
    (WeightFormat::Int8, KvDtype::Bf16),
    (WeightFormat::Bf16, KvDtype::Bf16),
    (WeightFormat::Int8, KvDtype::Int8),
];

fn model() -> RandomModel {
    RandomModel::small(21)
}

/// Rows of mixed length over disjoint, interleaved blocks.
fn crowd(vocab: usize) -> Vec<Row> {
    let lens = [1, 40, 16, 17, 33, 5, 64, 2, 90];
    let rows = lens.iter().enumerate().map(|(index, len)| {
        let blocks = (0..8).map(|block| (block * lens.len() + index) as u32);
        Row::new(&prompt(index as u64, *len, vocab), blocks)
    });
    rows.collect()
}

fn alone(engine: &mut EngineExecutor, row: &Row) -> Vec<Vec<f32>> {
    generate(engine, &mut row.clone(), STEPS)
}

#[test]
fn a_crowd_gives_each_sequence_what_it_gets_alone() {
    let folder = Folder::of(&model(), u64::MAX);
    for formats in FORMATS {
        let mut engine = folder.load_as(formats, 2, 80);
        let mut rows = crowd(model().vocab_size);
        let expected: Vec<_> = rows.iter().map(|row| alone(&mut engine, row)).collect();
        for round in 0..STEPS {
            let mut batch: Vec<_> = rows
                .iter_mut()
                .map(|row| {
                    let left = row.left();
                    (row, left)
                })
                .collect();
            let sampled = step(&mut engine, &mut batch);
            assert_eq!(sampled.len(), expected.len());
            for (index, logits) in sampled {
                assert_eq!(
                    logits, expected[index][round],
                    "sequence {index}, step {round}"
                );
            }
        }
    }
}

#[test]
fn chunks_mixed_with_decodes_give_what_one_prefill_gives() {
    let folder = Folder::of(&model(), u64::MAX);
    for formats in FORMATS {
        let mut engine = folder.load_as(formats, 3, 80);
        let mut rows = crowd(model().vocab_size);
        let expected: Vec<_> = rows.iter().map(|row| alone(&mut engine, row)).collect();
        let mut done = vec![0; rows.len()];
        for round in 0.. {
            // Chunks of 1 to 7 tokens, sequences joining one by one: every step mixes prefill and decode.
            let joined = rows
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| *index <= round && done[*index] < STEPS);
            let (indices, mut batch): (Vec<_>, Vec<_>) = joined
                .map(|(index, row)| {
                    let len = row.left().min(1 + (round * 5 + index * 3) % 7);
                    (index, (row, len))
                })
                .unzip();
            if batch.is_empty() {
                break;
            }
            for (slot, logits) in step(&mut engine, &mut batch) {
                let index = indices[slot];
                assert_eq!(
                    logits, expected[index][done[index]],
                    "sequence {index}, step {}",
                    done[index]
                );
                done[index] += 1;
            }
        }
        assert!(done.iter().all(|done| *done == STEPS));
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let folder = Folder::of(&model(), u64::MAX);
    let rows = crowd(model().vocab_size);
    for formats in FORMATS {
        let mut results = [1, 2, 5].map(|threads| {
            let mut engine = folder.load_as(formats, threads, 80);
            rows.iter()
                .map(|row| alone(&mut engine, row))
                .collect::<Vec<_>>()
        });
        results.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert_eq!(results[0], results[2]);
    }
}

#[test]
fn blocks_of_another_sequence_serve_as_prefix() {
    let folder = Folder::of(&model(), u64::MAX);
    for formats in FORMATS {
        let mut engine = folder.load_as(formats, 2, 40);
        let vocab = model().vocab_size;
        let shared = prompt(1, 3 * BLOCK_SIZE, vocab);
        let tail = |seed| [shared.clone(), prompt(seed, 9, vocab)].concat();
        let expected = alone(&mut engine, &Row::new(&tail(3), 20..30));

        let mut first = Row::new(&tail(2), 0..8);
        generate(&mut engine, &mut first, 1);
        let blocks = (0..3).chain([11, 10, 9]);
        let mut second = Row::new(&tail(3), blocks);
        second.computed = shared.len();
        assert_eq!(generate(&mut engine, &mut second, STEPS), expected);
    }
}

#[test]
fn a_copied_block_continues_like_its_source() {
    let folder = Folder::of(&model(), u64::MAX);
    for formats in FORMATS {
        let mut engine = folder.load_as(formats, 2, 40);
        let tokens = prompt(4, 21, model().vocab_size);
        let mut source = Row::new(&tokens, [0, 1, 2, 3]);
        generate(&mut engine, &mut source, 1);
        source.tokens.truncate(tokens.len());

        // Both continue with different tokens; the copy gets its own second block first.
        let mut copy = Row {
            blocks: [0, 9, 10, 11].map(BlockId).to_vec(),
            ..source.clone()
        };
        source.tokens.push(7);
        copy.tokens.push(8);
        let expect = |engine: &mut EngineExecutor, row: &Row| {
            let fresh = Row {
                computed: 0,
                blocks: (20..30).map(BlockId).collect(),
                ..row.clone()
            };
            generate(engine, &mut fresh.clone(), 1).remove(0)
        };
        let expected = [expect(&mut engine, &source), expect(&mut engine, &copy)].concat();
        let mut plan = plan(&[(&source, 1), (&copy, 1)]);
        plan.copies.push(BlockCopy {
            src: BlockId(1),
            dst: BlockId(9),
        });
        assert_eq!(engine.logits(&plan).unwrap(), expected);
    }
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let folder = Folder::of(&model(), u64::MAX);
    let mut engine = folder.load(1, 8);
    let row = Row::new(&prompt(1, 20, 300), [0, 1]);
    let good = plan(&[(&row, 20)]);
    engine.execute(&good).unwrap();
    let mut refuse = |change: &dyn Fn(&mut gossamer_scheduler::BatchPlan), reason: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = engine.execute(&bad).unwrap_err().to_string();
        assert!(
            error.contains("invalid plan") && error.contains(reason),
            "{error}"
        );
    };
    refuse(&|plan| plan.tokens[3] = 300, "token id 300");
    refuse(&|plan| plan.tokens.push(1), "cover 20 of 21");
    refuse(&|plan| plan.slices[0].query_start = 1, "rows 1 + 20");
    refuse(&|plan| plan.slices[0].query_len = 0, "rows 0 + 0");
    refuse(
        &|plan| {
            // More rows than tokens, the last of them a draft.
            let slice = &mut plan.slices[0];
            (slice.query_len, slice.context_len, slice.num_drafts) = (21, 21, 20);
        },
        "rows 0 + 21, expected some of 0..20",
    );
    refuse(
        &|plan| plan.slices[0].context_len = 19,
        "20 queries in a context of 19",
    );
    refuse(&|plan| plan.slices[0].context_len = 9000, "context of 9000");
    refuse(
        &|plan| plan.slices[0].block_tables[0].truncate(1),
        "1 blocks of 16 for 20",
    );
    refuse(
        &|plan| plan.slices[0].block_tables[0][1] = BlockId(8),
        "block 8 of 8",
    );
    refuse(
        &|plan| plan.slices[0].block_tables.clear(),
        "0 block tables",
    );
    refuse(
        &|plan| {
            plan.copies.push(BlockCopy {
                src: BlockId(0),
                dst: BlockId(8),
            })
        },
        "copy of block 0 to 8",
    );
    engine.execute(&good).unwrap();
    engine.execute(&Default::default()).unwrap();
}

#[test]
fn a_prompt_is_scored_by_the_logits_before_each_token_however_it_is_cut() {
    let folder = Folder::of(&model(), u64::MAX);
    let mut engine = folder.load(2, 80);
    // More rows than logits are held of at a time.
    let tokens = prompt(7, 100, model().vocab_size);
    let whole = Row::new(&tokens, 0..8);
    // Each prefix on its own, elsewhere in the cache.
    let expected: Vec<Vec<f32>> = (1..tokens.len())
        .map(|len| {
            let row = Row::new(&tokens[..len], 8..16);
            engine.logits(&plan(&[(&row, len)])).unwrap()
        })
        .collect();
    for chunks in [&[100][..], &[1, 70, 28, 1], &[99, 1]] {
        let mut row = whole.clone();
        let mut scored = Vec::new();
        for &len in chunks {
            let mut plan = plan(&[(&row, len)]);
            let end = (row.computed + len).min(tokens.len() - 1);
            plan.slices[0].scores = Some(PromptScores {
                rows: 0..end - row.computed,
                targets: tokens[row.computed + 1..=end].to_vec(),
                top: 3,
            });
            let output = engine.execute(&plan).unwrap();
            row.computed += len;
            assert_eq!(
                output.samples.len(),
                usize::from(row.computed == tokens.len())
            );
            scored.extend(output.scores);
        }
        assert_eq!(scored.len(), tokens.len() - 1);
        for (at, (score, logits)) in scored.iter().zip(&expected).enumerate() {
            let token = tokens[at + 1] as usize;
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            let logprob = f64::from(logits[token]) - sum.ln();
            assert!((f64::from(score.logprobs.logprob) - logprob).abs() < 1e-4);
            let before = logits.iter().filter(|x| **x > logits[token]).count();
            assert_eq!(score.rank as usize, before + 1, "position {}", at + 1);
            assert_eq!(score.logprobs.top.len(), 3);
        }
    }
}

#[test]
fn scores_that_do_not_belong_to_the_rows_are_refused() {
    let folder = Folder::of(&model(), u64::MAX);
    let mut engine = folder.load(1, 80);
    let row = Row::new(&[1, 2, 3], 0..1);
    for (rows, targets) in [
        (0..1, vec![2, 3]),
        (0..3, vec![2, 3, 4]),
        (3..4, vec![1]),
        (0..1, vec![model().vocab_size as u32]),
    ] {
        let mut plan = plan(&[(&row, 3)]);
        plan.slices[0].scores = Some(PromptScores {
            rows,
            targets,
            top: 0,
        });
        let error = engine.execute(&plan).unwrap_err();
        assert!(matches!(&error, ExecuteError::Step(text) if text.starts_with("invalid plan")));
    }
}
