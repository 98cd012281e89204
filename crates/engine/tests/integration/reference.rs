//! GPT-OSS once more, slowly: the oracle for the engine at any width.
//!
//! One sequence, all of it at once, no cache, no batch, no threads; sums in f64. Shares no code with the engine: the
//! files are read with the `safetensors` crate and every formula is written out.
//! Sources: openai/gpt-oss `gpt_oss/torch/model.py` and `weights.py`; OCP Microscaling Formats specification 1.0 (MXFP4);
//! YaRN: arXiv 2309.00071, section 3.
//! Keys and values can be rounded as the engine's cache does, so that the rest can be compared closely.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;

use gossamer_engine::KvDtype;
use safetensors::SafeTensors;
use serde_json::Value;

const HEAD_DIM: usize = 64;
const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

pub struct Reference {
    config: Value,
    /// Raw bytes by tensor name.
    tensors: HashMap<String, Vec<u8>>,
    /// What keys and values are rounded to, if they are.
    pub kv: Option<KvDtype>,
    /// Smallest margin by which any router preferred its last chosen expert to the next. Where it is tiny, rounding
    /// decides which expert runs, and two correct implementations differ.
    pub closest_choice: Cell<f64>,
}

type Rows = Vec<Vec<f64>>;

impl Reference {
    pub fn open(dir: &Path) -> Self {
        let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
        let files = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"));
        Self::new(&config, files.map(|path| std::fs::read(path).unwrap()))
    }

    pub fn new(config: &str, files: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut tensors = HashMap::new();
        for bytes in files {
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let named = file
                .iter()
                .map(|(name, view)| (name.to_owned(), view.data().to_vec()));
            tensors.extend(named);
        }
        Self {
            config: serde_json::from_str(config).unwrap(),
            tensors,
            kv: Some(KvDtype::Bf16),
            closest_choice: Cell::new(f64::INFINITY),
        }
    }

    /// Logits after every token, `[tokens.len(), vocab_size]`.
    pub fn logits(&self, tokens: &[u32]) -> Rows {
        self.project(&self.residual(tokens))
    }

    /// Logits after the last token, `[vocab_size]`.
    pub fn last_logits(&self, tokens: &[u32]) -> Vec<f64> {
        let last = self.residual(tokens).split_off(tokens.len() - 1);
        self.project(&last).remove(0)
    }

    fn residual(&self, tokens: &[u32]) -> Rows {
        let hidden = self.count("hidden_size");
        let embedding = &self.tensors["model.embed_tokens.weight"];
        let row = |token: &u32| widen(&embedding[*token as usize * 2 * hidden..][..2 * hidden]);
        let mut x: Rows = tokens.iter().map(row).collect();
        for layer in 0..self.count("num_hidden_layers") {
            let name = |suffix: &str| format!("model.layers.{layer}.{suffix}");
            let normed = self.norm(&x, &name("input_layernorm.weight"));
            add(&mut x, &self.attention(&normed, layer));
            let normed = self.norm(&x, &name("post_attention_layernorm.weight"));
            add(&mut x, &self.mlp(&normed, layer));
        }
        x
    }

    fn project(&self, x: &Rows) -> Rows {
        let hidden = self.count("hidden_size");
        let x = self.norm(x, "model.norm.weight");
        let head = &self.tensors["lm_head.weight"];
        let logits = |x: &Vec<f64>| {
            let rows = head.chunks_exact(2 * hidden);
            rows.map(|row| dot(&widen(row), x)).collect()
        };
        x.iter().map(logits).collect()
    }

