//! Scripts with the plans and events they must give, line by line.
//!
//! A script is commands, each followed by what it prints, marked `>`. Commands:
//!
//! ```text
//! submit NAME PROMPT_LEN MAX_TOKENS [n=N] [like=NAME] [salt=N]   prompts differ by name; `like` borrows another's tokens
//! step                   one line per slice: `a.0 2..4` computes positions 2 and 3 of a's choice 0; `+a.1` adds a draw;
//!                        `copy` a block copied; `preempt` who lost its blocks; then the ends
//! run                    steps until idle; prints the ends only
//! cancel NAME | finish NAME CHOICE | fail
//! stats                  running, waiting, blocks used/cached/free
//! ```

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use common::ContentExecutor;
use gossamer_scheduler::*;

struct Script {
    scheduler: Scheduler,
    executor: ContentExecutor,
    /// Name, number of choices, prompt; in order of submission, so that sequence ids can be told.
    requests: Vec<(String, u32, Vec<TokenId>)>,
}

/// `setup`: `blocks=8 size=2 budget=16 seqs=4 waiting=4 caching=0`.
fn check(setup: &str, script: &str) {
    let setup = options(setup.split_whitespace());
    let capacity = Capacity {
        block_size: setup["size"],
        max_model_len: setup.get("len").copied().unwrap_or(1000),
        groups: vec![GroupCapacity {
            num_blocks: setup["blocks"],
            block_bytes: 1,
        }],
    };
    let config = SchedulerConfig {
        max_num_batched_tokens: setup["budget"],
        max_num_seqs: setup["seqs"],
        max_waiting: setup.get("waiting").copied().unwrap_or(100),
        enable_prefix_caching: setup.get("caching") == Some(&1),
        queue_timeout: None,
    };
    let mut state = Script {
        scheduler: Scheduler::new(&config, &capacity),
        executor: ContentExecutor::new(capacity),
        requests: Vec::new(),
    };
    let mut actual = String::new();
    let lines = script.lines().map(str::trim);
    for command in lines.filter(|line| !line.is_empty() && !line.starts_with('>')) {
        writeln!(actual, "{command}").unwrap();
        for line in state.obey(command).lines() {
            writeln!(actual, "> {line}").unwrap();
        }
        invariants::check(&state.scheduler).unwrap();
    }
    let lines = script.lines().map(str::trim);
    let expected: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    assert!(actual.lines().eq(expected), "what happened:\n{actual}");
}

fn options<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let pairs = words.filter_map(|word| word.split_once('='));
    pairs
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect()
}

impl Script {
    fn obey(&mut self, command: &str) -> String {
        let words: Vec<_> = command.split_whitespace().collect();
        match words[..] {
            ["submit", name, prompt_len, max_tokens, ..] => self.submit(
                name,
                prompt_len.parse().unwrap(),
                max_tokens.parse().unwrap(),
                &words,
            ),
            ["step"] => {
                let plan = self.step(|executor, plan| executor.execute(plan));
                plan + &self.ends()
            }
            ["fail"] => {
                self.step(|executor, plan| {
                    executor.scribble(plan);
                    Err(ExecuteError::Step("scripted".into()))
                });
                self.ends()
            }
            ["run"] => {
                let mut ends = String::new();
                while self.scheduler.num_requests() > 0 {
                    self.step(|executor, plan| executor.execute(plan));
                    ends += &self.ends();
                }
                ends
            }
            ["cancel", name] => {
                self.scheduler.cancel(self.id(name));
                self.ends()
            }
            ["finish", name, choice] => {
                let choice = choice.parse().unwrap();
                self.scheduler.finish_sequence(self.id(name), choice);
                self.ends()
            }
            ["stats"] => {
                let stats = self.scheduler.stats();
                format!(
                    "running {} waiting {} used {} cached {} free {}\n",
                    stats.running,
                    stats.waiting,
                    stats.blocks_used,
                    stats.blocks_cached,
                    stats.blocks_free
                )
            }
            _ => panic!("unknown command: {command}"),
        }
    }

