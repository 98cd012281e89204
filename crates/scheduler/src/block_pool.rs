//! Physical KV blocks of all groups: who holds how many references, which are free, which may be evicted.
//!
//! Knows block *ids* only: the bytes live in the engine, the tokens in `prefix_cache.rs`, whose block is whose in
//! `kv_groups.rs`.
//! Invariant: a block is exactly one of free, evictable (no references, content kept) or in use
//! (references > 0) (`invariants.rs`, I1 and I2).

use std::collections::BTreeMap;

use crate::batch_plan::BlockId;

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// On the free list, content worthless.
    Free,
    /// No references, but its content can still be reused.
    Evictable(Turn),
    /// Held by this many block tables (and pins).
    InUse { ref_count: u32 },
}

/// What a block's content is good for once nobody holds the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Worth {
    /// Nothing: it cannot be found.
    Nothing,
    /// A prefix that is unlikely to be asked for. Evicted before all that is [`Worth::Keeping`].
    Little,
    /// A prefix that may well be asked for.
    Keeping,
}

/// When an evictable block's turn comes: the smallest is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) worth: Worth,
    /// Logical time of its release.
    pub(crate) released_at: u64,
}

/// All blocks.
#[derive(Debug)]
pub(crate) struct BlockPool {
    states: Vec<BlockState>,
    /// Used as a stack: the block freed last is the warmest in the processor's caches.
    free: Vec<BlockId>,
    /// In order of eviction. The clock is logical, so the same calls evict the same blocks.
    evictable: BTreeMap<Turn, BlockId>,
    clock: u64,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: usize) -> Self {
        let num_blocks = u32::try_from(num_blocks).unwrap_or(u32::MAX);
        Self {
            states: vec![BlockState::Free; num_blocks as usize],
            free: (0..num_blocks).rev().map(BlockId).collect(),
            evictable: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Takes a block with one reference: a free one, else the first of the evictable ones.
    /// The flag says that the block was evicted: its old content must be forgotten by the prefix cache.
    pub(crate) fn take(&mut self) -> Option<(BlockId, bool)> {
        let (block, evicted) = match self.free.pop() {
            Some(block) => (block, false),
            None => (self.evictable.pop_first()?.1, true),
        };
        self.states[block.0 as usize] = BlockState::InUse { ref_count: 1 };
        Some((block, evicted))
    }

    /// Adds a reference to a block in use, or takes an evictable block back into use.
    ///
    /// # Panics
    /// When the block is free: its content is already worthless.
    pub(crate) fn retain(&mut self, block: BlockId) {
        let state = &mut self.states[block.0 as usize];
        match *state {
            BlockState::InUse { ref_count } => {
                *state = BlockState::InUse {
                    ref_count: ref_count + 1,
                }
            }
            BlockState::Evictable(turn) => {
                *state = BlockState::InUse { ref_count: 1 };
                self.evictable.remove(&turn);
            }
            BlockState::Free => panic!("block {block:?} is free and cannot be shared"),
        }
    }

    /// Drops a reference. With the last one the block becomes evictable, or free if its content is worth nothing.
    ///
    /// # Panics
    /// When nobody holds the block (a double free).
    pub(crate) fn release(&mut self, block: BlockId, worth: Worth) {
        match &mut self.states[block.0 as usize] {
            BlockState::InUse { ref_count: 1 } if worth == Worth::Nothing => self.free(block),
            BlockState::InUse { ref_count: 1 } => self.queue(block, worth),
            BlockState::InUse { ref_count } => *ref_count -= 1,
            _ => panic!("block {block:?} is released but nobody holds it"),
        }
    }

    /// Puts an evictable block behind all others of its worth, as if it had been used just now. Others stay as they
    /// are.
    pub(crate) fn touch(&mut self, block: BlockId) {
        if let BlockState::Evictable(turn) = self.state(block) {
            self.evictable.remove(&turn);
            self.queue(block, turn.worth);
        }
    }

    /// Frees an evictable block: its content cannot be found any more.
    ///
    /// # Panics
    /// When the block is not evictable.
    pub(crate) fn discard(&mut self, block: BlockId) {
        let BlockState::Evictable(turn) = self.state(block) else {
            panic!("block {block:?} is discarded but not evictable");
        };
        self.evictable.remove(&turn);
        self.free(block);
    }

    fn queue(&mut self, block: BlockId, worth: Worth) {
        self.clock += 1;
        let turn = Turn {
            worth,
            released_at: self.clock,
        };
        self.states[block.0 as usize] = BlockState::Evictable(turn);
        self.evictable.insert(turn, block);
    }

    fn free(&mut self, block: BlockId) {
        self.states[block.0 as usize] = BlockState::Free;
        self.free.push(block);
    }

    pub(crate) fn ref_count(&self, block: BlockId) -> u32 {
        match self.states[block.0 as usize] {
            BlockState::InUse { ref_count } => ref_count,
            _ => 0,
        }
    }

    pub(crate) fn state(&self, block: BlockId) -> BlockState {
        self.states[block.0 as usize]
    }

    /// How many `take` calls would succeed now.
    pub(crate) fn num_allocatable(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.states.len()
    }

    pub(crate) fn num_free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn num_evictable(&self) -> usize {
        self.evictable.len()
    }

    pub(crate) fn free_list(&self) -> &[BlockId] {
        &self.free
    }

    /// In order of eviction.
    pub(crate) fn evictable(&self) -> impl Iterator<Item = (Turn, BlockId)> + '_ {
        self.evictable.iter().map(|(&turn, &block)| (turn, block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_free_first_then_least_recently_released() {
        let mut pool = BlockPool::new(3);
        let taken: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert_eq!(
            taken,
            [
                (BlockId(0), false),
                (BlockId(1), false),
                (BlockId(2), false)
            ]
        );
        assert_eq!(pool.take(), None);

        pool.release(BlockId(1), Worth::Keeping);
        pool.release(BlockId(0), Worth::Keeping);
        pool.release(BlockId(2), Worth::Nothing);
        assert_eq!(pool.num_allocatable(), 3);
        assert_eq!(pool.take(), Some((BlockId(2), false)));
        assert_eq!(pool.take(), Some((BlockId(1), true)));
        assert_eq!(pool.take(), Some((BlockId(0), true)));
    }

    #[test]
    fn what_is_worth_little_is_evicted_before_what_is_older_and_worth_keeping() {
        let mut pool = BlockPool::new(4);
        let blocks = [0, 1, 2, 3].map(BlockId);
        assert_eq!(blocks.map(|_| pool.take().unwrap().0), blocks);
        for (block, worth) in [
            (blocks[0], Worth::Keeping),
            (blocks[1], Worth::Little),
            (blocks[2], Worth::Keeping),
            (blocks[3], Worth::Little),
        ] {
            pool.release(block, worth);
        }
        pool.touch(blocks[0]);
        pool.discard(blocks[3]);
        let taken = [(); 4].map(|()| pool.take());
        let expected = [(3, false), (1, true), (2, true), (0, true)];
        assert_eq!(taken, expected.map(|(id, old)| Some((BlockId(id), old))));
        pool.touch(blocks[0]);
        assert_eq!(pool.ref_count(blocks[0]), 1, "a block in use stays in use");
    }

    #[test]
    fn a_retained_block_outlives_its_first_holder_and_leaves_the_eviction_order() {
        let mut pool = BlockPool::new(2);
        let (a, _) = pool.take().unwrap();
        pool.retain(a);
        pool.release(a, Worth::Keeping);
        assert_eq!(pool.ref_count(a), 1);
        pool.release(a, Worth::Keeping);
        assert_eq!(pool.num_evictable(), 1);
        pool.retain(a);
        assert_eq!(pool.num_evictable(), 0);
        assert_eq!(pool.ref_count(a), 1);
    }
}