    fn attention(&self, x: &Rows, layer: usize) -> Rows {
        let name = |suffix: &str| format!("model.layers.{layer}.self_attn.{suffix}");
        let heads = self.count("num_attention_heads");
        let group = heads / self.count("num_key_value_heads");
        let sliding = self.config["layer_types"][layer] == "sliding_attention";
        let window = if sliding {
            self.count("sliding_window")
        } else {
            usize::MAX
        };
        let q = self.rotate(self.linear(x, &name("q_proj")));
        let mut k = self.rotate(self.linear(x, &name("k_proj")));
        let mut v = self.linear(x, &name("v_proj"));
        (k, v) = match self.kv {
            None => (k, v),
            Some(KvDtype::Bf16) => (round_bf16(k), round_bf16(v)),
            Some(KvDtype::Int8) => (round_int8(k), round_int8(v)),
        };
        let sinks = self.bf16(&name("sinks"));
        let head_of =
            |row: &[f64], head: usize| row[head * HEAD_DIM..(head + 1) * HEAD_DIM].to_vec();

        let mut out = vec![vec![0.0; heads * HEAD_DIM]; x.len()];
        for (position, out) in out.iter_mut().enumerate() {
            for head in 0..heads {
                let query = head_of(&q[position], head);
                let seen: Vec<usize> = (0..=position)
                    .filter(|past| position - past < window)
                    .collect();
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|past| {
                        dot(&query, &head_of(&k[*past], head / group)) / (HEAD_DIM as f64).sqrt()
                    })
                    .collect();
                let top = scores.iter().copied().fold(sinks[head], f64::max);
                let total: f64 =
                    scores.iter().map(|s| (s - top).exp()).sum::<f64>() + (sinks[head] - top).exp();
                for (past, score) in seen.iter().zip(scores) {
                    for (i, value) in head_of(&v[*past], head / group).iter().enumerate() {
                        out[head * HEAD_DIM + i] += (score - top).exp() / total * value;
                    }
                }
            }
        }
        self.linear(&out, &name("o_proj"))
    }

    fn mlp(&self, x: &Rows, layer: usize) -> Rows {
        let name = |suffix: &str| format!("model.layers.{layer}.mlp.{suffix}");
        let limit = self.config["swiglu_limit"].as_f64().unwrap();
        let router = self.linear(x, &name("router"));
        let mut out = Vec::new();
        for (x, logits) in x.iter().zip(router) {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let k = self.count("num_experts_per_tok");
            let margin = logits[order[k - 1]] - logits[order[k]];
            self.closest_choice
                .set(self.closest_choice.get().min(margin));
            order.truncate(k);
            let total: f64 = order.iter().map(|expert| logits[*expert].exp()).sum();
            let mut sum = vec![0.0; x.len()];
            for expert in order {
                let gate_up = self.expert(x, &name("experts.gate_up_proj"), expert);
                let inner: Vec<f64> = gate_up
                    .chunks_exact(2)
                    .map(|pair| {
                        let (gate, up) = (pair[0].min(limit), pair[1].max(-limit).min(limit));
                        gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
                    })
                    .collect();
                let share = logits[expert].exp() / total;
                for (sum, y) in
                    sum.iter_mut()
                        .zip(self.expert(&inner, &name("experts.down_proj"), expert))
                {
                    *sum += share * y;
                }
            }
            out.push(sum);
        }
        out
    }

    /// One expert's matrix, dequantized element by element, times `x`, plus its bias.
    fn expert(&self, x: &[f64], name: &str, expert: usize) -> Vec<f64> {
        let (blocks, scales) = (
            &self.tensors[&format!("{name}_blocks")],
            &self.tensors[&format!("{name}_scales")],
        );
        let bias = self.bf16(&format!("{name}_bias"));
        let rows = bias.len() / self.count("num_local_experts");
        let blocks = &blocks[expert * rows * x.len() / 2..];
        let scales = &scales[expert * rows * x.len() / 32..];
        let blocks_per_row = x.len() / 32;
        let row = |row: usize| {
            let mut sum = bias[expert * rows + row];
            for (block, x) in x.chunks_exact(32).enumerate() {
                let block = row * blocks_per_row + block;
                let scale = 2f64.powi(i32::from(scales[block]) - 127);
                for (i, x) in x.iter().enumerate() {
                    let byte = blocks[16 * block + i / 2];
                    let code = if i % 2 == 0 { byte & 15 } else { byte >> 4 };
                    let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
                    sum += sign * E2M1[usize::from(code & 7)] * scale * x;
                }
            }
            sum
        };
        (0..rows).map(row).collect()
    }

    fn rotate(&self, mut rows: Rows) -> Rows {
        let scaling = &self.config["rope_scaling"];
        let number = |value: &Value| value.as_f64().unwrap();
        let (base, factor) = (
            number(&self.config["rope_theta"]),
            number(&scaling["factor"]),
        );
        let context = number(&scaling["original_max_position_embeddings"]);
        let dim_of = |rotations: f64| {
            HEAD_DIM as f64 / 2.0 * (context / (rotations * 2.0 * std::f64::consts::PI)).ln()
                / base.ln()
        };
        let (low, high) = (
            dim_of(number(&scaling["beta_fast"])),
            dim_of(number(&scaling["beta_slow"])),
        );
        let concentration = 0.1 * factor.ln() + 1.0;
        for (position, row) in rows.iter_mut().enumerate() {
            for head in row.chunks_exact_mut(HEAD_DIM) {
                for i in 0..HEAD_DIM / 2 {
                    let frequency = base.powf(-2.0 * i as f64 / HEAD_DIM as f64);
                    let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    let frequency =
                        frequency / factor * interpolated + frequency * (1.0 - interpolated);
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    let (a, b) = (head[i], head[i + HEAD_DIM / 2]);
                    head[i] = concentration * (a * cos - b * sin);
                    head[i + HEAD_DIM / 2] = concentration * (b * cos + a * sin);
                }
            }
        }
        rows
    }

    fn norm(&self, x: &Rows, name: &str) -> Rows {
        let weight = self.bf16(name);
        let eps = self.config["rms_norm_eps"].as_f64().unwrap();
        let row = |x: &Vec<f64>| {
            let scale = 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
            x.iter().zip(&weight).map(|(x, w)| x * scale * w).collect()
        };
        x.iter().map(row).collect()
    }

    fn linear(&self, x: &Rows, name: &str) -> Rows {
        let weight = self.bf16(&format!("{name}.weight"));
        let bias = self.bf16(&format!("{name}.bias"));
        let row = |x: &Vec<f64>| {
            weight
                .chunks_exact(x.len())
                .zip(&bias)
                .map(|(row, bias)| dot(row, x) + bias)
                .collect()
        };
        x.iter().map(row).collect()
    }

    fn bf16(&self, name: &str) -> Vec<f64> {
        widen(&self.tensors[name])
    }

    fn count(&self, name: &str) -> usize {
        self.config[name].as_u64().unwrap() as usize
    }
}

