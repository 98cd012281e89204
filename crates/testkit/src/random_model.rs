//! GPT-OSS folders of random weights, in the published layout, of any shape up to the real one.
//!
//! For tests at the real widths and for measuring load, memory and speed without a download. Knows the file format and
//! the names of the weights; runs nothing. Invariant: the bytes are a function of shape and seed, not of the sharding.
//!
//! Magnitudes are chosen so that activations keep a deviation near 1 through every layer and logits one near 4.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

/// Elements of one attention head in every GPT-OSS.
const HEAD_DIM: usize = 64;
/// Elements of a row under one MXFP4 scale.
const BLOCK: usize = 32;
/// Bytes generated and written at a time.
const CHUNK: usize = 1 << 20;

/// The dimensions of a random model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RandomModel {
    /// Layers, sliding and full in turn.
    pub num_layers: usize,
    /// Width of the residual stream, a multiple of 32.
    pub hidden_size: usize,
    /// Width inside an expert, a multiple of 32.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Experts per layer.
    pub num_experts: usize,
    /// Experts per token.
    pub experts_per_token: usize,
    /// Vocabulary.
    pub vocab_size: usize,
    /// Window of the sliding layers.
    pub sliding_window: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Chooses the weights.
    pub seed: u64,
}

impl RandomModel {
    /// The widths of GPT-OSS-20B; the published model has 24 layers and a vocabulary of 201088.
    pub fn gpt_oss_20b(num_layers: usize, vocab_size: usize, seed: u64) -> Self {
        Self {
            num_layers,
            hidden_size: 2880,
            intermediate_size: 2880,
            num_heads: 64,
            num_kv_heads: 8,
            num_experts: 32,
            experts_per_token: 4,
            vocab_size,
            sliding_window: 128,
            max_position_embeddings: 131_072,
            seed,
        }
    }

    /// Small enough for a debug build, with odd ratios and a window short enough to matter.
    pub fn small(seed: u64) -> Self {
        Self {
            num_layers: 4,
            hidden_size: 96,
            intermediate_size: 64,
            num_heads: 6,
            num_kv_heads: 2,
            num_experts: 5,
            experts_per_token: 2,
            vocab_size: 300,
            sliding_window: 12,
            max_position_embeddings: 8192,
            seed,
        }
    }

