//! The KV cache in memory: keys and values of every layer, block by block, as the kernels lay them out.
//!
//! Anonymous zero pages: a page costs memory from the first write to it, so a large pool is free until it is used.
//! Invariant: slots are written before they are read (the scheduler's bookkeeping), so old contents never matter.

use gossamer_kernels::{KvCache, KvLayout, write_kv};
use memmap2::MmapMut;

use crate::error::LoadError;
use crate::kv_cache::{KvShape, LayerPlace};

/// All planes: where the layers' keys and values lie ([`KvShape`]).
#[derive(Default)]
pub struct CpuKvCache {
    layers: Vec<LayerPlace>,
    planes: Vec<Plane>,
}

struct Plane {
    layout: KvLayout,
    keys: MmapMut,
    values: MmapMut,
}

impl CpuKvCache {
    /// Reserves address space for `shape`.
    ///
    /// # Errors
    /// [`LoadError::Setting`] when the system refuses.
    pub fn new(shape: &KvShape) -> Result<Self, LoadError> {
        let layout = KvLayout {
            num_kv_heads: shape.num_kv_heads,
            block_size: shape.block_size,
            dtype: shape.dtype,
        };
        assert_eq!(
            layout.block_bytes(),
            shape.plane_block_bytes(),
            "head sizes are checked with the configuration"
        );
        let reserve = || {
            let bytes = shape.num_blocks * layout.block_bytes();
            MmapMut::map_anon(bytes).map_err(|error| LoadError::Setting {
                setting: "kv_cache",
                message: format!("no room for {} bytes: {error}", shape.total_bytes()),
            })
        };
        let planes = (0..shape.num_planes()).map(|_| {
            Ok(Plane {
                layout,
                keys: reserve()?,
                values: reserve()?,
            })
        });
        Ok(Self {
            layers: shape.layers.clone(),
            planes: planes.collect::<Result<_, LoadError>>()?,
        })
    }

    /// KV group of a layer.
    pub fn group(&self, layer: usize) -> usize {
        self.layers[layer].group
    }

    /// A layer's keys and values.
    pub fn layer(&self, layer: usize) -> KvCache<'_> {
        let Plane {
            layout,
            keys,
            values,
        } = &self.planes[self.layers[layer].plane];
        KvCache {
            keys,
            values,
            layout: *layout,
        }
    }

    /// Stores one key row and one value row per slot.
    pub fn write(&mut self, layer: usize, slots: &[usize], keys: &[f32], values: &[f32]) {
        let Plane {
            layout,
            keys: key_cache,
            values: value_cache,
        } = &mut self.planes[self.layers[layer].plane];
        let width = keys.len() / slots.len();
        let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (slot, (key, value)) in slots.iter().zip(rows) {
            write_kv(*layout, key_cache, value_cache, *slot, key, value);
        }
    }

    /// Copies whole blocks, all that they hold (scales too), in order.
    pub fn copy_blocks(&mut self, copies: &[(u32, u32)]) {
        for plane in &mut self.planes {
            let bytes = plane.layout.block_bytes();
            for &(src, dst) in copies {
                let (src, dst) = (src as usize * bytes, dst as usize * bytes);
                plane.keys.copy_within(src..src + bytes, dst);
                plane.values.copy_within(src..src + bytes, dst);
            }
        }
    }
}