/// Little-endian bf16.
fn widen(bytes: &[u8]) -> Vec<f64> {
    let pairs = bytes.chunks_exact(2);
    let bits = pairs.map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
    bits.map(|bits| f64::from(f32::from_bits(bits))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut Rows, y: &Rows) {
    for (x, y) in x.iter_mut().flatten().zip(y.iter().flatten()) {
        *x += y;
    }
}

/// To the nearest bf16, ties to even. Only finite numbers come here.
fn round_bf16(mut rows: Rows) -> Rows {
    for x in rows.iter_mut().flatten() {
        let bits = (*x as f32).to_bits();
        let low = bits & 0xFFFF;
        let up = low > 0x8000 || (low == 0x8000 && bits & 0x1_0000 != 0);
        *x = f64::from(f32::from_bits(
            (bits & !0xFFFF) + if up { 0x1_0000 } else { 0 },
        ));
    }
    rows
}

/// Eight bits and a bf16 scale for each head of each token.
fn round_int8(mut rows: Rows) -> Rows {
    for head in rows
        .iter_mut()
        .flat_map(|row| row.chunks_exact_mut(HEAD_DIM))
    {
        let largest = head
            .iter()
            .fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let scale = round_bf16(vec![vec![largest / 127.0]])[0][0];
        for x in head.iter_mut() {
            *x = (*x / scale).round_ties_even() * scale;
        }
    }
    rows
}
