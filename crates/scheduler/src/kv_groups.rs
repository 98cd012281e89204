//! The KV cache of all groups, as block tables see it: match, allocate, fork, copy on write, register, release.
//!
//! One `Group` per [`crate::GroupCapacity`]; a sequence has one block table in each, and all tables of a
//! sequence grow together. Knows ids and tokens, neither bytes nor which sequence is more important.
//! Invariant: a block below a sequence's computed length is never written again; a block that is written
//! belongs to one table alone.

use crate::batch_plan::{BlockCopy, BlockId};
use crate::block_pool::BlockPool;
use crate::executor::Capacity;
use crate::prefix_cache::{Parent, PrefixCache, Registered};
use crate::sequence::Tokens;

/// One KV group's blocks.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) pool: BlockPool,
    pub(crate) cache: PrefixCache,
}

/// What a running sequence holds in the KV cache. Empty for any other sequence.
///
/// ```text
/// positions  0 ............ registered * block_size ...... computed_len ....... table.len() * block_size
///            | full blocks, in the prefix cache  | written | allocated, to be written         |
/// ```
#[derive(Debug, Default)]
pub(crate) struct SequenceKv {
    /// One block table per group, equally long.
    pub(crate) tables: Vec<Vec<BlockId>>,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed_len: usize,
    /// Leading blocks that were offered to the prefix cache.
    pub(crate) registered: usize,
}

/// All groups.
#[derive(Debug)]
pub(crate) struct KvGroups {
    pub(crate) groups: Vec<Group>,
    block_size: usize,
    enable_prefix_caching: bool,
}

impl KvGroups {
    pub(crate) fn new(capacity: &Capacity, enable_prefix_caching: bool) -> Self {
        let group = |num_blocks| Group {
            pool: BlockPool::new(num_blocks),
            cache: PrefixCache::default(),
        };
        Self {
            groups: capacity
                .groups
                .iter()
                .map(|g| group(g.num_blocks))
                .collect(),
            block_size: capacity.block_size,
            enable_prefix_caching,
        }
    }

    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn is_caching(&self) -> bool {
        self.enable_prefix_caching
    }

    pub(crate) fn blocks_for(&self, len: usize) -> usize {
        len.div_ceil(self.block_size)
    }

    /// Blocks for all of `tokens`, the longest cached prefix reused, if at least `reserve` blocks of each group
    /// stay allocatable; otherwise `None` and nothing has changed.
    ///
    /// Of the tokens at most the first `reusable` are taken from the cache, and never the last one: somebody has to
    /// compute the logits of the next.
    pub(crate) fn admit(
        &mut self,
        salt: u64,
        tokens: &Tokens,
        reusable: usize,
        reserve: usize,
    ) -> Option<SequenceKv> {
        let num_blocks = self.blocks_for(tokens.len());
        // At least the last block is new. This spares the walk through the cache when the pool is exhausted.
        if (self.groups.iter()).any(|group| group.pool.num_allocatable() < 1 + reserve) {
            return None;
        }
        let mut matches = self.match_prefix(salt, tokens, reusable);
        let num_cached = matches.iter().map(Vec::len).min().unwrap_or(0);
        for (group, matched) in self.groups.iter().zip(&mut matches) {
            matched.truncate(num_cached);
            let idle = matched.iter().filter(|&&b| group.pool.ref_count(b) == 0);
            let available = group.pool.num_allocatable() - idle.count();
            if available < num_blocks - num_cached + reserve {
                return None;
            }
        }
        for (group, table) in self.groups.iter_mut().zip(&mut matches) {
            // First hold what is reused, then take the rest: taking may evict.
            for &block in table.iter() {
                group.pool.retain(block);
            }
            while table.len() < num_blocks {
                table.push(group.take().expect("counted above"));
            }
        }
        Some(SequenceKv {
            tables: matches,
            computed_len: num_cached * self.block_size,
            registered: num_cached,
        })
    }

