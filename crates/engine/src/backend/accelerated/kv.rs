//! The KV cache on the device, in the layouts of `mistralrs_paged_attn`.
//!
//! ```text
//! keys     [num_blocks, num_kv_heads, head_dim / x, block_size, x]      x elements are 16 bytes
//! values   [num_blocks, num_kv_heads, head_dim, block_size]
//! ```
//! With a block size of 1 both are plain rows of a token, `[num_slots, num_kv_heads, head_dim]`. Layers with a window use
//! their planes that way: their keys are picked slot by slot (see `paging.rs`), and no kernel reads them by block. A block
//! holds the same bytes either way and belongs to one group at a time, so both may share planes.
//! Invariant: slots are written before they are read (the scheduler's bookkeeping), so old contents never matter.

use candle_core::{DType, Device, Result, Tensor};

use super::device;
use crate::kv_cache::{KvShape, LayerPlace};

/// What cached keys and values are: as [`KvShape`] counts them.
pub const CACHE_DTYPE: DType = DType::BF16;

/// Elements of 16 bytes.
const X: usize = 8;

/// All planes.
pub struct PagedKv {
    layers: Vec<LayerPlace>,
    planes: Vec<Plane>,
    /// Tokens per block.
    pub block_size: usize,
}

/// Keys and values of one layer of each group.
struct Plane {
    by_block: Pair,
    by_slot: Pair,
}

/// Views of the same memory in one of the layouts.
#[derive(Clone)]
pub struct Pair {
    /// Keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

impl PagedKv {
    /// Takes the memory.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(shape: &KvShape, device: &Device) -> Result<Self> {
        let (blocks, heads, dim) = (shape.num_blocks, shape.num_kv_heads, shape.head_dim);
        let size = shape.block_size;
        let plane = || {
            let by_block = Pair {
                keys: device::zeros((blocks, heads, dim / X, size, X), CACHE_DTYPE, device)?,
                values: device::zeros((blocks, heads, dim, size), CACHE_DTYPE, device)?,
            };
            let slots = blocks * size;
            let by_slot = Pair {
                keys: by_block.keys.reshape((slots, heads, dim / X, 1, X))?,
                values: by_block.values.reshape((slots, heads, dim, 1))?,
            };
            Ok(Plane { by_block, by_slot })
        };
        Ok(Self {
            layers: shape.layers.clone(),
            planes: (0..shape.num_planes())
                .map(|_| plane())
                .collect::<Result<_>>()?,
            block_size: size,
        })
    }

    /// KV group of a layer.
    pub fn group(&self, layer: usize) -> usize {
        self.layers[layer].group
    }

    /// A layer's keys and values: block by block, or slot by slot for a layer with a window.
    pub fn layer(&self, layer: usize, has_window: bool) -> &Pair {
        let plane = &self.planes[self.layers[layer].plane];
        match has_window {
            false => &plane.by_block,
            true => &plane.by_slot,
        }
    }

    /// Copies whole blocks: (source, destination), no block twice a destination and none both.
    ///
    /// Not by `mistralrs_paged_attn::copy_blocks`: for CUDA, 0.8.1 gives its kernel the tables of pointers and of blocks by
    /// their addresses in host memory.
    ///
    /// # Errors
    /// The device failed.
    pub fn copy_blocks(&self, copies: &[(u32, u32)], device: &Device) -> Result<()> {
        let sources: Vec<u32> = copies.iter().map(|(source, _)| *source).collect();
        let sources = Tensor::new(sources, device)?;
        for plane in &self.planes {
            for cache in [&plane.by_block.keys, &plane.by_block.values] {
                let blocks = cache.index_select(&sources, 0)?;
                for (index, (_, destination)) in copies.iter().enumerate() {
                    let block = blocks.narrow(0, index, 1)?;
                    cache.slice_set(&block, 0, *destination as usize)?;
                }
            }
        }
        Ok(())
    }
}
