//! Compiled grammars, by what they were compiled from.
//!
//! Invariant: at most [`MAX_GRAMMARS`] and about [`MAX_BYTES`]; the least recently used go first. One that is in use
//! lives on until its last text ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::grammar::{Grammar, GrammarError, GrammarSource};

/// Grammars kept.
const MAX_GRAMMARS: usize = 256;
/// Bytes of memory that they may take when compiled; they learn a little more while they are used.
const MAX_BYTES: usize = 64 << 20;

/// Where a grammar came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiled {
    /// It was there.
    Cached,
    /// It was compiled now.
    Now,
}

/// Grammars that were asked for lately.
#[derive(Default)]
pub struct GrammarCache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    bytes: usize,
    clock: u64,
}

struct Entry {
    grammar: Arc<Grammar>,
    used: u64,
}

impl GrammarCache {
    /// The grammar of `source`, if it is known.
    pub fn find(&self, source: &GrammarSource) -> Option<Arc<Grammar>> {
        self.entries().find(&source.key())
    }

    /// The grammar of `source`, compiled here and now if it is not known yet. Others are not held up meanwhile; two who ask
    /// for the same unknown one at the same time both compile it.
    ///
    /// # Errors
    /// As [`Grammar::compile`].
    pub fn get(&self, source: &GrammarSource) -> Result<(Arc<Grammar>, Compiled), GrammarError> {
        let key = source.key();
        if let Some(grammar) = self.entries().find(&key) {
            return Ok((grammar, Compiled::Cached));
        }
        let grammar = Arc::new(Grammar::compile(source)?);
        self.entries().insert(key, Arc::clone(&grammar));
        Ok((grammar, Compiled::Now))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn find(&mut self, key: &str) -> Option<Arc<Grammar>> {
        self.clock += 1;
        let entry = self.by_key.get_mut(key)?;
        entry.used = self.clock;
        Some(Arc::clone(&entry.grammar))
    }

    fn insert(&mut self, key: String, grammar: Arc<Grammar>) {
        self.clock += 1;
        self.bytes += grammar.size + key.len();
        let used = self.clock;
        if let Some(old) = self.by_key.insert(key.clone(), Entry { grammar, used }) {
            self.bytes -= old.grammar.size + key.len();
        }
        while self.by_key.len() > MAX_GRAMMARS || (self.bytes > MAX_BYTES && self.by_key.len() > 1)
        {
            let oldest = self.by_key.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            if let Some(entry) = self.by_key.remove(&key) {
                self.bytes -= entry.grammar.size + key.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_lately_stays_and_the_rest_goes() {
        let cache = GrammarCache::default();
        let source = |i: usize| GrammarSource::Choice(vec![format!("a{i}")]);
        for i in 0..MAX_GRAMMARS + 10 {
            assert_eq!(cache.get(&source(i)).unwrap().1, Compiled::Now);
            assert_eq!(cache.get(&source(0)).unwrap().1, Compiled::Cached);
        }
        let entries = cache.entries();
        assert_eq!(entries.by_key.len(), MAX_GRAMMARS);
        let bytes = entries
            .by_key
            .iter()
            .map(|(key, e)| key.len() + e.grammar.size);
        assert_eq!(entries.bytes, bytes.sum::<usize>());
        drop(entries);
        assert_eq!(cache.get(&source(1)).unwrap().1, Compiled::Now);
    }

    #[test]
    fn a_grammar_that_does_not_compile_is_not_kept() {
        let cache = GrammarCache::default();
        assert!(cache.get(&GrammarSource::Regex("(".into())).is_err());
        assert!(cache.entries().by_key.is_empty());
    }
}
