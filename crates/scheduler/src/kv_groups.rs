//! The KV cache of all groups, as block tables see it: match, allocate, fork, copy on write, register, release.
//!
//! A sequence has one block table per [`KvGroup`]; all groups take their blocks from one pool. In a group with a
//! window, blocks are taken chunk by chunk and given back as soon as no query to come can see them.
//! Knows ids and tokens, neither bytes nor which sequence is more important.
//! Invariant: a block below a sequence's computed length is never written again; a block that is written
//! belongs to one table alone.

use crate::batch_plan::{BlockCopy, BlockId};
use crate::block_pool::{BlockPool, Worth};
use crate::config::SchedulerConfig;
use crate::executor::{Capacity, KvGroup};
use crate::prefix_cache::{NodeId, Parent, PrefixCache, Registered};
use crate::sequence::Tokens;

/// After this many windows of tokens, what a hit there needs of a group is worth keeping: a long beginning stays
/// useful even when its end has been evicted or differs.
const CHECKPOINT_WINDOWS: usize = 8;

/// What a running sequence holds in the KV cache. Empty for any other sequence.
///
/// ```text
/// positions  0 ............ registered * block_size ...... computed_len ....... table.len() * block_size
///            | full blocks, in the prefix cache  | written | allocated, to be written         |
/// window     | given back ..... | held .....................................................  |
/// ```
#[derive(Debug, Default)]
pub(crate) struct SequenceKv {
    /// One block table per group. The first group's is long enough for all tokens; the others' end with the step's
    /// chunk, and those of a group with a window start with [`BlockId::BEHIND_WINDOW`], as often as
    /// [`KvGroup::first_block`] of the computed length says.
    pub(crate) tables: Vec<Vec<BlockId>>,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed_len: usize,
    /// Leading blocks that were offered to the prefix cache.
    pub(crate) registered: usize,
    /// Leading blocks that the first group had cached at admission, whether or not the others had what a hit needs:
    /// where the sequence parts from others that came before it.
    pub(crate) known: usize,
}

/// All groups.
#[derive(Debug)]
pub(crate) struct KvGroups {
    pub(crate) groups: Vec<KvGroup>,
    pub(crate) pool: BlockPool,
    pub(crate) cache: PrefixCache,
    block_size: usize,
    enable_prefix_caching: bool,
    /// The step budget: no chunk is longer.
    max_chunk: usize,
}

