//! Turns that led to a tool call, kept by the call's id until its result comes.
//!
//! Clients forget: most of them send a call back without the reasoning before it, or its arguments with other blanks. The
//! model then reads a conversation that it did not have, and the prefix cache finds nothing from there on. So what the
//! model wrote is kept, token by token, and put back in the place of what the client sends, if that says the same.
//!
//! What says the same: the same calls by name and by the value of their arguments, and of reasoning and preamble either
//! nothing or the same. A client that has changed a call gets the reasoning back that led to it, if it sends none; one that
//! sends other reasoning is believed.
//!
//! Where an API has thoughts, messages and calls as items, what was one generation is several turns of the conversation; they
//! are read, and put back, as one.
//!
//! Knows no wire format. Invariants: what one principal's requests left is found by that principal alone; there are never
//! more turns and bytes than the bounds say, and none that nobody asked for during the time to live. The least recently used
//! goes first.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gossamer_harmony::{Token, ToolCall, Turn};
use serde_json::Value;

use crate::generation::{Assembler, ChatAssembler, Piece, SEPARATOR, Update};

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBounds {
    /// Most turns; 0 keeps none.
    pub turns: usize,
    /// Most bytes.
    pub bytes: usize,
    /// How long a turn is kept that nobody asks for.
    pub time_to_live: Duration,
}

/// What an entry takes besides its tokens and its key: two maps' nodes, the entry, two allocations. An estimate.
const OVERHEAD: usize = 256;

/// See the file's header. Shared by all workers.
#[derive(Debug)]
pub(crate) struct KeptTurns {
    bounds: KeptBounds,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    turns: HashMap<Arc<str>, Kept>,
    /// Keys by last use, oldest first.
    by_use: BTreeMap<u64, Arc<str>>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    turn: KeptTurn,
    bytes: usize,
    used: Instant,
    tick: u64,
}

/// What the model wrote after `<|start|>assistant`, up to `<|call|>`.
#[derive(Clone, Debug)]
pub(crate) struct KeptTurn {
    tokens: Arc<[Token]>,
    /// Well-formed, so that the model may read it again as it stands.
    literal: bool,
}

/// Where a request's turns are kept.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    turns: Arc<KeptTurns>,
    principal: Arc<str>,
}

impl Keeper {
    /// Of this principal's requests.
    pub fn new(turns: Arc<KeptTurns>, principal: Arc<str>) -> Self {
        Self { turns, principal }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.turns.bounds.turns > 0
    }

    /// Keeps what led to the call with this id.
    pub fn keep(&self, call_id: &str, tokens: &[Token], literal: bool) {
        let turn = KeptTurn {
            tokens: tokens.into(),
            literal,
        };
        (self.turns).insert(key(&self.principal, call_id), turn, Instant::now());
    }

    /// Puts back what clients have forgotten. `calls` names the turns that made calls, by place and in order, with the id of
    /// the first call that they, and the turns of the same generation around them, made.
    pub fn restore(&self, turns: &mut Vec<Turn>, calls: &[(usize, String)]) {
        // From the end, because several turns may become one.
        let mut end = turns.len();
        for (at, id) in calls.iter().rev() {
            let found = (self.turns).find(&key(&self.principal, id), Instant::now());
            if let Some(kept) = found.filter(|_| *at < end) {
                let generation = generation_around(turns, *at);
                end = generation.start;
                kept.put_back(turns, generation);
            }
        }
    }
}

/// The turns that may be of one generation with that at `at`: all around it that an assistant said, up to answers.
fn generation_around(turns: &[Turn], at: usize) -> Range<usize> {
    let on_the_way = |turn: &&Turn| matches!(turn, Turn::Assistant { content: None, .. });
    let before = turns[..at].iter().rev().take_while(on_the_way).count();
    let behind = turns[at..].iter().take_while(on_the_way).count();
    at - before..at + behind
}

/// Several turns of one generation as one; `None` if one of them is none of an assistant on the way to a call.
fn joined(turns: &[Turn]) -> Option<Turn> {
    fn add(to: &mut Option<String>, text: Option<&String>) {
        let Some(text) = text else { return };
        match to {
            None => *to = Some(text.clone()),
            // As several messages of one kind are told to clients that get them as one text.
            Some(to) => {
                to.push_str(SEPARATOR);
                to.push_str(text);
            }
        }
    }
    let (mut thoughts, mut preambles, mut calls) = (None, None, Vec::new());
    for turn in turns {
        let Turn::Assistant {
            reasoning,
            preamble,
            content: None,
            tool_calls,
        } = turn
        else {
            return None;
        };
        add(&mut thoughts, reasoning.as_ref());
        add(&mut preambles, preamble.as_ref());
        calls.extend_from_slice(tool_calls);
    }
    Some(Turn::Assistant {
        reasoning: thoughts,
        preamble: preambles,
        content: None,
        tool_calls: calls,
    })
}

/// Ids are no secrets, and a principal's name holds no U+0000.
fn key(principal: &str, call_id: &str) -> String {
    format!("{principal}\0{call_id}")
}