    fn submit(&mut self, name: &str, len: usize, max_tokens: usize, words: &[&str]) -> String {
        let options = options(words.iter().copied());
        let like = words.iter().find_map(|word| word.strip_prefix("like="));
        let letter = u32::from(like.unwrap_or(name).as_bytes()[0]);
        let prompt: Vec<_> = (0..len as u32).map(|i| letter * 1000 + i).collect();
        let n = options.get("n").copied().unwrap_or(1) as u32;
        let request = NewRequest {
            prompt: prompt.clone(),
            n,
            sampling: Arc::new(SamplingParams::greedy()),
            stop: StopConditions {
                stop_token_ids: Arc::new([]),
                max_tokens,
                min_tokens: 0,
            },
            cache_salt: options.get("salt").copied().unwrap_or(0) as u64,
        };
        let id = RequestId(self.requests.len() as u64);
        match self.scheduler.submit(id, request) {
            Ok(()) => {
                self.requests.push((name.into(), n, prompt));
                String::new()
            }
            Err(refused) => format!("{refused}\n"),
        }
    }

    fn id(&self, name: &str) -> RequestId {
        let index = self.requests.iter().position(|request| request.0 == name);
        RequestId(index.expect("submitted") as u64)
    }

    fn name(&self, seq: SeqId) -> String {
        let mut first = 0;
        for (name, n, _) in &self.requests {
            if seq.0 < first + u64::from(*n) {
                return format!("{name}.{}", seq.0 - first);
            }
            first += u64::from(*n);
        }
        panic!("{seq:?} was never given");
    }

    fn step(
        &mut self,
        run: impl FnOnce(&mut ContentExecutor, &BatchPlan) -> Result<StepOutput, ExecuteError>,
    ) -> String {
        let preemptions = self.scheduler.num_preemptions();
        let Some(plan) = self.scheduler.next_plan() else {
            return "nothing to do\n".into();
        };
        invariants::check(&self.scheduler).unwrap();
        let mut text = String::new();
        for _ in preemptions..self.scheduler.num_preemptions() {
            text += "preempt\n";
        }
        for _ in &plan.copies {
            text += "copy\n";
        }
        for slice in &plan.slices {
            let range = slice.context_len - slice.query_len..slice.context_len;
            write!(text, "{} {range:?}", self.name(slice.seq)).unwrap();
            for spec in &slice.samples {
                write!(text, " +{}", self.name(spec.seq)).unwrap();
            }
            text += "\n";
        }
        match run(&mut self.executor, &plan) {
            Ok(output) => self.scheduler.commit(output).unwrap(),
            Err(error) => self.scheduler.fail_step(&error.to_string()),
        }
        text
    }

    /// The events but for tokens.
    fn ends(&mut self) -> String {
        let mut text = String::new();
        for (id, event) in self.scheduler.take_events() {
            let name = &self.requests[id.0 as usize].0;
            match event {
                TokenEvent::Token { .. } => {}
                TokenEvent::SequenceFinished { index, reason } => {
                    writeln!(text, "{name}.{index} {reason:?}").unwrap();
                }
                TokenEvent::Finished(summary) => writeln!(
                    text,
                    "{name} finished: prompt {} cached {} output {} preemptions {}",
                    summary.prompt_len, summary.cached_len, summary.output_len, summary.preemptions
                )
                .unwrap(),
                TokenEvent::Failed(error) => writeln!(text, "{name} failed: {error}").unwrap(),
            }
        }
        text
    }
}

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_running_decodes() {
    check(
        "blocks=16 size=2 budget=4 seqs=4",
        "
        submit a 2 9
        step
        > a.0 0..2 +a.0
        submit b 7 2
        step
        > a.0 2..3 +a.0
        > b.0 0..3
        step
        > a.0 3..4 +a.0
        > b.0 3..6
        step
        > a.0 4..5 +a.0
        > b.0 6..7 +b.0
        step
        > a.0 5..6 +a.0
        > b.0 7..8 +b.0
        > b.0 Length
        > b finished: prompt 7 cached 0 output 2 preemptions 0
        run
        > a.0 Length
        > a finished: prompt 2 cached 0 output 9 preemptions 0
        ",
    );
}

#[test]
fn the_last_prompt_token_is_computed_even_if_all_of_the_prompt_is_cached() {
    check(
        "blocks=8 size=2 budget=16 seqs=4 caching=1",
        "
        submit a 6 1
        run
        > a.0 Length
        > a finished: prompt 6 cached 0 output 1 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 3 free 5
        submit b 6 1 like=a
        step
        > b.0 4..6 +b.0
        > b.0 Length
        > b finished: prompt 6 cached 4 output 1 preemptions 0
        submit c 7 1 like=a
        step
        > c.0 6..7 +c.0
        > c.0 Length
        > c finished: prompt 7 cached 6 output 1 preemptions 0
        submit d 6 1 like=a salt=1
        step
        > d.0 0..6 +d.0
        > d.0 Length
        > d finished: prompt 6 cached 0 output 1 preemptions 0
        ",
    );
}

