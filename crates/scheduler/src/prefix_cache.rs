//! Which full blocks hold which token prefixes.
//!
//! A block's key is its parent and its own tokens, the chain's root is the cache salt, so a key stands for the
//! whole prefix up to the block's end. The parent is named by a number that is never used twice, not by a digest,
//! and tokens are compared, so two different prefixes can never be taken for each other.
//! Knows nothing of references or eviction order (`block_pool.rs`); told when a block's content is gone.
//! Invariant: a registered block's parent is registered too (`invariants.rs`, I4).

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

#[derive(Debug)]
struct Entry {
    node: NodeId,
    key: Arc<Key>,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    /// The block now stands for its prefix.
    New,
    /// Another block already does.
    Existing(BlockId),
}

/// The registered blocks of one KV group.
///
/// The maps are only ever looked up, never iterated, so their random order cannot reach a plan.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    by_key: HashMap<Arc<Key>, BlockId>,
    by_block: HashMap<BlockId, Entry>,
    next_node: u64,
}

impl PrefixCache {
    /// The blocks of the longest registered prefix that is made of these consecutive full blocks of tokens.
    pub(crate) fn longest_match(
        &self,
        salt: u64,
        blocks_of_tokens: impl Iterator<Item = Box<[TokenId]>>,
    ) -> Vec<BlockId> {
        let mut parent = Parent::Root { salt };
        let mut matched = Vec::new();
        for tokens in blocks_of_tokens {
            let Some(&block) = self.by_key.get(&Key { parent, tokens }) else {
                break;
            };
            parent = Parent::Node(self.by_block[&block].node);
            matched.push(block);
        }
        matched
    }

    /// Declares that `block` holds `tokens` after `parent`.
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
        self.by_block.insert(block, Entry { node, key });
        Registered::New
    }

    /// The block's content is about to be overwritten.
    pub(crate) fn forget(&mut self, block: BlockId) {
        if let Some(entry) = self.by_block.remove(&block) {
            self.by_key.remove(&entry.key);
        }
    }

    pub(crate) fn is_registered(&self, block: BlockId) -> bool {
        self.by_block.contains_key(&block)
    }

    /// The node of a registered block.
    pub(crate) fn node(&self, block: BlockId) -> Option<NodeId> {
        self.by_block.get(&block).map(|entry| entry.node)
    }

    pub(crate) fn key(&self, block: BlockId) -> Option<&Key> {
        self.by_block.get(&block).map(|entry| &*entry.key)
    }

    /// The block registered under a key.
    pub(crate) fn block(&self, key: &Key) -> Option<BlockId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn len(&self) -> (usize, usize) {
        (self.by_key.len(), self.by_block.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(tokens: &[TokenId]) -> impl Iterator<Item = Box<[TokenId]>> + '_ {
        tokens.chunks_exact(2).map(Into::into)
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
        let hit = |salt, tokens: &[TokenId]| cache.longest_match(salt, blocks(tokens));
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
        cache.forget(BlockId(7));
        cache.register(Parent::Root { salt: 0 }, [1, 2].into(), BlockId(7));
        assert_eq!(cache.longest_match(0, blocks(&[1, 2, 3, 4])), [BlockId(7)]);
    }
}
