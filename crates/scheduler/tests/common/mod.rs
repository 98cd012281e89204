//! An executor that models what is physically in the KV cache, and the oracle that needs no cache at all.
//!
//! A slot holds a token, its position and a digest of everything before it, as a real slot's keys and values
//! depend on the whole prefix, in every group. Every read through a block table checks that it finds exactly the chain
//! of positions 0, 1, 2, ..., in a group with a window the part of it that the queries see; a wrongly shared, evicted,
//! returned or uncopied block breaks the chain. The next token is a function of the tokens *read from the slots*, the
//! seed and the choice, so any schedule, and any groups, must give what [`alone`] gives.

#![allow(dead_code)] // each test program uses its own part of it

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use gossamer_scheduler::*;

/// The token that ends a sequence; the others are 0 and 1, because a small vocabulary collides soonest.
pub const STOP: TokenId = 2;

/// Content of one slot.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot {
    token: TokenId,
    position: usize,
    chain: u64,
}

impl Slot {
    fn after(before: Option<Slot>, token: TokenId, position: usize) -> Self {
        let chain = digest(&(before.map(|slot| slot.chain), token));
        Slot {
            token,
            position,
            chain,
        }
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The next token of a sequence: depends on every token before it, the seed and the choice.
pub fn next_token(tokens: &[TokenId], seed: u64, choice: u32, stop_banned: bool) -> TokenId {
    let random = digest(&(tokens, seed, choice));
    match random % 7 {
        0 if !stop_banned => STOP,
        odd => (odd % 2) as TokenId,
    }
}

/// The log-probability of whatever comes after these tokens.
pub fn logprob_after(tokens: &[TokenId]) -> f32 {
    (digest(&tokens) % 1000) as f32
}

/// A rule that refuses two tokens of five, others after every output, and sometimes all.
#[derive(Clone, Debug)]
pub struct Rule(pub u64);

struct Ruled {
    rule: u64,
    output: Vec<TokenId>,
    allowed: Vec<TokenId>,
}

impl ConstraintSource for Rule {
    fn start(&self) -> Box<dyn TokenConstraint> {
        Box::new(Ruled {
            rule: self.0,
            output: Vec::new(),
            allowed: Vec::new(),
        })
    }
}

impl TokenConstraint for Ruled {
    fn part(&self) -> Part {
        Part::Text
    }

    fn allows(&mut self, token: TokenId) -> bool {
        digest(&(self.rule, &self.output, token)) % 5 > 1
    }

    fn allowed(&mut self) -> Allowed<'_> {
        let allowed: Vec<_> = (0..=STOP).filter(|&token| self.allows(token)).collect();
        self.allowed = allowed;
        Allowed::Only(&self.allowed)
    }

    fn advance(&mut self, token: TokenId) {
        self.output.push(token);
    }
}

/// The token that is drawn, or the first that the rule allows; `None` if there is none.
fn held(constraint: &mut dyn TokenConstraint, drawn: TokenId) -> Option<TokenId> {
    match constraint.allowed() {
        Allowed::Only(tokens) if tokens.contains(&drawn) => Some(drawn),
        Allowed::Only(tokens) => tokens.first().copied(),
        other => panic!("{other:?}"),
    }
}

/// What choice `choice` of the request generates when nothing else runs.
pub fn alone(request: &NewRequest, choice: u32) -> (Vec<TokenId>, FinishReason) {
    let mut tokens = request.prompt.clone();
    let prompt_len = tokens.len();
    // Tokens that a handover has put in and that are not in the output yet.
    let mut put_in = Vec::new().into_iter();
    let (mut inside, mut counted) = (false, 0);
    loop {
        let output_len = tokens.len() - prompt_len;
        let banned = output_len < request.stop.min_tokens;
        let forced = put_in.next();
        let drawn = || next_token(&tokens, request.sampling.seed, choice, banned);
        let token = match (forced, &request.constraint) {
            (Some(token), _) => token,
            (None, None) => drawn(),
            (None, Some(source)) => {
                let mut constraint = source.start();
                let output = tokens[prompt_len..].iter();
                output.for_each(|&token| constraint.advance(token));
                match held(constraint.as_mut(), drawn()) {
                    Some(token) => token,
                    None => return (tokens.split_off(prompt_len), FinishReason::DeadEnd),
                }
            }
        };
        tokens.push(token);
        if token == STOP && !banned {
            return (tokens.split_off(prompt_len), FinishReason::Stop);
        }
        if output_len + 1 == request.stop.max_tokens {
            return (tokens.split_off(prompt_len), FinishReason::Length);
        }
        let Some(rule) = request.handover.as_ref().filter(|_| forced.is_none()) else {
            continue;
        };
        (inside, counted) = match (inside, rule.closes.contains(&token)) {
            (false, _) => (tokens[prompt_len..].ends_with(&rule.opens), counted),
            (true, true) => (false, counted),
            (true, false) => (true, counted + 1),
        };
        if inside && counted >= rule.max_tokens {
            inside = false;
            put_in = rule.tokens.clone().into_iter();
        }
    }
}

/// The executor over modelled KV contents.
pub struct ContentExecutor {
    pub capacity: Capacity,
    /// Of the one pool.
    slots: Vec<Option<Slot>>,
}

impl ContentExecutor {
    pub fn new(capacity: Capacity) -> Self {
        Self {
            slots: vec![None; capacity.num_blocks * capacity.block_size],
            capacity,
        }
    }