impl KvGroups {
    /// # Panics
    /// When the first group has a window, against [`Capacity::groups`].
    pub(crate) fn new(config: &SchedulerConfig, capacity: &Capacity) -> Self {
        let first = capacity.groups.first();
        assert!(
            first.is_some_and(|group| group.window.is_none()),
            "the first group keeps every block: {capacity:?}"
        );
        Self {
            groups: capacity.groups.clone(),
            pool: BlockPool::new(capacity.num_blocks),
            cache: PrefixCache::default(),
            block_size: capacity.block_size,
            enable_prefix_caching: config.enable_prefix_caching,
            max_chunk: config.max_num_batched_tokens,
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

    /// Blocks for `tokens`, the longest cached prefix reused: in the first group for all of them, in the others for
    /// a first chunk of at most `budget`. `None`, and nothing has changed, unless at least `reserve` blocks stay
    /// allocatable after all that the sequence will take for these tokens.
    ///
    /// Of the tokens at most the first `reusable` are taken from the cache, and never the last one: somebody has to
    /// compute the logits of the next.
    pub(crate) fn admit(
        &mut self,
        salt: u64,
        tokens: &Tokens,
        reusable: usize,
        budget: usize,
        reserve: usize,
    ) -> Option<SequenceKv> {
        // At least the last block of each table is new. This spares the walk through the cache when the pool is
        // exhausted.
        if self.pool.num_allocatable() < self.groups.len() + reserve {
            return None;
        }
        let known = self.known_prefix(salt, tokens, reusable);
        let num_cached = self.longest_hit(&known);
        let computed_len = num_cached * self.block_size;
        let remaining = tokens.len() - computed_len;
        let mut tables = self.cached_tables(&known[..num_cached]);
        let reused = || tables.iter().flatten().filter(|block| block.is_block());
        let idle = reused().filter(|&&block| self.pool.ref_count(block) == 0);
        let chunk = remaining.min(self.max_chunk);
        let held = |group: &KvGroup| group.max_held(tokens.len(), chunk, self.block_size);
        let taken = self.groups.iter().map(held).sum::<usize>() - reused().count();
        if self.pool.num_allocatable() - idle.count() < taken + reserve {
            return None;
        }
        // First hold what is reused, then take the rest: taking may evict.
        for &block in reused() {
            self.pool.retain(block);
        }
        let (all, first_chunk) = (tokens.len(), computed_len + remaining.min(budget));
        for (index, table) in tables.iter_mut().enumerate() {
            let len = if index == 0 { all } else { first_chunk };
            self.extend(table, self.blocks_for(len));
        }
        Some(SequenceKv {
            tables,
            computed_len,
            registered: num_cached,
            known: known.len(),
        })
    }

    /// How many blocks a running sequence of `len` tokens may still take until it has computed them; at least one in
    /// each group, for the next token's.
    pub(crate) fn growth(&self, kv: &SequenceKv, len: usize) -> usize {
        let chunk = (len - kv.computed_len).min(self.max_chunk);
        let of_group = |(group, table): (&KvGroup, &Vec<BlockId>)| {
            let held = table.len() - group.first_block(kv.computed_len, self.block_size);
            let most = group.max_held(len, chunk, self.block_size);
            most.saturating_sub(held).max(1)
        };
        self.groups.iter().zip(&kv.tables).map(of_group).sum()
    }

    /// The longest prefix whose blocks the first group has.
    fn known_prefix(&self, salt: u64, tokens: &Tokens, reusable: usize) -> Vec<(NodeId, BlockId)> {
        let usable = tokens.len().saturating_sub(1).min(reusable) / self.block_size;
        let blocks = (0..usable).map(|i| tokens.block(i, self.block_size));
        self.cache.longest_match(salt, blocks)
    }

    /// How many blocks of a known prefix can be reused: the most after which every other group still has all that
    /// the next query sees.
    fn longest_hit(&self, known: &[(NodeId, BlockId)]) -> usize {
        let mut longest = 0;
        // Of each group: how many blocks in a row are cached, up to the one looked at.
        let mut runs = vec![0; self.groups.len()];
        for (&(node, _), end) in known.iter().zip(1..) {
            let mut is_hit = true;
            for (index, group) in self.groups.iter().enumerate().skip(1) {
                let cached = self.cache.beside(node, index).is_some();
                runs[index] = if cached { runs[index] + 1 } else { 0 };
                let first = group.first_block(end * self.block_size, self.block_size);
                is_hit &= runs[index] >= end - first;
            }
            if is_hit {
                longest = end;
            }
        }
        longest
    }

    /// Block tables of a prefix that is a hit.
    fn cached_tables(&self, hit: &[(NodeId, BlockId)]) -> Vec<Vec<BlockId>> {
        let of_group = |(index, group): (usize, &KvGroup)| {
            let first = group.first_block(hit.len() * self.block_size, self.block_size);
            let block = |(i, &(node, block)): (usize, &(NodeId, BlockId))| match index {
                0 => block,
                _ if i < first => BlockId::BEHIND_WINDOW,
                _ => (self.cache.beside(node, index)).expect("`longest_hit` saw it"),
            };
            hit.iter().enumerate().map(block).collect()
        };
        self.groups.iter().enumerate().map(of_group).collect()
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
        let shared = |kv: &Self, table: &[BlockId]| {
            let block = table.get(first).copied()?;
            (kv.pool.ref_count(block) > 1).then_some(block)
        };
        let missing = |table: &Vec<BlockId>| {
            num_blocks.saturating_sub(table.len()) + usize::from(shared(self, table).is_some())
        };
        if self.pool.num_allocatable() < kv.tables.iter().map(missing).sum() {
            return false;
        }
        for table in &mut kv.tables {
            if let Some(src) = shared(self, table) {
                let dst = self.take();
                copies.push(BlockCopy { src, dst });
                // Others hold the source, so it stays as it is until the copy is made.
                self.give_back(src, Worth::Keeping);
                table[first] = dst;
            }
            self.extend(table, num_blocks);
        }
        true
    }

    /// Gives back the blocks that hold nothing computed: those that rejected drafts had. They were never offered to the
    /// prefix cache, and nobody shares them.
    pub(crate) fn trim(&mut self, kv: &mut SequenceKv) {
        let num_blocks = self.blocks_for(kv.computed_len);
        for table in &mut kv.tables {
            for block in table.drain(num_blocks.min(table.len())..).rev() {
                self.pool.release(block, Worth::Nothing);
            }
        }
    }

    /// A second holder of everything that `kv` holds.
    pub(crate) fn fork(&mut self, kv: &SequenceKv) -> SequenceKv {
        for &block in kv.tables.iter().flatten().filter(|block| block.is_block()) {
            self.pool.retain(block);
        }
        SequenceKv {
            tables: kv.tables.clone(),
            ..*kv
        }
    }

    /// The next `query_len` of `tokens` are computed: caches the blocks that are full now, then gives back those that
    /// have fallen behind a window.
    pub(crate) fn advance(
        &mut self,
        salt: u64,
        tokens: &Tokens,
        kv: &mut SequenceKv,
        query_len: usize,
    ) {
        let before = kv.computed_len;
        kv.computed_len += query_len;
        if self.enable_prefix_caching {
            self.register_full_blocks(salt, tokens, kv);
        }
        for index in 1..self.groups.len() {
            let group = self.groups[index];
            let first = |position| group.first_block(position, self.block_size);
            for i in first(before)..first(kv.computed_len) {
                let worth = self.worth_behind(group, i, tokens.prompt.len(), kv.known);
                let block = std::mem::replace(&mut kv.tables[index][i], BlockId::BEHIND_WINDOW);
                self.give_back(block, worth);
            }
        }
    }

    /// Where the cache already has the same prefix the table is pointed at it and the duplicate is freed, so that
    /// whoever holds a registered block holds its whole chain in the first group: parents are never evicted before
    /// their children, nor any block before those beside it.
    fn register_full_blocks(&mut self, salt: u64, tokens: &Tokens, kv: &mut SequenceKv) {
        for i in kv.registered..kv.computed_len / self.block_size {
            let node = |kv: &Self, block| kv.cache.node(block);
            let parent = match i.checked_sub(1) {
                None => Parent::Root { salt },
                Some(before) => Parent::Node(
                    node(self, kv.tables[0][before]).expect("blocks are registered in order"),
                ),
            };
            let content = tokens.block(i, self.block_size);
            let registered = self.cache.register(parent, content, kv.tables[0][i]);
            self.share(&mut kv.tables[0][i], registered);
            let node = node(self, kv.tables[0][i]).expect("it was registered just now");
            for index in 1..self.groups.len() {
                let block = &mut kv.tables[index][i];
                let registered = self.cache.register_beside(node, index, *block);
                self.share(block, registered);
            }
            kv.registered = i + 1;
        }
    }

    fn share(&mut self, block: &mut BlockId, registered: Registered) {
        if let Registered::Existing(same) = registered {
            self.pool.retain(same);
            self.give_back(*block, Worth::Nothing);
            *block = same;
        }
    }

    /// What block `index` of a group is worth once it is behind the window. A prefix is reused where it ends for most
    /// of those that share it: at the end of a prompt (the next turn begins with it), where others have parted from
    /// this sequence before, and, so that not all is lost with the last block, now and then in between.
    fn worth_behind(&self, group: KvGroup, index: usize, prompt_len: usize, known: usize) -> Worth {
        let block_size = self.block_size;
        // Whether a hit after `end` blocks needs it.
        let needed =
            |end: usize| index < end && group.first_block(end * block_size, block_size) <= index;
        let checkpoint = (group.window)
            .map_or(1, |window| self.blocks_for(window * CHECKPOINT_WINDOWS))
            .max(1);
        // The same prompt again is reused but for its last token.
        let again = (prompt_len - 1) / block_size;
        let ends = [
            prompt_len / block_size,
            again,
            known,
            (index + 1).next_multiple_of(checkpoint),
        ];
        match ends.into_iter().any(needed) {
            true => Worth::Keeping,
            false => Worth::Little,
        }
    }

    /// Gives back everything that `kv` holds.
    ///
    /// From the end: children become evictable before their parents. What is cached behind a window takes its turn
    /// beside the first group's block of the same prefix: either is of no use without the other.
    pub(crate) fn release(&mut self, kv: SequenceKv) {
        let Some((first, others)) = kv.tables.split_first() else {
            return;
        };
        for (i, &block) in first.iter().enumerate().rev() {
            let node = self.cache.node(block);
            self.give_back(block, Worth::Keeping);
            for (table, index) in others.iter().zip(1..) {
                match table.get(i) {
                    Some(&block) if block.is_block() => self.give_back(block, Worth::Keeping),
                    Some(_) => {
                        if let Some(cached) = node.and_then(|n| self.cache.beside(n, index)) {
                            self.pool.touch(cached);
                        }
                    }
                    None => {}
                }
            }
        }
    }

    fn extend(&mut self, table: &mut Vec<BlockId>, num_blocks: usize) {
        while table.len() < num_blocks {
            table.push(self.take());
        }
    }

    /// # Panics
    /// When no block is allocatable: callers have counted.
    fn take(&mut self) -> BlockId {
        let (block, evicted) = self.pool.take().expect("counted before");
        if evicted {
            for lost in self.cache.forget(block, self.groups.len()) {
                self.pool.discard(lost);
            }
        }
        block
    }

    fn give_back(&mut self, block: BlockId, worth: Worth) {
        let cached = self.cache.is_registered(block);
        let worth = if cached { worth } else { Worth::Nothing };
        self.pool.release(block, worth);
    }
}
