//! Random submissions, cancellations, ends, failures and steps over tiny pools, checked after every call.
//!
//! Held against: `invariants::check`; an executor that models KV contents; what each sequence generates alone;
//! exactly one terminal event per request; an end in a bounded number of steps.

#[path = "../common/mod.rs"]
mod common;
mod strategies;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use common::{ContentExecutor, alone, logprob_after};
use gossamer_scheduler::*;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestRunner};
use strategies::{Op, Setup, limit, script};

/// What the test knows about one accepted request.
struct Expected {
    request: NewRequest,
    outputs: Vec<Vec<TokenId>>,
    /// Scores of the prompt's tokens, as they came.
    scored: Vec<PromptLogprobs>,
    finished: BTreeMap<u32, FinishReason>,
    terminal: Option<TokenEvent>,
    cancelled: bool,
    /// Sequences that the test has ended.
    ended_by_caller: BTreeSet<u32>,
}

struct Driver {
    scheduler: Scheduler,
    executor: ContentExecutor,
    setup: Setup,
    requests: BTreeMap<RequestId, Expected>,
    num_steps: usize,
    coverage: Coverage,
    /// Every plan and event, as text, when wanted.
    log: Option<String>,
}

impl Driver {
    fn new(setup: Setup) -> Self {
        Self {
            scheduler: Scheduler::new(&setup.config, &setup.capacity),
            executor: ContentExecutor::new(setup.capacity.clone()),
            setup,
            requests: BTreeMap::new(),
            num_steps: 0,
            coverage: Coverage::default(),
            log: None,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Submit(request) => self.submit(request),
            Op::Cancel(which) => {
                if let Some(id) = self.pick(which) {
                    self.requests.get_mut(&id).unwrap().cancelled = true;
                    self.scheduler.cancel(id);
                }
            }
            Op::FinishSequence(which, index) => {
                if let Some(id) = self.pick(which) {
                    let expected = self.requests.get_mut(&id).unwrap();
                    expected.ended_by_caller.insert(index);
                    self.scheduler.finish_sequence(id, index);
                }
            }
            Op::QueueTimeout(which) => {
                if let Some(id) = self.pick(which)
                    && self.scheduler.is_unstarted(id)
                {
                    let error = RequestError::QueueTimeout { limit_ms: 1 };
                    self.scheduler.fail_request(id, error.clone());
                    self.check();
                    if !self.requests[&id].cancelled {
                        assert_eq!(self.requests[&id].terminal, Some(TokenEvent::Failed(error)));
                    }
                }
            }
            Op::Step(between) => {
                self.step(between, false, |executor, plan| {
                    Some(executor.execute(plan).unwrap())
                });
            }
            Op::FailStep(between) => {
                self.step(between, false, |executor, plan| {
                    executor.scribble(plan);
                    None
                });
            }
            Op::WrongOutput => {
                self.step(Vec::new(), true, |executor, plan| {
                    let mut output = executor.execute(plan).unwrap();
                    let token = SampledToken {
                        token: 0,
                        logprobs: None,
                        constrained: None,
                    };
                    output.samples.push(token);
                    Some(output)
                });
            }
        }
        self.check();
    }

    fn pick(&self, which: usize) -> Option<RequestId> {
        let index = which % self.requests.len().max(1);
        self.requests.keys().nth(index).copied()
    }

    fn submit(&mut self, request: NewRequest) {
        let id = RequestId(1000 + self.requests.len() as u64);
        let limit = limit(&self.setup);
        let (prompt_len, max_tokens) = (request.prompt.len(), request.stop.max_tokens);
        let invalid = request.n == 0
            || prompt_len == 0
            || max_tokens == 0
            || request.stop.min_tokens > max_tokens;
        let queue_full = self.scheduler.num_unstarted() == self.setup.config.max_waiting;
        let before = self.scheduler.num_requests();
        match self.scheduler.submit(id, request.clone()) {
            Ok(()) => {
                assert!(!invalid && !queue_full && prompt_len + max_tokens <= limit);
                let expected = Expected {
                    outputs: vec![Vec::new(); request.n as usize],
                    scored: Vec::new(),
                    request,
                    finished: BTreeMap::new(),
                    terminal: None,
                    cancelled: false,
                    ended_by_caller: BTreeSet::new(),
                };
                self.requests.insert(id, expected);
                return;
            }
            Err(SubmitError::Invalid { .. }) => assert!(invalid),
            Err(SubmitError::NeverFits { .. }) => assert!(prompt_len >= limit),
            Err(SubmitError::OutputNeverFits { .. }) => {
                assert!(prompt_len < limit && prompt_len + max_tokens > limit);
            }
            Err(SubmitError::QueueFull { .. }) => assert!(queue_full),
            Err(SubmitError::ShuttingDown) => panic!("the core does not shut down"),
        }
        assert_eq!(self.scheduler.num_requests(), before);
    }