    /// A step that dies half-way: everything the plan may write holds garbage afterwards.
    pub fn scribble(&mut self, plan: &BatchPlan) {
        self.check_shape(plan);
        let garbage = Some(Slot {
            token: 77,
            position: usize::MAX,
            chain: 0,
        });
        let block_size = self.capacity.block_size;
        for copy in &plan.copies {
            let start = copy.dst.0 as usize * block_size;
            self.slots[start..start + block_size].fill(garbage);
        }
        for slice in &plan.slices {
            for table in &slice.block_tables {
                for position in slice.context_len - slice.query_len..slice.context_len {
                    self.slots[slot_index(table, position, block_size)] = garbage;
                }
            }
        }
    }

    /// The promises of `BatchPlan` that need no content.
    fn check_shape(&self, plan: &BatchPlan) {
        assert!(plan.num_tokens() > 0, "an empty step");
        let mut row = 0;
        let mut written = HashSet::new();
        let block_size = self.capacity.block_size;
        for slice in &plan.slices {
            assert_eq!(slice.query_start, row, "slices tile the tokens");
            assert!(slice.query_len > 0 && slice.query_len <= slice.context_len);
            row += slice.query_len;
            assert_eq!(slice.block_tables.len(), self.capacity.groups.len());
            for table in &slice.block_tables {
                for position in slice.context_len - slice.query_len..slice.context_len {
                    let slot = slot_index(table, position, block_size);
                    assert!(written.insert(slot), "a slot is written twice");
                }
            }
        }
        assert_eq!(row, plan.num_tokens(), "slices tile the tokens");
        let sources: HashSet<_> = plan.copies.iter().map(|copy| copy.src).collect();
        let destinations: HashSet<_> = plan.copies.iter().map(|copy| copy.dst).collect();
        assert_eq!(destinations.len(), plan.copies.len(), "{:?}", plan.copies);
        assert!(sources.is_disjoint(&destinations), "{:?}", plan.copies);
    }

    /// All tokens of the slice's sequence, read back through the first group's table, the chain checked, and what the
    /// slice's queries see of them through the others.
    fn read(&self, slice: &SeqSlice) -> Vec<TokenId> {
        let block_size = self.capacity.block_size;
        let read = |table: &[BlockId], position| {
            self.slots[slot_index(table, position, block_size)].expect("an unwritten slot is read")
        };
        let mut chain: Vec<Slot> = Vec::with_capacity(slice.context_len);
        for position in 0..slice.context_len {
            let slot = read(&slice.block_tables[0], position);
            assert_eq!(
                slot,
                Slot::after(chain.last().copied(), slot.token, position),
                "{:?} reads something else at position {position}",
                slice.seq
            );
            chain.push(slot);
        }
        let first_query = slice.context_len - slice.query_len;
        for (group, table) in self.capacity.groups.iter().zip(&slice.block_tables) {
            let window = group.window.unwrap_or(slice.context_len);
            let first = (first_query + 1).saturating_sub(window);
            for (position, &slot) in chain.iter().enumerate().skip(first) {
                assert_eq!(
                    read(table, position),
                    slot,
                    "{:?} reads something else at position {position} of {group:?}",
                    slice.seq
                );
            }
        }
        chain.into_iter().map(|slot| slot.token).collect()
    }
}

fn slot_index(table: &[BlockId], position: usize, block_size: usize) -> usize {
    assert!(table[position / block_size].is_block(), "{table:?}");
    table[position / block_size].0 as usize * block_size + position % block_size
}

fn draw(tokens: &[TokenId], spec: &SampleSpec) -> SampledToken {
    let banned = spec.banned.as_ref().is_some_and(|ids| ids.contains(&STOP));
    let drawn = next_token(tokens, spec.params.seed, spec.choice, banned);
    let allowed = match &spec.constraint {
        None => Some(drawn),
        Some(state) => state.ask(|constraint| held(constraint, drawn)).flatten(),
    };
    let bearing = match allowed {
        Some(_) => Bearing::Kept,
        None => Bearing::DeadEnd,
    };
    SampledToken {
        token: allowed.unwrap_or_default(),
        logprobs: spec.params.logprobs.map(|_| {
            Box::new(TokenLogprobs {
                logprob: logprob_after(tokens),
                top: Vec::new(),
            })
        }),
        constrained: spec.constraint.as_ref().map(|_| (Part::Text, bearing)),
    }
}

impl Executor for ContentExecutor {
    fn capacity(&self) -> Capacity {
        self.capacity.clone()
    }