#[test]
fn choices_share_the_prompt_and_copy_only_its_partial_block() {
    check(
        "blocks=8 size=4 budget=16 seqs=4",
        "
        submit a 6 3 n=3
        step
        > a.0 0..6 +a.0 +a.1 +a.2
        stats
        > running 3 waiting 0 used 2 cached 0 free 6
        step
        > copy
        > copy
        > a.0 6..7 +a.0
        > a.1 6..7 +a.1
        > a.2 6..7 +a.2
        stats
        > running 3 waiting 0 used 4 cached 0 free 4
        run
        > a.0 Length
        > a.1 Length
        > a.2 Length
        > a finished: prompt 6 cached 0 output 9 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 8
        ",
    );
    check(
        "blocks=8 size=3 budget=16 seqs=4",
        "
        submit a 6 2 n=3
        step
        > a.0 0..6 +a.0 +a.1 +a.2
        stats
        > running 3 waiting 0 used 2 cached 0 free 6
        step
        > a.0 6..7 +a.0
        > a.1 6..7 +a.1
        > a.2 6..7 +a.2
        > a.0 Length
        > a.1 Length
        > a.2 Length
        > a finished: prompt 6 cached 0 output 6 preemptions 0
        ",
    );
}

#[test]
fn choices_beyond_the_seats_wait_and_are_recomputed_later() {
    check(
        "blocks=8 size=4 budget=16 seqs=2",
        "
        submit a 6 3 n=3
        step
        > a.0 0..6 +a.0 +a.1 +a.2
        stats
        > running 2 waiting 1 used 2 cached 0 free 6
        step
        > copy
        > a.0 6..7 +a.0
        > a.1 6..7 +a.1
        step
        > a.0 7..8 +a.0
        > a.1 7..8 +a.1
        > a.0 Length
        > a.1 Length
        step
        > a.2 0..7 +a.2
        stats
        > running 1 waiting 0 used 2 cached 0 free 6
        run
        > a.2 Length
        > a finished: prompt 6 cached 0 output 9 preemptions 0
        ",
    );
}

#[test]
fn when_blocks_run_out_the_latest_sequence_is_preempted_and_comes_back() {
    check(
        "blocks=4 size=2 budget=16 seqs=4",
        "
        submit a 3 5
        submit b 1 4
        step
        > b.0 0..1 +b.0
        > a.0 0..3 +a.0
        stats
        > running 2 waiting 0 used 3 cached 0 free 1
        step
        > a.0 3..4 +a.0
        > b.0 1..2 +b.0
        step
        > preempt
        > a.0 4..5 +a.0
        stats
        > running 1 waiting 1 used 3 cached 0 free 1
        step
        > a.0 5..6 +a.0
        run
        > a.0 Length
        > a finished: prompt 3 cached 0 output 5 preemptions 0
        > b.0 Length
        > b finished: prompt 1 cached 0 output 4 preemptions 1
        stats
        > running 0 waiting 0 used 0 cached 0 free 4
        ",
    );
}

#[test]
fn a_sequence_may_use_the_whole_pool_and_one_token_more_is_refused() {
    check(
        "blocks=3 size=2 budget=16 seqs=4",
        "
        submit a 5 1
        submit b 6 1
        > the prompt has 6 tokens, but at most 5 fit
        submit c 5 2
        > prompt (5 tokens) and max_tokens (2) together exceed 6 tokens
        submit d 1 5
        submit e 1 6
        > prompt (1 tokens) and max_tokens (6) together exceed 6 tokens
        submit f 0 1
        > prompt: at least one token is needed
        submit g 1 0
        > stop.max_tokens: must be at least 1
        submit h 1 1 n=0
        > n: must be from 1 to 128, not 0
        run
        > a.0 Length
        > a finished: prompt 5 cached 0 output 1 preemptions 0
        > d.0 Length
        > d finished: prompt 1 cached 0 output 5 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 3
        ",
    );
    check(
        "blocks=3 size=2 budget=16 seqs=4 len=5",
        "
        submit a 4 1
        submit b 5 1
        > the prompt has 5 tokens, but at most 4 fit
        submit c 3 3
        > prompt (3 tokens) and max_tokens (3) together exceed 5 tokens
        run
        > a.0 Length
        > a finished: prompt 4 cached 0 output 1 preemptions 0
        ",
    );
}