    fn step(
        &mut self,
        between: Vec<Op>,
        wrong: bool,
        run: impl FnOnce(&mut ContentExecutor, &BatchPlan) -> Option<StepOutput>,
    ) {
        let Some(plan) = self.scheduler.next_plan() else {
            assert_eq!(
                self.scheduler.num_requests(),
                0,
                "work is left, but no plan"
            );
            return;
        };
        self.num_steps += 1;
        let started = self.check_order();
        if let Some(log) = &mut self.log {
            writeln!(log, "{plan:?}").unwrap();
        }
        let config = &self.setup.config;
        assert!(plan.num_tokens() <= config.max_num_batched_tokens);
        assert!(plan.slices.len() <= config.max_num_seqs);
        self.check();
        let computes = |prefill| {
            let mut slices = plan.slices.iter();
            slices.any(|slice| prefill == (slice.query_len - slice.num_drafts > 1))
        };
        self.coverage.mixed_steps += usize::from(computes(false) && computes(true));
        self.coverage.copies += plan.copies.len();
        for slice in &plan.slices {
            let behind = |table: &Vec<BlockId>| {
                let mut blocks = table.iter();
                blocks.any(|block| !block.is_block())
            };
            let is_behind = slice.block_tables.iter().any(behind);
            self.coverage.windows += usize::from(is_behind);
            let request = self.request_of(slice.seq);
            let is_hit = started
                .iter()
                .any(|s| s.request == request && s.cached_len > 0);
            self.coverage.window_hits += usize::from(is_behind && is_hit);
            self.coverage.chunks += usize::from(slice.samples.is_empty());
            self.coverage.window_drafts += usize::from(is_behind && slice.num_drafts > 0);
            self.coverage.forks += slice.samples.len().saturating_sub(1);
        }
        let output = run(&mut self.executor, &plan);
        for op in between {
            self.apply(op);
        }
        let planned = plan.sample_specs().count();
        let failed = match output {
            Some(output) if !wrong => {
                self.scheduler.commit(output).unwrap();
                let [step, row] = self.setup.took;
                let took = Duration::from_micros(step + row * plan.num_tokens() as u64);
                self.scheduler.observe_step(plan.num_tokens(), took);
                false
            }
            Some(output) => {
                let given = output.samples.len();
                let mismatch = OutputMismatch {
                    what: "tokens",
                    planned: given - 1,
                    given,
                };
                assert!(planned < given);
                assert_eq!(self.scheduler.commit(output), Err(mismatch));
                true
            }
            None => {
                self.scheduler.fail_step("scripted");
                true
            }
        };
        let failed_before = self.failed();
        self.check();
        // Exactly the requests of the plan fail; those that had ended before stay as they are.
        let newly: BTreeSet<_> = self.failed().difference(&failed_before).copied().collect();
        if !failed {
            assert!(newly.is_empty());
            return;
        }
        let planned: BTreeSet<_> = plan.slices.iter().map(|s| self.request_of(s.seq)).collect();
        assert!(
            newly.is_subset(&planned),
            "{newly:?} failed, the plan was {planned:?}"
        );
        for id in planned {
            let expected = &self.requests[&id];
            assert!(expected.terminal.is_some() || expected.cancelled);
        }
    }

    /// Whoever has just started comes before all who still wait to start.
    fn check_order(&mut self) -> Vec<Started> {
        let rank = |id: RequestId| (self.requests[&id].request.priority, id);
        let all_started = self.scheduler.take_started();
        for started in &all_started {
            for &waiting in self.requests.keys() {
                assert!(
                    !self.scheduler.is_unstarted(waiting) || rank(started.request) < rank(waiting),
                    "{:?} has started before {waiting:?}",
                    started.request
                );
                let arrived_later = waiting < started.request;
                let overtakes = arrived_later && self.scheduler.is_unstarted(waiting);
                self.coverage.overtakes += usize::from(overtakes);
            }
        }
        all_started
    }

    fn failed(&self) -> BTreeSet<RequestId> {
        let failed = |e: &Expected| matches!(e.terminal, Some(TokenEvent::Failed(_)));
        let ids = self.requests.iter().filter(|(_, e)| failed(e));
        ids.map(|(&id, _)| id).collect()
    }

    /// Sequence ids are given in order of submission.
    fn request_of(&self, seq: SeqId) -> RequestId {
        let mut end = 0;
        for (&id, expected) in &self.requests {
            end += u64::from(expected.request.n);
            if seq.0 < end {
                return id;
            }
        }
        panic!("{seq:?} was never given");
    }