impl KeptTurns {
    /// An empty store.
    pub fn new(bounds: KeptBounds) -> Self {
        Self {
            bounds,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; the maps are whole in any case.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, key: String, turn: KeptTurn, now: Instant) {
        let bytes = size_of_val(&*turn.tokens) + key.len() + OVERHEAD;
        if bytes > self.bounds.bytes || self.bounds.turns == 0 {
            return;
        }
        let mut inner = self.lock();
        inner.expire(now, self.bounds.time_to_live);
        let key: Arc<str> = key.into();
        inner.remove(&key);
        while inner.turns.len() >= self.bounds.turns || inner.bytes + bytes > self.bounds.bytes {
            inner.remove_oldest();
        }
        let tick = inner.tick();
        inner.by_use.insert(tick, Arc::clone(&key));
        inner.bytes += bytes;
        let kept = Kept {
            turn,
            bytes,
            used: now,
            tick,
        };
        inner.turns.insert(key, kept);
    }

    fn find(&self, key: &str, now: Instant) -> Option<KeptTurn> {
        let mut inner = self.lock();
        inner.expire(now, self.bounds.time_to_live);
        let tick = inner.tick();
        let kept = inner.turns.get_mut(key)?;
        kept.used = now;
        let before = std::mem::replace(&mut kept.tick, tick);
        let turn = kept.turn.clone();
        if let Some(key) = inner.by_use.remove(&before) {
            inner.by_use.insert(tick, key);
        }
        Some(turn)
    }
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn remove(&mut self, key: &str) {
        if let Some(kept) = self.turns.remove(key) {
            self.by_use.remove(&kept.tick);
            self.bytes -= kept.bytes;
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(key) = self
            .by_use
            .first_key_value()
            .map(|(_, key)| Arc::clone(key))
        {
            self.remove(&key);
        }
    }

    fn expire(&mut self, now: Instant, time_to_live: Duration) {
        while let Some(kept) =
            (self.by_use.first_key_value()).and_then(|(_, key)| self.turns.get(key))
            && now.saturating_duration_since(kept.used) > time_to_live
        {
            self.remove_oldest();
        }
    }
}

/// What a turn says, as clients were told.
#[derive(Debug, Default)]
struct Said {
    reasoning: String,
    content: String,
    calls: Vec<ToolCall>,
}

impl KeptTurn {
    /// Reads the tokens as they were read when they were generated.
    fn said(&self) -> Said {
        let mut assembler = ChatAssembler::new(&[], true, "");
        let mut update = Update::default();
        for &token in &*self.tokens {
            assembler.push(token, None, &mut update);
        }
        assembler.finish(&mut update);
        let mut said = Said::default();
        for piece in update.pieces {
            match piece {
                Piece::Begin(_) => {}
                Piece::Reasoning(text) => said.reasoning.push_str(&text),
                Piece::Content(text) => said.content.push_str(&text),
                Piece::ToolCall { name, .. } => said.calls.push(ToolCall {
                    name,
                    arguments: String::new(),
                }),
                Piece::Arguments { index, text } => {
                    if let Some(call) = said.calls.get_mut(index) {
                        call.arguments.push_str(&text);
                    }
                }
            }
        }
        said
    }

    /// Puts this in the place of what a client sent, as far as that leaves room for it.
    fn put_back(self, turns: &mut Vec<Turn>, generation: Range<usize>) {
        let Some(mut sent) = joined(&turns[generation.clone()]) else {
            return;
        };
        let Turn::Assistant {
            reasoning,
            preamble,
            tool_calls,
            ..
        } = &mut sent
        else {
            return;
        };
        let said = self.said();
        let names = |calls: &[ToolCall]| -> Vec<String> {
            calls.iter().map(|call| call.name.clone()).collect()
        };
        if names(&said.calls) != names(tool_calls) {
            return;
        }
        let fits =
            |sent: &Option<String>, said: &str| sent.as_deref().is_none_or(|sent| sent == said);
        let same = fits(reasoning, &said.reasoning)
            && fits(preamble, &said.content)
            && (said.calls.iter().zip(&*tool_calls))
                .all(|(said, sent)| same_arguments(&said.arguments, &sent.arguments));
        let forgotten = reasoning.is_none() && !said.reasoning.is_empty();
        if forgotten {
            *reasoning = Some(said.reasoning.clone());
        }
        if same && self.literal {
            let whole = Turn::Generated {
                tokens: self.tokens,
                plain: Box::new(sent),
            };
            turns.splice(generation, [whole]);
        } else if forgotten
            && let Some(Turn::Assistant { reasoning, .. }) = turns.get_mut(generation.start)
        {
            *reasoning = Some(said.reasoning);
        }
    }
}

/// Whether two texts mean the same arguments: clients write JSON anew.
fn same_arguments(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    match (serde_json::from_str(one), serde_json::from_str(other)) {
        (Ok(one), Ok(other)) => same_value(&one, &other),
        // What Anthropic's clients are told of a call without arguments.
        (Err(_), Ok(Value::Object(other))) => one.trim().is_empty() && other.is_empty(),
        _ => false,
    }
}

/// As JavaScript has it: numbers are the same that are the same as floating-point numbers.
fn same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| same_value(a, b))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same =
                |(key, a): (&String, &Value)| other.get(key).is_some_and(|b| same_value(a, b));
            one.len() == other.len() && one.iter().all(same)
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