    fn match_prefix(&self, salt: u64, tokens: &Tokens, reusable: usize) -> Vec<Vec<BlockId>> {
        let usable = tokens.len().saturating_sub(1).min(reusable) / self.block_size;
        let of_group = |group: &Group| {
            let blocks = (0..usable).map(|i| tokens.block(i, self.block_size));
            group.cache.longest_match(salt, blocks)
        };
        self.groups.iter().map(of_group).collect()
    }

    /// Makes the positions `computed_len .. computed_len + query_len` writable: appends missing blocks and copies
    /// a block that other tables share, adding the copy to `copies`. `false` (and nothing has changed) when blocks
    /// are missing.
    pub(crate) fn make_writable(
        &mut self,
        kv: &mut SequenceKv,
        query_len: usize,
        copies: &mut Vec<BlockCopy>,
    ) -> bool {
        let first = kv.computed_len / self.block_size;
        let num_blocks = self.blocks_for(kv.computed_len + query_len);
        // Only the first block can be shared: those after it hold no computed token.
        let is_shared = |group: &Group, table: &[BlockId]| {
            (table.get(first)).is_some_and(|&block| group.pool.ref_count(block) > 1)
        };
        for (group, table) in self.groups.iter().zip(&kv.tables) {
            let missing = num_blocks.saturating_sub(table.len());
            let copied = usize::from(is_shared(group, table));
            if group.pool.num_allocatable() < missing + copied {
                return false;
            }
        }
        let tables = kv.tables.iter_mut().enumerate();
        for (group, (index, table)) in self.groups.iter_mut().zip(tables) {
            if is_shared(group, table) {
                let (src, dst) = (table[first], group.take().expect("counted above"));
                copies.push(BlockCopy {
                    group: index,
                    src,
                    dst,
                });
                // Others hold the source, so it stays as it is until the copy is made.
                group.release(src);
                table[first] = dst;
            }
            while table.len() < num_blocks {
                table.push(group.take().expect("counted above"));
            }
        }
        true
    }

    /// A second holder of everything that `kv` holds.
    pub(crate) fn fork(&mut self, kv: &SequenceKv) -> SequenceKv {
        for (group, table) in self.groups.iter_mut().zip(&kv.tables) {
            for &block in table {
                group.pool.retain(block);
            }
        }
        SequenceKv {
            tables: kv.tables.clone(),
            ..*kv
        }
    }

    /// Offers the blocks that are full and computed to the prefix cache. Where the cache already has the same
    /// prefix the table is pointed at it and the duplicate is freed, so that whoever holds a registered block
    /// holds its whole chain: parents are never evicted before their children.
    pub(crate) fn register_full_blocks(&mut self, salt: u64, tokens: &Tokens, kv: &mut SequenceKv) {
        if !self.enable_prefix_caching {
            return;
        }
        for i in kv.registered..kv.computed_len / self.block_size {
            for (group, table) in self.groups.iter_mut().zip(&mut kv.tables) {
                let parent = match i.checked_sub(1) {
                    None => Parent::Root { salt },
                    Some(before) => Parent::Node(
                        (group.cache.node(table[before])).expect("blocks are registered in order"),
                    ),
                };
                let content = tokens.block(i, self.block_size);
                if let Registered::Existing(same) = group.cache.register(parent, content, table[i])
                {
                    group.pool.retain(same);
                    group.release(table[i]);
                    table[i] = same;
                }
            }
            kv.registered = i + 1;
        }
    }

    /// Gives back everything that `kv` holds.
    pub(crate) fn release(&mut self, kv: SequenceKv) {
        for (group, table) in self.groups.iter_mut().zip(kv.tables) {
            // From the end: children become evictable before their parents.
            for block in table.into_iter().rev() {
                group.release(block);
            }
        }
    }
}

impl Group {
    fn take(&mut self) -> Option<BlockId> {
        let (block, evicted) = self.pool.take()?;
        if evicted {
            self.cache.forget(block);
        }
        Some(block)
    }

    fn release(&mut self, block: BlockId) {
        let keep = self.cache.is_registered(block);
        self.pool.release(block, keep);
    }
}