    /// The invariants, and every new event against what it may be.
    fn check(&mut self) {
        invariants::check(&self.scheduler).unwrap();
        for (id, event) in self.scheduler.take_events() {
            if let Some(log) = &mut self.log {
                writeln!(log, "{id:?} {event:?}").unwrap();
            }
            let expected = self.requests.get_mut(&id).expect("submitted");
            assert_eq!(
                expected.terminal, None,
                "{event:?} after the terminal event"
            );
            assert!(!expected.cancelled, "{event:?} after cancel");
            match event {
                TokenEvent::Token {
                    index,
                    token,
                    logprobs,
                } => {
                    let request = &expected.request;
                    let tokens = [&request.prompt, &expected.outputs[index as usize]];
                    let tokens: Vec<_> = tokens.into_iter().flatten().copied().collect();
                    match logprobs {
                        Some(given) => assert_eq!(given.logprob, logprob_after(&tokens)),
                        None => assert!(
                            request.sampling.logprobs.is_none() || request.handover.is_some()
                        ),
                    }
                    assert!(!expected.finished.contains_key(&index));
                    assert_eq!(expected.scored, all_scores(&expected.request));
                    expected.outputs[index as usize].push(token);
                }
                TokenEvent::SequenceFinished { index, reason } => {
                    let again = expected.finished.insert(index, reason);
                    assert_eq!(again, None, "sequence {index} finished twice");
                }
                TokenEvent::Prompt(scored) => {
                    assert!(!scored.is_empty());
                    expected.scored.extend(scored);
                }
                terminal => expected.terminal = Some(terminal),
            }
        }
    }

    /// No more submissions: everything ends within a bound, and ended as it should.
    fn finish(mut self, reached: &mut Coverage) {
        let work = |e: &Expected| {
            e.request.n as usize * (e.request.prompt.len() + e.request.stop.max_tokens)
        };
        let work: usize = self.requests.values().map(work).sum();
        let seqs: usize = self.requests.values().map(|e| e.request.n as usize).sum();
        // Each token may, at worst, cost every later sequence a recompute of one step.
        let bound = self.num_steps + work * (seqs + 1);
        while self.scheduler.num_requests() > 0 {
            self.apply(Op::Step(Vec::new()));
            assert!(self.num_steps <= bound, "no end after {bound} steps");
        }
        assert!(self.scheduler.next_plan().is_none());
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
        if !self.setup.config.enable_prefix_caching {
            assert_eq!(stats.blocks_free, stats.blocks_total);
        }
        for (id, expected) in &self.requests {
            self.check_ended(*id, expected);
            let has_output = expected.outputs.iter().any(|output| !output.is_empty());
            reached.cancelled_with_output += usize::from(expected.cancelled && has_output);
            let by_caller = expected.finished.values();
            reached.ended_by_caller += by_caller.filter(|&&r| r == FinishReason::Caller).count();
            match &expected.terminal {
                Some(TokenEvent::Finished(summary)) => {
                    reached.cached_tokens += summary.cached_len;
                    let preempted = summary.preemptions > 0 && !expected.scored.is_empty();
                    reached.rescored += usize::from(preempted);
                    let free = NewRequest {
                        handover: None,
                        ..expected.request.clone()
                    };
                    let changed = (0..).zip(&expected.outputs);
                    reached.handovers += changed
                        .filter(|(i, output)| !alone(&free, *i).0.starts_with(output))
                        .count();
                }
                Some(TokenEvent::Failed(_)) => reached.failed_requests += 1,
                _ => {}
            }
        }
        reached.overtakes += self.coverage.overtakes;
        reached.preemptions += self.scheduler.num_preemptions();
        let drafts = self.scheduler.draft_counts();
        assert!(drafts.accepted <= drafts.drafted && drafts.decodes <= drafts.drafted);
        let speculates = self.setup.config.speculation == Speculation::Auto;
        assert!(speculates || drafts == DraftCounts::default());
        reached.accepted += drafts.accepted;
        reached.rejected += drafts.drafted - drafts.accepted;
        reached.window_drafts += self.coverage.window_drafts;
        let dead_ends = (self.requests.values()).flat_map(|expected| expected.finished.values());
        reached.dead_ends += dead_ends.filter(|&&r| r == FinishReason::DeadEnd).count();
        reached.copies += self.coverage.copies;
        reached.chunks += self.coverage.chunks;
        reached.mixed_steps += self.coverage.mixed_steps;
        reached.forks += self.coverage.forks;
        reached.windows += self.coverage.windows;
        reached.window_hits += self.coverage.window_hits;
    }