    fn verifies_drafts(&self) -> bool {
        true
    }

    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
        self.check_shape(plan);
        let block_size = self.capacity.block_size;
        // All at once, as a device may do it: every source is read before a destination is written.
        let before = self.slots.clone();
        for copy in &plan.copies {
            let (src, dst) = (copy.src.0 as usize, copy.dst.0 as usize);
            self.slots[dst * block_size..(dst + 1) * block_size]
                .copy_from_slice(&before[src * block_size..(src + 1) * block_size]);
        }
        // All writes before all reads, as a kernel over the whole batch does it.
        for slice in &plan.slices {
            let rows = slice.query_start..slice.query_start + slice.query_len;
            let first = slice.context_len - slice.query_len;
            for (position, &token) in (first..).zip(&plan.tokens[rows]) {
                // What a layer adds at a position depends on all before it, by way of the layers that see it.
                let before = position
                    .checked_sub(1)
                    .map(|p| self.slots[slot_index(&slice.block_tables[0], p, block_size)])
                    .map(|slot| slot.expect("an unwritten slot is read"));
                for table in &slice.block_tables {
                    let index = slot_index(table, position, block_size);
                    self.slots[index] = Some(Slot::after(before, token, position));
                }
            }
        }
        let mut samples = Vec::new();
        for slice in &plan.slices {
            let tokens = self.read(slice);
            let drafts = plan.drafts(slice);
            let known = tokens.len() - drafts.len();
            assert_eq!(drafts, &tokens[known..]);
            assert!(
                drafts.is_empty()
                    || slice.samples.len() == 1 && slice.query_len == 1 + drafts.len()
            );
            for spec in &slice.samples {
                if let Some(history) = &spec.history {
                    assert_eq!(history.tokens, &tokens[..known]);
                    assert_eq!(history.prompt_len + spec.output_len, known);
                }
                for len in known..=tokens.len() {
                    if let Some(constraint) = &spec.constraint {
                        constraint.suppose(&tokens[known..len]);
                    }
                    let drawn = draw(&tokens[..len], spec);
                    let goes_on = tokens.get(len) == Some(&drawn.token) && !drawn.is_dead_end();
                    samples.push(drawn);
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        let scores = plan.slices.iter().flat_map(score).collect();
        Ok(StepOutput { samples, scores })
    }
}

/// Scores that say which token they are for: its position as the rank, its id as the log-probability.
fn score(slice: &SeqSlice) -> Vec<PromptLogprobs> {
    let Some(scores) = &slice.scores else {
        return Vec::new();
    };
    assert!(!scores.targets.is_empty());
    assert!(scores.rows.end <= slice.query_len);
    assert_eq!(scores.rows.len(), scores.targets.len());
    let first = slice.context_len - slice.query_len + scores.rows.start;
    (first + 1..)
        .zip(&scores.targets)
        .map(|(position, &target)| PromptLogprobs {
            rank: position as u32,
            logprobs: TokenLogprobs {
                logprob: -(target as f32),
                top: vec![(target, 0.0); scores.top.into()],
            },
        })
        .collect()
}
