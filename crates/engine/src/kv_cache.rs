//! How many KV blocks there are and where each layer's lie. Shapes only: a backend owns the bytes.
//!
//! Layers that share block tables form a *group*: those that see everything, and those with the sliding window. A block
//! holds `block_size` tokens of all layers of one group, whichever took it: it has a *plane* of keys and one of values
//! for each of them, and planes are shared between the groups, so one pool serves both.
//! Invariant: every layer is in exactly one group, and no two layers of a group have the same plane.

use gossamer_scheduler::{Capacity, KvGroup};

use crate::config::EngineConfig;
use crate::error::LoadError;
use crate::model::{LayerKind, ModelConfig};

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
    /// Group and plane of each layer, `[num_layers]`.
    pub layers: Vec<LayerPlace>,
    /// The groups. The first sees everything.
    pub groups: Vec<KvGroup>,
    /// Blocks in the pool.
    pub num_blocks: usize,
}

/// Where a layer's keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    /// Whose block tables it uses.
    pub group: usize,
    /// Its part of a block, below [`KvShape::num_planes`].
    pub plane: usize,
}

impl KvShape {
    /// A cache as `engine` asks for, without blocks yet ([`KvShape::set_blocks`]): the layers with a window in a group of
    /// their own, unless it is switched off or no other layer is left to be the first group.
    ///
    /// # Errors
    /// [`LoadError::Setting`] for a block size the kernels do not know.
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
        let (layers, groups) = places(model, engine.window_groups);
        Ok(Self {
            block_size: engine.block_size,
            num_kv_heads: model.num_kv_heads,
            head_dim: model.head_dim,
            layers,
            groups,
            num_blocks: 0,
        })
    }

    /// Gives it this many blocks.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if that is none, or more than there are ids for slots.
    pub fn set_blocks(&mut self, num_blocks: u64) -> Result<(), LoadError> {
        if num_blocks == 0 || num_blocks * self.block_size as u64 >= u64::from(u32::MAX) {
            return Err(LoadError::Setting {
                setting: "kv_cache",
                message: format!("{num_blocks} blocks of {} bytes", self.block_bytes()),
            });
        }
        self.num_blocks = num_blocks as usize;
        Ok(())
    }

    /// Elements of one block in the keys of one layer, and again in its values.
    pub fn block_len(&self) -> usize {
        self.block_size * self.num_kv_heads * self.head_dim
    }

    /// Layers of the largest group: how many of them a block has room for.
    pub fn num_planes(&self) -> usize {
        self.layers.iter().map(|l| l.plane + 1).max().unwrap_or(0)
    }

    /// Bytes of one block: all its planes, keys and values.
    pub fn block_bytes(&self) -> usize {
        self.num_planes() * 2 * self.block_len() * ELEMENT_BYTES
    }

    /// Bytes of the whole cache once every block has been used.
    pub fn total_bytes(&self) -> usize {
        self.num_blocks * self.block_bytes()
    }

    /// What the scheduler is told.
    pub fn capacity(&self, max_model_len: usize) -> Capacity {
        Capacity {
            block_size: self.block_size,
            max_model_len,
            num_blocks: self.num_blocks,
            block_bytes: self.block_bytes(),
            groups: self.groups.clone(),
        }
    }
}

fn places(model: &ModelConfig, window_groups: bool) -> (Vec<LayerPlace>, Vec<KvGroup>) {
    let everything = KvGroup { window: None };
    let window = KvGroup {
        window: Some(model.sliding_window),
    };
    let split = window_groups && model.layers.contains(&LayerKind::Full);
    let has_window = |kind: &LayerKind| split && *kind == LayerKind::Sliding;
    let groups = match model.layers.iter().any(has_window) {
        true => vec![everything, window],
        false => vec![everything],
    };
    let mut num_planes = [0; 2];
    let place = |kind| {
        let group = usize::from(has_window(kind));
        let plane = num_planes[group];
        num_planes[group] += 1;
        LayerPlace { group, plane }
    };
    (model.layers.iter().map(place).collect(), groups)
}

#[cfg(test)]
mod tests {
    use gossamer_testkit::random_model::RandomModel;

    use super::*;
    use crate::config::{DeviceChoice, KvCacheSize, WeightFormat};

    fn shape(model: &serde_json::Value, window_groups: bool, bytes: u64) -> KvShape {
        let model = ModelConfig::parse(&model.to_string()).unwrap();
        let engine = EngineConfig {
            device: DeviceChoice::Cpu,
            threads: 1,
            weights: WeightFormat::Bf16,
            block_size: 16,
            kv_cache: KvCacheSize::Bytes(bytes),
            window_groups,
            max_model_len: None,
            kernels: None,
            repack_cache: None,
        };
        let mut shape = KvShape::new(&model, &engine).unwrap();
        shape
            .set_blocks(bytes / shape.block_bytes() as u64)
            .unwrap();
        shape
    }

    /// What `docs/LOG.md` says about GPT-OSS-20B.
    #[test]
    fn at_20b_a_token_beyond_the_window_costs_half() {
        let model = RandomModel::gpt_oss_20b(24, 201_088, 0).config();
        let fits = |window_groups| {
            let shape = shape(&model, window_groups, 4 << 30);
            let capacity = shape.capacity(131_072);
            let bytes = |len| capacity.blocks_held(len, 1) * shape.block_bytes();
            let per_token = (bytes(16_384) - bytes(8192)) / 8192;
            let lens = [1024, 2048, 8192, 32_768, 131_072];
            let sequences = lens.map(|len| capacity.num_blocks / capacity.blocks_held(len, 1));
            println!(
                "groups {window_groups}: {per_token} bytes per token, 4 GiB hold {sequences:?} of {lens:?} tokens"
            );
            (per_token, sequences)
        };
        assert_eq!(fits(false), (48 << 10, [85, 42, 10, 2, 0]));
        assert_eq!(fits(true), (24 << 10, [149, 79, 20, 5, 1]));
    }

    #[test]
    fn layers_of_both_kinds_share_the_planes_of_a_block() {
        let mut model = RandomModel::small(0).config();
        let shape_of = |model: &serde_json::Value| shape(model, true, 1 << 20);
        let place = |group, plane| LayerPlace { group, plane };
        let alternating = shape_of(&model);
        let places = [place(1, 0), place(0, 0), place(1, 1), place(0, 1)];
        assert_eq!(alternating.layers, places);
        assert_eq!(alternating.num_planes(), 2);

        // As many planes as the larger group has layers.
        model["layer_types"] = vec!["full_attention"; 4].into();
        model["layer_types"][2] = "sliding_attention".into();
        let uneven = shape_of(&model);
        let places = [place(0, 0), place(0, 1), place(1, 0), place(0, 2)];
        assert_eq!(
            (uneven.layers.as_slice(), uneven.num_planes()),
            (&places[..], 3)
        );

        // Without a layer that sees everything there is nothing to hang a window on.
        for kind in ["full_attention", "sliding_attention"] {
            model["layer_types"] = vec![kind; 4].into();
            let single = shape_of(&model);
            assert_eq!(single.groups, [KvGroup { window: None }]);
            assert_eq!(single.num_planes(), 4);
        }
    }
}