#[test]
fn the_queue_bound_counts_requests_of_which_nothing_was_planned() {
    check(
        "blocks=8 size=2 budget=16 seqs=1 waiting=2",
        "
        submit a 1 2
        submit b 1 1
        submit c 1 1
        > the queue is full (2 requests are waiting)
        step
        > a.0 0..1 +a.0
        submit d 1 1
        submit e 1 1
        > the queue is full (2 requests are waiting)
        cancel b
        submit f 1 1
        stats
        > running 1 waiting 2 used 1 cached 0 free 7
        run
        > a.0 Length
        > a finished: prompt 1 cached 0 output 2 preemptions 0
        > d.0 Length
        > d finished: prompt 1 cached 0 output 1 preemptions 0
        > f.0 Length
        > f finished: prompt 1 cached 0 output 1 preemptions 0
        ",
    );
}

#[test]
fn a_failed_step_fails_its_requests_and_nobody_else() {
    check(
        "blocks=8 size=2 budget=4 seqs=4 caching=1",
        "
        submit a 2 3 n=2
        submit b 2 3
        submit c 2 3
        step
        > a.0 0..2 +a.0 +a.1
        > b.0 0..2 +b.0
        fail
        > a failed: the engine failed: scripted
        > b failed: the engine failed: scripted
        stats
        > running 0 waiting 1 used 0 cached 2 free 6
        run
        > c.0 Length
        > c finished: prompt 2 cached 0 output 3 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 4 free 4
        ",
    );
}

#[test]
fn cancelling_returns_every_block_while_waiting_in_prefill_and_in_decode() {
    check(
        "blocks=8 size=2 budget=4 seqs=2 caching=0",
        "
        submit a 2 9
        submit b 6 3
        submit c 2 3
        step
        > a.0 0..2 +a.0
        > b.0 0..2
        stats
        > running 2 waiting 1 used 4 cached 0 free 4
        cancel c
        cancel b
        stats
        > running 1 waiting 0 used 1 cached 0 free 7
        step
        > a.0 2..3 +a.0
        cancel a
        stats
        > running 0 waiting 0 used 0 cached 0 free 8
        step
        > nothing to do
        ",
    );
}

#[test]
fn a_follower_takes_over_when_the_carrier_is_ended_in_its_prefill() {
    check(
        "blocks=8 size=2 budget=4 seqs=4",
        "
        submit a 6 2 n=3
        step
        > a.0 0..4
        finish a 0
        > a.0 Caller
        step
        > a.1 4..6 +a.1 +a.2
        finish a 2
        > a.2 Caller
        run
        > a.1 Length
        > a finished: prompt 6 cached 0 output 3 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 0 free 8
        ",
    );
}

#[test]
fn the_queue_is_strictly_first_come_first_served() {
    check(
        "blocks=8 size=2 budget=16 seqs=4",
        "
        submit a 8 3
        step
        > a.0 0..8 +a.0
        submit b 10 2
        submit c 1 1
        step
        > a.0 8..9 +a.0
        step
        > a.0 9..10 +a.0
        > a.0 Length
        > a finished: prompt 8 cached 0 output 3 preemptions 0
        step
        > c.0 0..1 +c.0
        > b.0 0..10 +b.0
        > c.0 Length
        > c finished: prompt 1 cached 0 output 1 preemptions 0
        run
        > b.0 Length
        > b finished: prompt 10 cached 0 output 2 preemptions 0
        ",
    );
}

#[test]
fn least_recently_used_prefixes_are_evicted_first_and_from_their_end() {
    check(
        "blocks=6 size=2 budget=16 seqs=4 caching=1",
        "
        submit a 5 1
        run
        > a.0 Length
        > a finished: prompt 5 cached 0 output 1 preemptions 0
        submit b 5 1
        run
        > b.0 Length
        > b finished: prompt 5 cached 0 output 1 preemptions 0
        submit c 5 1 like=a
        run
        > c.0 Length
        > c finished: prompt 5 cached 4 output 1 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 4 free 2
        submit d 5 1
        run
        > d.0 Length
        > d finished: prompt 5 cached 0 output 1 preemptions 0
        stats
        > running 0 waiting 0 used 0 cached 5 free 1
        submit e 5 1 like=a
        run
        > e.0 Length
        > e finished: prompt 5 cached 4 output 1 preemptions 0
        submit f 5 1 like=b
        run
        > f.0 Length
        > f finished: prompt 5 cached 2 output 1 preemptions 0
        ",
    );
}
