//! An executor whose model is a [`Script`] and whose KV cache holds token ids.
//!
//! It believes nothing that the plan does not say: it reads each sequence's past back through its block table, as a real
//! engine does. A wrong table, a missing copy or a block given away too early therefore changes the answer.
//! Invariant: same plans, same outputs.

use std::collections::HashMap;

use gossamer_harmony::{Tokenizer, special};
use gossamer_scheduler::{
    BatchPlan, Capacity, ExecuteError, Executor, PromptLogprobs, SampleSpec, SampledToken,
    SeqSlice, StepOutput, TokenLogprobs,
};

use crate::control::Control;
use crate::script::Script;

/// Not a token of the vocabulary: a slot that nobody wrote.
const UNWRITTEN: u32 = u32::MAX;

/// See the file's header.
pub struct ScriptedExecutor {
    capacity: Capacity,
    script: Script,
    control: Control,
    /// Of the pool of all KV groups, `num_blocks * block_size`.
    slots: Vec<u32>,
    unlikely: Vec<u32>,
    /// Prompt and choice to answer.
    answers: HashMap<(Vec<u32>, u32), Vec<u32>>,
}

impl ScriptedExecutor {
    /// A model that says what the script says.
    pub fn new(capacity: Capacity, script: Script, control: Control) -> Self {
        let slots = vec![UNWRITTEN; capacity.num_blocks * capacity.block_size];
        Self {
            capacity,
            script,
            control,
            slots,
            unlikely: Vec::new(),
            answers: HashMap::new(),
        }
    }

    /// Says these tokens at a log-probability of -9, all others at -0.25.
    #[must_use]
    pub fn with_unlikely(mut self, tokens: Vec<u32>) -> Self {
        self.unlikely = tokens;
        self
    }

    fn copy_blocks(&mut self, plan: &BatchPlan) {
        let size = self.capacity.block_size;
        for copy in &plan.copies {
            let src = copy.src.0 as usize * size;
            let dst = copy.dst.0 as usize * size;
            self.slots.copy_within(src..src + size, dst);
        }
    }

    fn write(&mut self, slice: &SeqSlice, tokens: &[u32]) {
        let first = slice.context_len - slice.query_len;
        for table in &slice.block_tables {
            for (i, &token) in tokens.iter().enumerate() {
                let slot = self.slot(table, first + i);
                self.slots[slot] = token;
            }
        }
    }

    /// The sequence as its KV cache has it: in the first group, which keeps every block.
    fn read(&self, slice: &SeqSlice) -> Vec<u32> {
        let table = &slice.block_tables[0];
        (0..slice.context_len)
            .map(|position| self.slots[self.slot(table, position)])
            .collect()
    }

    fn slot(&self, table: &[gossamer_scheduler::BlockId], position: usize) -> usize {
        let size = self.capacity.block_size;
        table[position / size].0 as usize * size + position % size
    }

    fn answer(&mut self, prompt: &[u32], choice: u32) -> Vec<u32> {
        let script = &self.script;
        (self.answers)
            .entry((prompt.to_vec(), choice))
            .or_insert_with(|| script.answer(prompt, choice))
            .clone()
    }

    fn sample(&mut self, context: &[u32], spec: &SampleSpec) -> SampledToken {
        let (prompt, said) = context.split_at(context.len() - spec.output_len);
        let mut answer = self.answer(prompt, spec.choice);
        let mut next = said.len();
        if !follows(&answer, said) {
            // Something else was put in: from the message that it began, the script is asked anew.
            let last = context.iter().rposition(|token| *token == special::MESSAGE);
            if let Some(start) = last.map(|at| at + 1).filter(|at| *at > prompt.len()) {
                answer = self.answer(&context[..start], spec.choice);
                next = context.len() - start;
            }
        }
        let banned = spec.banned.as_deref().unwrap_or_default();
        let token = (answer.get(next).copied())
            .filter(|token| !banned.contains(token))
            .unwrap_or_else(filler);
        SampledToken {
            token,
            logprobs: (spec.params.logprobs).map(|k| {
                let mut logprobs = logprobs(token, k);
                if self.unlikely.contains(&token) {
                    logprobs.logprob = -9.0;
                }
                Box::new(logprobs)
            }),
        }
    }
}

impl Executor for ScriptedExecutor {
    fn capacity(&self) -> Capacity {
        self.capacity.clone()
    }

    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
        self.control.enter_step(plan.sample_specs())?;
        self.copy_blocks(plan);
        let mut samples = Vec::new();
        for slice in &plan.slices {
            let rows = slice.query_start..slice.query_start + slice.query_len;
            self.write(slice, &plan.tokens[rows]);
            let context = self.read(slice);
            for spec in &slice.samples {
                samples.push(self.sample(&context, spec));
            }
        }
        let scores = plan.slices.iter().filter_map(|slice| slice.scores.as_ref());
        let scores = scores.flat_map(|scores| scores.targets.iter().map(|&t| score(t, scores.top)));
        Ok(StepOutput {
            scores: scores.collect(),
            samples,
        })
    }
}

/// The likeliest token, as a drawn one.
fn score(token: u32, top: u8) -> PromptLogprobs {
    PromptLogprobs {
        rank: 1,
        logprobs: logprobs(token, top),
    }
}

/// Whether this is how the answer begins, or how it goes on with fillers.
fn follows(answer: &[u32], said: &[u32]) -> bool {
    let known = said.len().min(answer.len());
    (answer[..known].iter().zip(said)).all(|(own, said)| own == said || *said == filler())
}

/// What the model says when it has nothing to say and may not stop.
fn filler() -> u32 {
    Tokenizer::get().encode(" more")[0]
}

/// The token itself at -0.25, then tokens 0, 1, 2, ... at -1, -2, -3, ...
fn logprobs(token: u32, k: u8) -> TokenLogprobs {
    let others = (0..).filter(|other| *other != token);
    let rest = others.zip(1..).map(|(other, rank)| (other, -(rank as f32)));
    TokenLogprobs {
        logprob: -0.25,
        top: std::iter::once((token, -0.25))
            .chain(rest)
            .take(usize::from(k))
            .collect(),
    }
}
