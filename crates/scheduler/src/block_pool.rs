//! Physical KV blocks of one group: who holds how many references, which are free, which may be evicted.
//!
//! Knows block *ids* only: the bytes live in the engine, the tokens in `prefix_cache.rs`.
//! Invariant: a block is exactly one of free, evictable (no references, content kept) or in use
//! (references > 0) (`invariants.rs`, I1 and I2).

use std::collections::BTreeMap;

use crate::batch_plan::BlockId;

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// On the free list, content worthless.
    Free,
    /// No references, but its content can still be reused; `released_at` is the logical time of its release.
    Evictable { released_at: u64 },
    /// Held by this many block tables (and pins).
    InUse { ref_count: u32 },
}

/// The blocks of one KV group.
#[derive(Debug)]
pub(crate) struct BlockPool {
    states: Vec<BlockState>,
    /// Used as a stack: the block freed last is the warmest in the processor's caches.
    free: Vec<BlockId>,
    /// Least recently released first. The clock is logical, so the same calls evict the same blocks.
    evictable: BTreeMap<u64, BlockId>,
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

    /// Takes a block with one reference: a free one, else the least recently released evictable one.
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
            BlockState::Evictable { released_at } => {
                *state = BlockState::InUse { ref_count: 1 };
                self.evictable.remove(&released_at);
            }
            BlockState::Free => panic!("block {block:?} is free and cannot be shared"),
        }
    }

    /// Drops a reference. With the last one the block becomes evictable (`keep`) or free.
    ///
    /// # Panics
    /// When nobody holds the block (a double free).
    pub(crate) fn release(&mut self, block: BlockId, keep: bool) {
        let state = &mut self.states[block.0 as usize];
        match *state {
            BlockState::InUse { ref_count: 1 } if keep => {
                self.clock += 1;
                *state = BlockState::Evictable {
                    released_at: self.clock,
                };
                self.evictable.insert(self.clock, block);
            }
            BlockState::InUse { ref_count: 1 } => {
                *state = BlockState::Free;
                self.free.push(block);
            }
            BlockState::InUse { ref_count } => {
                *state = BlockState::InUse {
                    ref_count: ref_count - 1,
                }
            }
            _ => panic!("block {block:?} is released but nobody holds it"),
        }
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

    /// Least recently released first.
    pub(crate) fn evictable(&self) -> impl Iterator<Item = (u64, BlockId)> + '_ {
        self.evictable.iter().map(|(&at, &block)| (at, block))
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

        pool.release(BlockId(1), true);
        pool.release(BlockId(0), true);
        pool.release(BlockId(2), false);
        assert_eq!(pool.num_allocatable(), 3);
        assert_eq!(pool.take(), Some((BlockId(2), false)));
        assert_eq!(pool.take(), Some((BlockId(1), true)));
        assert_eq!(pool.take(), Some((BlockId(0), true)));
    }

    #[test]
    fn a_retained_block_outlives_its_first_holder_and_leaves_the_eviction_order() {
        let mut pool = BlockPool::new(2);
        let (a, _) = pool.take().unwrap();
        pool.retain(a);
        pool.release(a, true);
        assert_eq!(pool.ref_count(a), 1);
        pool.release(a, true);
        assert_eq!(pool.num_evictable(), 1);
        pool.retain(a);
        assert_eq!(pool.num_evictable(), 0);
        assert_eq!(pool.ref_count(a), 1);
    }
}