    /// The `config.json` of this model.
    pub fn config(&self) -> Value {
        let kinds = ["sliding_attention", "full_attention"];
        let layer_types: Vec<&str> = (0..self.num_layers).map(|layer| kinds[layer % 2]).collect();
        json!({
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "attention_bias": true,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "layer_types": layer_types,
            "max_position_embeddings": self.max_position_embeddings,
            "num_attention_heads": self.num_heads,
            "num_experts_per_tok": self.experts_per_token,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "num_local_experts": self.num_experts,
            "quantization_config": {"quant_method": "mxfp4"},
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn",
                "original_max_position_embeddings": 4096, "truncate": false,
            },
            "rope_theta": 150_000,
            "sliding_window": self.sliding_window,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab_size,
        })
    }

    /// Writes the folder: `config.json`, `generation_config.json`, and the weights in files of at most about
    /// `shard_bytes` (one `model.safetensors` if that holds everything, else shards and their index).
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, dir: &Path, shard_bytes: u64) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        write_json(&dir.join("config.json"), &self.config())?;
        let eos = match self.vocab_size {
            201_088 => vec![200_002, 199_999, 200_012],
            size => vec![size - 1],
        };
        write_json(
            &dir.join("generation_config.json"),
            &json!({"eos_token_id": eos}),
        )?;

        let shards = shards(self.tensors(), shard_bytes);
        let names: Vec<String> = match shards.len() {
            1 => vec!["model.safetensors".to_owned()],
            n => (1..=n)
                .map(|i| format!("model-{i:05}-of-{n:05}.safetensors"))
                .collect(),
        };
        if shards.len() > 1 {
            let mut map = Map::new();
            let mut total = 0;
            for (name, tensor) in names
                .iter()
                .zip(&shards)
                .flat_map(|(name, shard)| shard.iter().map(move |t| (name, t)))
            {
                map.insert(tensor.name.clone(), json!(name));
                total += tensor.num_bytes();
            }
            let index = json!({"metadata": {"total_size": total}, "weight_map": map});
            write_json(&dir.join("model.safetensors.index.json"), &index)?;
        }

        // Generating is about as fast as a disk: two files at a time keep both busy.
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || -> io::Result<()> {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(shard) = shards.get(index) else {
                        return Ok(());
                    };
                    self.write_shard(&dir.join(&names[index]), shard)?;
                }
            };
            let other = scope.spawn(work);
            let own = work();
            own.and(other.join().expect("the closure does not panic"))
        })
    }

    fn write_shard(&self, path: &Path, tensors: &[Tensor]) -> io::Result<()> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + tensor.num_bytes();
            let entry = json!({"dtype": tensor.fill.dtype(), "shape": tensor.shape, "data_offsets": [offset, end]});
            header.insert(tensor.name.clone(), entry);
            offset = end;
        }
        let mut header = Value::Object(header).to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut file = File::create(path)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut chunk = Vec::with_capacity(CHUNK);
        for tensor in tensors {
            let mut random = SplitMix64::new(self.seed, &tensor.name);
            let mut left = tensor.num_bytes();
            while left > 0 {
                let len = left.min(CHUNK as u64) as usize;
                chunk.clear();
                while chunk.len() < len {
                    chunk.extend_from_slice(&tensor.fill.word(random.next()).to_le_bytes());
                }
                file.write_all(&chunk[..len])?;
                left -= len as u64;
            }
        }
        Ok(())
    }

    /// Every weight, in the order of the published files.
    fn tensors(&self) -> Vec<Tensor> {
        let (hidden, inner, experts) = (self.hidden_size, self.intermediate_size, self.num_experts);
        let (q, kv) = (self.num_heads * HEAD_DIM, self.num_kv_heads * HEAD_DIM);
        let over_root = |gain: f64, inputs: usize| Fill::bf16(gain / (inputs as f64).sqrt());
        let bias = Fill::bf16(0.1);
        let mut all = Vec::new();
        let mut add = |name: &str, shape: &[usize], fill: Fill| {
            all.push(Tensor {
                name: name.to_owned(),
                shape: shape.to_vec(),
                fill,
            });
        };
        add(
            "model.embed_tokens.weight",
            &[self.vocab_size, hidden],
            Fill::bf16(1.0),
        );
        for layer in 0..self.num_layers {
            let mut add = |name: &str, shape: &[usize], fill| {
                add(&format!("model.layers.{layer}.{name}"), shape, fill)
            };
            add("input_layernorm.weight", &[hidden], Fill::AroundOne);
            for (name, outputs, inputs) in [
                ("q", q, hidden),
                ("k", kv, hidden),
                ("v", kv, hidden),
                ("o", hidden, q),
            ] {
                add(
                    &format!("self_attn.{name}_proj.weight"),
                    &[outputs, inputs],
                    over_root(1.0, inputs),
                );
                add(&format!("self_attn.{name}_proj.bias"), &[outputs], bias);
            }
            add("self_attn.sinks", &[self.num_heads], Fill::bf16(1.0));
            add(
                "post_attention_layernorm.weight",
                &[hidden],
                Fill::AroundOne,
            );
            add(
                "mlp.router.weight",
                &[experts, hidden],
                over_root(1.0, hidden),
            );
            add("mlp.router.bias", &[experts], bias);
            for (name, rows, cols) in [
                ("gate_up_proj", 2 * inner, hidden),
                ("down_proj", hidden, inner),
            ] {
                let blocks = cols / BLOCK;
                let name = format!("mlp.experts.{name}");
                add(
                    &format!("{name}_blocks"),
                    &[experts, rows, blocks, BLOCK / 2],
                    Fill::Nibbles,
                );
                add(
                    &format!("{name}_scales"),
                    &[experts, rows, blocks],
                    Fill::mxfp4_scale(cols),
                );
                add(&format!("{name}_bias"), &[experts, rows], bias);
            }
        }
        add("model.norm.weight", &[hidden], Fill::AroundOne);
        add(
            "lm_head.weight",
            &[self.vocab_size, hidden],
            over_root(4.0, hidden),
        );
        all
    }
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    fill: Fill,
}

impl Tensor {
    fn num_bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().map(|len| *len as u64).product();
        match self.fill.dtype() {
            "BF16" => 2 * elements,
            _ => elements,
        }
    }
}

