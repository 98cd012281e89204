//! Runs a script against the core over the content-modelling executor and compares what it prints.
//!
//! Knows the commands (see `main.rs`), not the scenarios. The invariants are checked after every command.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::common::ContentExecutor;
use gossamer_scheduler::*;

struct Script {
    scheduler: Scheduler,
    executor: ContentExecutor,
    /// Name, number of choices, prompt; in order of submission, so that sequence ids can be told.
    requests: Vec<(String, u32, Vec<TokenId>)>,
}

/// `setup`: `blocks=8 size=2 budget=16 seqs=4 waiting=4 caching=0`; with `window=6` there is a second group.
pub fn check(setup: &str, script: &str) {
    let setup = options(setup.split_whitespace());
    let capacity = Capacity {
        block_size: setup["size"],
        max_model_len: setup.get("len").copied().unwrap_or(1000),
        num_blocks: setup["blocks"],
        block_bytes: 1,
        groups: match setup.get("window") {
            None => vec![KvGroup::default()],
            Some(&window) => [None, Some(window)].map(|window| KvGroup { window }).into(),
        },
    };
    let config = SchedulerConfig {
        max_num_batched_tokens: setup["budget"],
        max_num_seqs: setup["seqs"],
        max_waiting: setup.get("waiting").copied().unwrap_or(100),
        enable_prefix_caching: setup.get("caching") == Some(&1),
        speculation: Speculation::Auto,
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
            priority: options.get("priority").copied().unwrap_or(0) as i32,
            handover: None,
            prompt_logprobs: options.get("scores").map(|&top| top as u8),
            constraint: None,
            speculation: Speculation::Auto,
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
            if let Some(scores) = &slice.scores {
                let rows = &scores.rows;
                let after = range.start + 1;
                write!(text, " ?{:?}", rows.start + after..rows.end + after).unwrap();
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
                TokenEvent::Token { .. } | TokenEvent::Prompt(_) => {}
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
