//! Which full blocks hold which token prefixes.
//!
//! A block of the first group is registered under its parent and its own tokens, the chain's root is the cache salt, so
//! it stands for the whole prefix up to its end. The parent is named by a number that is never used twice, not by a
//! digest, and tokens are compared, so two different prefixes can never be taken for each other.
//! A block of another group is registered beside one of the first, for the same prefix. Its predecessors may be gone:
//! behind a window nobody needs them.
//! Knows nothing of references or eviction order (`block_pool.rs`); told when a block's content is gone.
//! Invariant: a registered block's parent is registered too, and so is the one that it stands beside
//! (`invariants.rs`, I4).

use std::collections::HashMap;
use std::sync::Arc;

use crate::batch_plan::BlockId;
use crate::request::TokenId;

/// One registered prefix. Numbers are not reused, so a stale one matches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u64);

/// What comes before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Parent {
    /// Nothing: the first block of a sequence of this salt.
    Root { salt: u64 },
    /// The prefix that ends with this node.
    Node(NodeId),
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) parent: Parent,
    pub(crate) tokens: Box<[TokenId]>,
}

/// What a registered block stands for.
#[derive(Debug)]
struct Entry {
    node: NodeId,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In the first group.
    Chain(Arc<Key>),
    /// In another.
    Beside { group: usize },
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    /// The block now stands for its prefix.
    New,
    /// Another block already does.
    Existing(BlockId),
}

/// The registered blocks of all KV groups.
///
/// The maps are only ever looked up, never iterated, so their random order cannot reach a plan.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    by_key: HashMap<Arc<Key>, BlockId>,
    beside: HashMap<(NodeId, usize), BlockId>,
    by_block: HashMap<BlockId, Entry>,
    next_node: u64,
}

impl PrefixCache {
    /// The first group's blocks of the longest registered prefix that is made of these consecutive full blocks of tokens.
    pub(crate) fn longest_match(
        &self,
        salt: u64,
        blocks_of_tokens: impl Iterator<Item = Box<[TokenId]>>,
    ) -> Vec<(NodeId, BlockId)> {
        let mut parent = Parent::Root { salt };
        let mut matched = Vec::new();
        for tokens in blocks_of_tokens {
            let Some(&block) = self.by_key.get(&Key { parent, tokens }) else {
                break;
            };
            let node = self.by_block[&block].node;
            parent = Parent::Node(node);
            matched.push((node, block));
        }
        matched
    }

    /// Declares that `block`, of the first group, holds `tokens` after `parent`.
    pub(crate) fn register(
        &mut self,
        parent: Parent,
        tokens: Box<[TokenId]>,
        block: BlockId,
    ) -> Registered {
        let key = Arc::new(Key { parent, tokens });
        if let Some(&existing) = self.by_key.get(&key) {
            return Registered::Existing(existing);
        }
        let node = NodeId(self.next_node);
        self.next_node += 1;
        self.by_key.insert(Arc::clone(&key), block);
        let place = Place::Chain(key);
        self.by_block.insert(block, Entry { node, place });
        Registered::New
    }

    /// Declares that `block`, of another group, holds the last tokens of the prefix `node`.
    pub(crate) fn register_beside(
        &mut self,
        node: NodeId,
        group: usize,
        block: BlockId,
    ) -> Registered {
        if let Some(existing) = self.beside(node, group) {
            return Registered::Existing(existing);
        }
        self.beside.insert((node, group), block);
        let place = Place::Beside { group };
        self.by_block.insert(block, Entry { node, place });
        Registered::New
    }

    /// The block of another group that holds the last tokens of the prefix `node`.
    pub(crate) fn beside(&self, node: NodeId, group: usize) -> Option<BlockId> {
        self.beside.get(&(node, group)).copied()
    }

    /// The block's content is about to be overwritten. Returns what stood beside it, in `num_groups` groups, and can
    /// never be found again.
    pub(crate) fn forget(&mut self, block: BlockId, num_groups: usize) -> Vec<BlockId> {
        let Some(Entry { node, place }) = self.by_block.remove(&block) else {
            return Vec::new();
        };
        match place {
            Place::Chain(key) => {
                self.by_key.remove(&key);
                let lost = (1..num_groups).filter_map(|group| self.beside.remove(&(node, group)));
                let lost: Vec<_> = lost.collect();
                for block in &lost {
                    self.by_block.remove(block);
                }
                lost
            }
            Place::Beside { group } => {
                self.beside.remove(&(node, group));
                Vec::new()
            }
        }
    }