/// How 64 random bits become weights.
#[derive(Clone, Copy)]
enum Fill {
    /// bf16: random sign and mantissa over two octaves from this (even) biased exponent on.
    Bf16 { exponent: u64 },
    /// bf16 in [1, 1.5).
    AroundOne,
    /// Any byte: two E2M1 numbers.
    Nibbles,
    /// E8M0: this exponent or the one below.
    Scale { exponent: u64 },
}

/// The same 16 bits four times.
const fn four(bits: u64) -> u64 {
    bits * 0x0001_0001_0001_0001
}

impl Fill {
    /// Deviation `deviation`, to within a factor of 2.
    fn bf16(deviation: f64) -> Self {
        // Evenly over [1, 2) and [2, 4) times a power of two, the root mean square is 2.42 times that power.
        let exponent = 127.0 + (deviation / 2.42).log2();
        Self::Bf16 {
            exponent: 2 * (exponent / 2.0).round() as u64,
        }
    }

    /// Scales that give a sum over `cols` elements of deviation 1 a deviation near 1.
    fn mxfp4_scale(cols: usize) -> Self {
        // The 16 values of E2M1 have a root mean square of 2.93.
        let exponent = 127.0 - (2.93 * (cols as f64).sqrt()).log2();
        Self::Scale {
            exponent: exponent.round() as u64 | 1,
        }
    }

    fn dtype(self) -> &'static str {
        match self {
            Self::Bf16 { .. } | Self::AroundOne => "BF16",
            Self::Nibbles | Self::Scale { .. } => "U8",
        }
    }

    fn word(self, random: u64) -> u64 {
        match self {
            Self::Bf16 { exponent } => random & four(0x80FF) | four(exponent << 7),
            Self::AroundOne => random & four(0x003F) | four(0x3F80),
            Self::Nibbles => random,
            Self::Scale { exponent } => four(exponent << 8 | exponent) - (random & four(0x0101)),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014), one stream per tensor.
struct SplitMix64(u64);

impl SplitMix64 {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the name keeps tensors apart.
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let mut mixed = Self(seed ^ hash);
        Self(mixed.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn shards(tensors: Vec<Tensor>, shard_bytes: u64) -> Vec<Vec<Tensor>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let bytes = tensor.num_bytes();
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards
            .last_mut()
            .expect("there is always a shard")
            .push(tensor);
    }
    shards
}

fn write_json(path: &Path, value: &Value) -> io::Result<()> {
    fs::write(path, format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_deviation_asked_for() {
        for deviation in [1.0, 0.1, 0.0186] {
            let Fill::Bf16 { exponent } = Fill::bf16(deviation) else {
                unreachable!()
            };
            assert_eq!(exponent % 2, 0);
            let mut random = SplitMix64::new(3, "x");
            let sum: f64 = (0..4000)
                .map(|_| f32::from_bits((Fill::bf16(deviation).word(random.next()) as u32) << 16))
                .map(|x| f64::from(x).powi(2))
                .sum();
            let ratio = (sum / 4000.0).sqrt() / deviation;
            assert!((0.5..2.0).contains(&ratio), "{deviation}: {ratio}");
        }
    }

    #[test]
    fn scales_stay_below_not_a_number() {
        let mut random = SplitMix64::new(3, "x");
        for cols in [32, 2880] {
            for _ in 0..100 {
                for byte in Fill::mxfp4_scale(cols).word(random.next()).to_le_bytes() {
                    assert!((100..127).contains(&byte), "{byte}");
                }
            }
        }
    }

    #[test]
    fn the_published_shape_has_the_published_size() {
        let bytes: u64 = RandomModel::gpt_oss_20b(24, 201_088, 0)
            .tensors()
            .iter()
            .map(Tensor::num_bytes)
            .sum();
        // metadata.total_size of openai/gpt-oss-20b's model.safetensors.index.json.
        assert_eq!(bytes, 13_761_264_768);
    }

    #[test]
    fn sharding_does_not_change_the_tensors() {
        let names = |bytes| -> Vec<Vec<String>> {
            let shards = shards(RandomModel::small(1).tensors(), bytes);
            shards
                .into_iter()
                .map(|shard| shard.into_iter().map(|tensor| tensor.name).collect())
                .collect()
        };
        let one = names(u64::MAX);
        let many = names(50_000);
        assert!(one.len() == 1 && many.len() > 3);
        assert_eq!(one.concat(), many.concat());
    }
}