    fn check_ended(&self, id: RequestId, expected: &Expected) {
        assert!(
            expected.cancelled || expected.terminal.is_some(),
            "{id:?} has no end"
        );
        for (index, output) in (0..).zip(&expected.outputs) {
            let (whole, reason) = alone(&expected.request, index);
            assert!(
                whole.starts_with(output),
                "{id:?} differs from {id:?} alone"
            );
            match expected.finished.get(&index) {
                Some(FinishReason::Caller) => assert!(expected.ended_by_caller.contains(&index)),
                Some(&other) => assert_eq!((other, output), (reason, &whole)),
                None => assert!(!matches!(expected.terminal, Some(TokenEvent::Finished(_)))),
            }
        }
        if let Some(TokenEvent::Finished(summary)) = expected.terminal {
            assert_eq!(summary.prompt_len, expected.request.prompt.len());
            assert_eq!(
                summary.output_len,
                expected.outputs.iter().map(Vec::len).sum::<usize>()
            );
            assert!(summary.cached_len < summary.prompt_len);
            assert_eq!(summary.cached_len % self.setup.capacity.block_size, 0);
            if !self.setup.config.enable_prefix_caching {
                assert_eq!(summary.cached_len, 0);
            }
        }
    }
}

/// What a request is told about its prompt.
fn all_scores(request: &NewRequest) -> Vec<PromptLogprobs> {
    let Some(top) = request.prompt_logprobs else {
        return Vec::new();
    };
    let positions = request.prompt.iter().zip(0..).skip(1);
    positions
        .map(|(&token, rank)| PromptLogprobs {
            rank,
            logprobs: TokenLogprobs {
                logprob: -(token as f32),
                top: vec![(token, 0.0); top.into()],
            },
        })
        .collect()
}

/// How often the cases reached what they are for.
#[derive(Debug, Default)]
struct Coverage {
    preemptions: u64,
    copies: usize,
    chunks: usize,
    mixed_steps: usize,
    forks: usize,
    cached_tokens: usize,
    failed_requests: usize,
    ended_by_caller: usize,
    cancelled_with_output: usize,
    overtakes: usize,
    handovers: usize,
    rescored: usize,
    /// Slices of sequences that have given blocks back.
    windows: usize,
    /// Requests that started behind blocks which they were never given.
    window_hits: usize,
    /// Drafts.
    accepted: u64,
    rejected: u64,
    /// Of sequences that have given blocks back.
    window_drafts: usize,
    dead_ends: usize,
}

#[test]
fn any_interleaving_gives_every_request_its_own_answer_and_one_end() {
    let cases = std::env::var("PROPTEST_CASES").ok();
    let config = ProptestConfig {
        cases: cases.and_then(|n| n.parse().ok()).unwrap_or(400),
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    };
    let reached = RefCell::new(Coverage::default());
    let result = TestRunner::new(config).run(&script(), |(setup, ops)| {
        let mut driver = Driver::new(setup);
        for op in ops {
            driver.apply(op);
        }
        driver.finish(&mut reached.borrow_mut());
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let Coverage {
        preemptions,
        copies,
        chunks,
        mixed_steps,
        forks,
        cached_tokens,
        failed_requests,
        ended_by_caller,
        cancelled_with_output,
        overtakes,
        handovers,
        rescored,
        windows,
        window_hits,
        accepted,
        rejected,
        window_drafts,
        dead_ends,
    } = reached.into_inner();
    println!(
        "{preemptions} preemptions, {copies} copies, {chunks} chunks, {mixed_steps} mixed steps, {forks} forks, \
         {cached_tokens} tokens from the cache, {failed_requests} failed requests, {ended_by_caller} ended by the caller, \
         {cancelled_with_output} cancelled with output, {overtakes} overtakes, {handovers} handovers, \
         {rescored} preempted with scores, {windows} slices with blocks behind a window, {window_hits} starts with such, \
         {accepted} drafts accepted, {rejected} rejected, {window_drafts} slices with drafts behind a window, \
         {dead_ends} dead ends"
    );
    // Seen: about a hundred to thousands of each. Cases that no longer get there test nothing.
    let least = [
        preemptions as usize,
        copies,
        chunks,
        mixed_steps,
        forks,
        cached_tokens,
        failed_requests,
        ended_by_caller,
        cancelled_with_output,
        overtakes,
        handovers,
        rescored,
        windows,
        window_hits,
        accepted as usize,
        rejected as usize,
        window_drafts,
        dead_ends,
    ];
    assert!(least.iter().all(|&count| count >= 25), "{least:?}");
}

#[test]
fn the_same_calls_give_the_same_plans_and_events() {
    let run = |setup: &Setup, ops: &[Op]| {
        let mut driver = Driver::new(setup.clone());
        driver.log = Some(String::new());
        for op in ops {
            driver.apply(op.clone());
        }
        driver.log.take()
    };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(50));
    let result = runner.run(&script(), |(setup, ops)| {
        prop_assert_eq!(run(&setup, &ops), run(&setup, &ops));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
