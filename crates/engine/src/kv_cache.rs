//! How many KV blocks there are and where each layer's lie. Shapes only: a backend owns the bytes.
//!
//! Layers that share block tables form a *group*; a block of a group holds `block_size` tokens of all its layers.
//! Invariant: every layer is in exactly one group.

use gossamer_scheduler::{Capacity, GroupCapacity};

use crate::config::{EngineConfig, KvCacheSize};
use crate::error::LoadError;
use crate::model::ModelConfig;

/// Bytes of one cached element: bf16 on every backend.
const ELEMENT_BYTES: usize = 2;

/// Block sizes that the accelerators' attention kernels are made for.
const BLOCK_SIZES: [usize; 3] = [8, 16, 32];

/// The KV cache of all layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Tokens per block.
    pub block_size: usize,
    /// Key/value heads of every layer.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Group of each layer, `[num_layers]`.
    pub layer_groups: Vec<usize>,
    /// Blocks in each group's pool.
    pub num_blocks: Vec<usize>,
}

impl KvShape {
    /// The cache that `engine` asks for: one group of all layers.
    ///
    /// # Errors
    /// [`LoadError::Setting`] for a block size the kernels do not know, or a cache without a single block.
    pub fn new(model: &ModelConfig, engine: &EngineConfig) -> Result<Self, LoadError> {
        if !BLOCK_SIZES.contains(&engine.block_size) {
            return Err(LoadError::Setting {
                setting: "block_size",
                message: format!(
                    "must be one of {BLOCK_SIZES:?}, found {}",
                    engine.block_size
                ),
            });
        }
        let mut shape = Self {
            block_size: engine.block_size,
            num_kv_heads: model.num_kv_heads,
            head_dim: model.head_dim,
            layer_groups: vec![0; model.num_layers()],
            num_blocks: vec![0],
        };
        let block_bytes = shape.block_bytes(0) as u64;
        let num_blocks = match engine.kv_cache {
            KvCacheSize::Blocks(blocks) => blocks as u64,
            KvCacheSize::Bytes(bytes) => bytes / block_bytes,
        };
        if num_blocks == 0 || num_blocks > u64::from(u32::MAX) {
            return Err(LoadError::Setting {
                setting: "kv_cache",
                message: format!("{num_blocks} blocks of {block_bytes} bytes"),
            });
        }
        shape.num_blocks[0] = num_blocks as usize;
        Ok(shape)
    }

    /// Elements of one block in the keys of one layer, and again in its values.
    pub fn block_len(&self) -> usize {
        self.block_size * self.num_kv_heads * self.head_dim
    }

    /// Bytes of one block of a group: all its layers, keys and values.
    pub fn block_bytes(&self, group: usize) -> usize {
        let layers = self
            .layer_groups
            .iter()
            .filter(|layer| **layer == group)
            .count();
        layers * 2 * self.block_len() * ELEMENT_BYTES
    }

    /// Bytes of the whole cache once every block has been used.
    pub fn total_bytes(&self) -> usize {
        (0..self.num_blocks.len())
            .map(|group| self.num_blocks[group] * self.block_bytes(group))
            .sum()
    }

    /// What the scheduler is told.
    pub fn capacity(&self, max_model_len: usize) -> Capacity {
        let groups = self.num_blocks.iter().enumerate();
        Capacity {
            block_size: self.block_size,
            max_model_len,
            groups: groups
                .map(|(group, &num_blocks)| GroupCapacity {
                    num_blocks,
                    block_bytes: self.block_bytes(group),
                })
                .collect(),
        }
    }
}