    pub(crate) fn is_registered(&self, block: BlockId) -> bool {
        self.by_block.contains_key(&block)
    }

    /// The prefix that a registered block stands for.
    pub(crate) fn node(&self, block: BlockId) -> Option<NodeId> {
        self.by_block.get(&block).map(|entry| entry.node)
    }

    /// The group of a registered block.
    pub(crate) fn group(&self, block: BlockId) -> Option<usize> {
        let entry = self.by_block.get(&block)?;
        Some(match entry.place {
            Place::Chain(_) => 0,
            Place::Beside { group } => group,
        })
    }

    /// The key of a registered block of the first group.
    pub(crate) fn key(&self, block: BlockId) -> Option<&Key> {
        match &self.by_block.get(&block)?.place {
            Place::Chain(key) => Some(key),
            Place::Beside { .. } => None,
        }
    }

    /// The block registered under a key.
    pub(crate) fn block(&self, key: &Key) -> Option<BlockId> {
        self.by_key.get(key).copied()
    }

    /// Entries of the maps: under keys, beside others, by block.
    pub(crate) fn len(&self) -> [usize; 3] {
        [self.by_key.len(), self.beside.len(), self.by_block.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(tokens: &[TokenId]) -> impl Iterator<Item = Box<[TokenId]>> + '_ {
        tokens.chunks_exact(2).map(Into::into)
    }

    fn found(cache: &PrefixCache, salt: u64, tokens: &[TokenId]) -> Vec<BlockId> {
        let matched = cache.longest_match(salt, blocks(tokens));
        matched.into_iter().map(|(_, block)| block).collect()
    }

    fn cache_with_1234() -> PrefixCache {
        let mut cache = PrefixCache::default();
        let root = Parent::Root { salt: 0 };
        assert_eq!(
            cache.register(root, [1, 2].into(), BlockId(7)),
            Registered::New
        );
        let parent = Parent::Node(cache.node(BlockId(7)).unwrap());
        assert_eq!(
            cache.register(parent, [3, 4].into(), BlockId(9)),
            Registered::New
        );
        cache
    }

    #[test]
    fn the_same_tokens_match_only_after_the_same_prefix_and_salt() {
        let cache = cache_with_1234();
        let hit = |salt, tokens: &[TokenId]| found(&cache, salt, tokens);
        assert_eq!(hit(0, &[1, 2, 3, 4, 5, 6]), [BlockId(7), BlockId(9)]);
        assert_eq!(hit(0, &[1, 2, 3, 5]), [BlockId(7)]);
        assert_eq!(hit(0, &[3, 4]), []);
        assert_eq!(hit(1, &[1, 2]), []);
    }

    #[test]
    fn a_second_block_with_the_same_prefix_is_answered_with_the_first() {
        let mut cache = cache_with_1234();
        assert_eq!(
            cache.register(Parent::Root { salt: 0 }, [1, 2].into(), BlockId(3)),
            Registered::Existing(BlockId(7))
        );
        assert!(!cache.is_registered(BlockId(3)));
    }

    #[test]
    fn a_child_of_a_forgotten_parent_is_not_found_under_the_parents_successor() {
        let mut cache = cache_with_1234();
        cache.forget(BlockId(7), 1);
        cache.register(Parent::Root { salt: 0 }, [1, 2].into(), BlockId(7));
        assert_eq!(found(&cache, 0, &[1, 2, 3, 4]), [BlockId(7)]);
    }

    #[test]
    fn what_stands_beside_a_forgotten_block_is_forgotten_with_it() {
        let mut cache = cache_with_1234();
        let [first, second] = [7, 9].map(|id| cache.node(BlockId(id)).unwrap());
        for (node, group, id) in [(first, 1, 20), (first, 2, 21), (second, 1, 22)] {
            let new = cache.register_beside(node, group, BlockId(id));
            assert_eq!(new, Registered::New);
        }
        assert_eq!(
            cache.register_beside(second, 1, BlockId(23)),
            Registered::Existing(BlockId(22))
        );
        assert_eq!(cache.forget(BlockId(21), 3), []);
        assert_eq!(cache.beside(first, 2), None);
        assert_eq!(cache.forget(BlockId(7), 3), [BlockId(20)]);
        assert!(!cache.is_registered(BlockId(20)));
        assert_eq!(cache.beside(second, 1), Some(BlockId(22)));
    }
}
