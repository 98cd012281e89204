//! `config.json` of a published GPT-OSS, read strictly.
//!
//! Every field that changes the arithmetic is required and checked; a value this implementation does not compute is
//! refused rather than ignored. Knows nothing of weights.
//! Field names and meanings: transformers' `GptOssConfig` and the published `openai/gpt-oss-20b/config.json`.

use serde_json::{Map, Value};

use crate::error::LoadError;

/// The only architecture this engine runs.
pub const ARCHITECTURE: &str = "GptOssForCausalLM";

const FILE: &str = "config.json";

/// Elements of one attention head: what the attention kernels of every backend are made for.
const HEAD_DIM: usize = 64;

/// What a layer's attention can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Every earlier token.
    Full,
    /// The last `sliding_window` tokens, its own included.
    Sliding,
}

/// Rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// YaRN interpolation; `None` for plain rotary embedding.
    pub yarn: Option<YarnConfig>,
}

/// YaRN ("NTK by parts", arXiv 2309.00071).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnConfig {
    /// How much longer than the original context the model may see.
    pub factor: f64,
    /// Rotations over the original context above which a frequency is left as it is.
    pub beta_fast: f64,
    /// Rotations below which a frequency is fully interpolated.
    pub beta_slow: f64,
    /// Context length the frequencies were first trained for.
    pub original_context_len: usize,
    /// Whether the two correction bounds are rounded to whole dimensions (GPT-OSS: no).
    pub truncate: bool,
}

/// Everything about a GPT-OSS that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside an expert, after the gated activation.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Rows of the embedding and of the output projection.
    pub vocab_size: usize,
    /// Experts per layer.
    pub num_experts: usize,
    /// Experts that each token uses.
    pub experts_per_token: usize,
    /// Attention kind of each layer, `num_layers` long.
    pub layers: Vec<LayerKind>,
    /// Tokens that a sliding layer sees.
    pub sliding_window: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Clamp of the gated activation.
    pub swiglu_limit: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
}

impl ModelConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`LoadError::WrongArchitecture`] for another model, [`LoadError::Config`] naming the field for anything else.
    pub fn parse(json: &str) -> Result<Self, LoadError> {
        let root: Value = serde_json::from_str(json)
            .map_err(|error| LoadError::config(FILE, format!("not JSON: {error}")))?;
        let Value::Object(root) = root else {
            return Err(LoadError::config(FILE, "not a JSON object"));
        };
        check_architecture(&root)?;
        let fields = Fields(&root);

        let num_layers = fields.count("num_hidden_layers")?;
        let config = Self {
            hidden_size: fields.count("hidden_size")?,
            intermediate_size: fields.count("intermediate_size")?,
            num_heads: fields.count("num_attention_heads")?,
            num_kv_heads: fields.count("num_key_value_heads")?,
            head_dim: fields.count("head_dim")?,
            vocab_size: fields.count("vocab_size")?,
            num_experts: fields.count("num_local_experts")?,
            experts_per_token: fields.count("num_experts_per_tok")?,
            layers: layer_kinds(&fields, num_layers)?,
            sliding_window: fields.count("sliding_window")?,
            rms_norm_eps: fields.number("rms_norm_eps")? as f32,
            swiglu_limit: match root.get("swiglu_limit") {
                None => 7.0,
                Some(_) => fields.number("swiglu_limit")? as f32,
            },
            rope: rope(&root)?,
            max_position_embeddings: fields.count("max_position_embeddings")?,
        };

        fields.expect("hidden_act", &Value::from("silu"))?;
        fields.expect("attention_bias", &Value::from(true))?;
        fields.expect("tie_word_embeddings", &Value::from(false))?;
        match root
            .get("quantization_config")
            .and_then(|q| q.get("quant_method"))
        {
            Some(Value::String(method)) if method == "mxfp4" => {}
            other => {
                return Err(LoadError::config(
                    FILE,
                    format!(
                        "quantization_config.quant_method must be \"mxfp4\" (the published layout), found {}",
                        show(other)
                    ),
                ));
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Width of all query heads together.
    pub fn q_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    fn check(&self) -> Result<(), LoadError> {
        let odd = |message: String| Err(LoadError::config(FILE, message));
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return odd(format!(
                "num_attention_heads ({}) is not a multiple of num_key_value_heads ({})",
                self.num_heads, self.num_kv_heads
            ));
        }
        if self.head_dim != HEAD_DIM {
            return odd(format!(
                "head_dim = {} is not implemented, only {HEAD_DIM}",
                self.head_dim
            ));
        }
        // MXFP4 packs 32 elements of a row under one scale.
        for (name, width) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
        ] {
            if !width.is_multiple_of(32) {
                return odd(format!("{name} ({width}) is not a multiple of 32"));
            }
        }
        if self.experts_per_token > self.num_experts {
            return odd(format!(
                "num_experts_per_tok ({}) exceeds num_local_experts ({})",
                self.experts_per_token, self.num_experts
            ));
        }
        for (name, value) in [
            ("rms_norm_eps", self.rms_norm_eps),
            ("swiglu_limit", self.swiglu_limit),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return odd(format!("{name} must be positive, found {value}"));
            }
        }
        Ok(())
    }
}

fn check_architecture(root: &Map<String, Value>) -> Result<(), LoadError> {
    let names: Vec<&str> = match root.get("architectures") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if names == [ARCHITECTURE] {
        return Ok(());
    }
    let found = if !names.is_empty() {
        names.join(", ")
    } else if let Some(kind) = root.get("model_type").and_then(Value::as_str) {
        format!("of type {kind} (config.json names no architecture)")
    } else {
        "unknown (config.json names no architecture)".to_owned()
    };
    Err(LoadError::WrongArchitecture {
        found,
        needed: ARCHITECTURE,
    })
}

fn layer_kinds(fields: &Fields<'_>, num_layers: usize) -> Result<Vec<LayerKind>, LoadError> {
    let Some(listed) = fields.0.get("layer_types") else {
        // The first exports had no list: sliding on even layers.
        return Ok((0..num_layers)
            .map(|layer| match layer % 2 {
                0 => LayerKind::Sliding,
                _ => LayerKind::Full,
            })
            .collect());
    };
    let kinds: Option<Vec<LayerKind>> = listed.as_array().and_then(|listed| {
        listed
            .iter()
            .map(|kind| match kind.as_str() {
                Some("sliding_attention") => Some(LayerKind::Sliding),
                Some("full_attention") => Some(LayerKind::Full),
                _ => None,
            })
            .collect()
    });
    match kinds {
        Some(kinds) if kinds.len() == num_layers => Ok(kinds),
        Some(kinds) => Err(LoadError::config(
            FILE,
            format!(
                "layer_types lists {} layers, num_hidden_layers says {num_layers}",
                kinds.len()
            ),
        )),
        None => Err(LoadError::config(
            FILE,
            "layer_types may only hold \"sliding_attention\" and \"full_attention\"",
        )),
    }
}

/// `rope_theta` beside `rope_scaling` (published files), or both inside `rope_parameters` (transformers 5).
fn rope(root: &Map<String, Value>) -> Result<RopeConfig, LoadError> {
    let nested = root.get("rope_parameters").and_then(Value::as_object);
    let theta = match nested {
        Some(nested) if nested.contains_key("rope_theta") => Fields(nested).number("rope_theta")?,
        _ => Fields(root).number("rope_theta")?,
    };
    if !(theta > 1.0 && theta.is_finite()) {
        return Err(LoadError::config(FILE, format!("rope_theta is {theta}")));
    }
    let scaling = match nested {
        Some(nested) => Some(nested),
        None => match root.get("rope_scaling") {
            None | Some(Value::Null) => None,
            Some(Value::Object(scaling)) => Some(scaling),
            Some(_) => return Err(LoadError::config(FILE, "rope_scaling is not an object")),
        },
    };
    let Some(scaling) = scaling else {
        return Ok(RopeConfig { theta, yarn: None });
    };
    match scaling.get("rope_type").and_then(Value::as_str) {
        Some("default") => return Ok(RopeConfig { theta, yarn: None }),
        Some("yarn") => {}
        _ => {
            return Err(LoadError::config(
                FILE,
                format!(
                    "rope_type must be \"yarn\" or \"default\", found {}",
                    show(scaling.get("rope_type"))
                ),
            ));
        }
    }
    for unsupported in ["attention_factor", "mscale", "mscale_all_dim"] {
        if scaling.get(unsupported).is_some_and(|v| !v.is_null()) {
            return Err(LoadError::config(
                FILE,
                format!("rope scaling with {unsupported} is not implemented"),
            ));
        }
    }
    let fields = Fields(scaling);
    let yarn = YarnConfig {
        factor: fields.number("factor")?,
        beta_fast: fields.number("beta_fast")?,
        beta_slow: fields.number("beta_slow")?,
        original_context_len: fields.count("original_max_position_embeddings")?,
        // transformers rounds the bounds unless told otherwise; every published GPT-OSS tells it.
        truncate: match scaling.get("truncate") {
            None => true,
            Some(Value::Bool(truncate)) => *truncate,
            Some(_) => return Err(LoadError::config(FILE, "truncate is not a boolean")),
        },
    };
    if !(yarn.factor >= 1.0 && yarn.beta_fast > yarn.beta_slow && yarn.beta_slow > 0.0) {
        return Err(LoadError::config(
            FILE,
            format!("rope scaling is inconsistent: {yarn:?}"),
        ));
    }
    Ok(RopeConfig {
        theta,
        yarn: Some(yarn),
    })
}

/// Typed access to a JSON object with errors that name the field.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Result<&Value, LoadError> {
        self.0
            .get(name)
            .ok_or_else(|| LoadError::config(FILE, format!("{name} is missing")))
    }

    /// A whole number from 1 to 2^31.
    fn count(&self, name: &str) -> Result<usize, LoadError> {
        let value = self.get(name)?;
        match value.as_u64() {
            Some(count @ 1..=0x8000_0000) => Ok(count as usize),
            _ => Err(LoadError::config(
                FILE,
                format!("{name} must be a positive whole number, found {value}"),
            )),
        }
    }

    fn number(&self, name: &str) -> Result<f64, LoadError> {
        let value = self.get(name)?;
        value.as_f64().ok_or_else(|| {
            LoadError::config(FILE, format!("{name} must be a number, found {value}"))
        })
    }

    /// The field, where present, must have this value: anything else would be computed wrongly.
    fn expect(&self, name: &str, needed: &Value) -> Result<(), LoadError> {
        match self.0.get(name) {
            Some(found) if found != needed => Err(LoadError::config(
                FILE,
                format!("{name} = {found} is not implemented, only {needed}"),
            )),
            _ => Ok(()),
        }
    }
}

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

/// Token ids that end a sequence: `eos_token_id` of `generation_config.json`, one id or a list.
///
/// # Errors
/// [`LoadError::Config`] when the file is malformed or an id is outside the vocabulary.
pub fn parse_stop_token_ids(json: &str, vocab_size: usize) -> Result<Vec<u32>, LoadError> {
    const FILE: &str = "generation_config.json";
    let root: Value = serde_json::from_str(json)
        .map_err(|error| LoadError::config(FILE, format!("not JSON: {error}")))?;
    let listed = match root.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.clone(),
        Some(id) => vec![id.clone()],
        None => return Err(LoadError::config(FILE, "eos_token_id is missing")),
    };
    let ids: Option<Vec<u32>> = listed
        .iter()
        .map(|id| {
            id.as_u64()
                .filter(|id| *id < vocab_size as u64)
                .map(|id| id as u32)
        })
        .collect();
    match ids {
        Some(ids) if !ids.is_empty() => Ok(ids),
        _ => Err(LoadError::config(
            FILE,
            "eos_token_id must be a token id of the vocabulary or a list of them",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of the published 20B `config.json` that matter here.
    fn published() -> Value {
        serde_json::json!({
            "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": true,
            "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880, "intermediate_size": 2880,
            "layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2,
            "max_position_embeddings": 131072, "num_attention_heads": 64, "num_key_value_heads": 8,
            "num_experts_per_tok": 4, "num_local_experts": 32, "rms_norm_eps": 1e-5, "rope_theta": 150000,
            "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn",
                "original_max_position_embeddings": 4096, "truncate": false},
            "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false, "vocab_size": 201088,
            "quantization_config": {"quant_method": "mxfp4"},
        })
    }

    fn error_of(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut config = published();
        change(config.as_object_mut().unwrap());
        ModelConfig::parse(&config.to_string())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_published_file_is_read() {
        let config = ModelConfig::parse(&published().to_string()).unwrap();
        assert_eq!(config.layers, [LayerKind::Sliding, LayerKind::Full]);
        assert_eq!((config.q_width(), config.kv_width()), (4096, 512));
        let yarn = config.rope.yarn.unwrap();
        assert_eq!(
            (yarn.factor, yarn.truncate, config.rope.theta),
            (32.0, false, 150000.0)
        );
    }

    #[test]
    fn the_nested_rope_of_newer_exports_reads_the_same() {
        let mut nested = published();
        let root = nested.as_object_mut().unwrap();
        let mut rope = root.remove("rope_scaling").unwrap();
        rope["rope_theta"] = root.remove("rope_theta").unwrap();
        root.insert("rope_parameters".into(), rope);
        assert_eq!(
            ModelConfig::parse(&nested.to_string()).unwrap(),
            ModelConfig::parse(&published().to_string()).unwrap()
        );
    }

    #[test]
    fn every_required_field_is_named_when_missing() {
        for field in [
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "vocab_size",
            "num_local_experts",
            "num_experts_per_tok",
            "num_hidden_layers",
            "sliding_window",
            "rms_norm_eps",
            "rope_theta",
            "max_position_embeddings",
        ] {
            let error = error_of(|root| drop(root.remove(field)));
            assert_eq!(error, format!("config.json: {field} is missing"));
        }
    }

    #[test]
    fn another_architecture_is_refused_by_name() {
        let error = error_of(|root| {
            drop(root.insert("architectures".into(), vec!["Qwen3ForCausalLM"].into()))
        });
        assert_eq!(
            error,
            "this engine runs GptOssForCausalLM, but the model is Qwen3ForCausalLM"
        );
        let error = error_of(|root| {
            root.remove("architectures");
            root.insert("model_type".into(), "llama".into());
        });
        assert!(error.contains("of type llama"), "{error}");
    }

    #[test]
    fn values_that_would_be_computed_wrongly_are_refused() {
        for (field, value) in [
            ("hidden_act", Value::from("gelu")),
            ("attention_bias", false.into()),
            ("tie_word_embeddings", true.into()),
            ("hidden_size", 2881.into()),
            ("hidden_size", 0.into()),
            ("head_dim", 50.into()),
            ("num_key_value_heads", 7.into()),
            ("num_experts_per_tok", 33.into()),
            ("layer_types", vec!["full_attention"].into()),
            ("layer_types", vec!["linear", "linear"].into()),
            ("rope_scaling", serde_json::json!({"rope_type": "llama3"})),
            ("rms_norm_eps", (-1.0).into()),
            ("quantization_config", Value::Null),
        ] {
            let error = error_of(|root| drop(root.insert(field.into(), value)));
            let expected = match field {
                "rope_scaling" => "rope_type",
                other => other,
            };
            assert!(error.contains(expected), "{field}: {error}");
        }
    }

    #[test]
    fn stop_ids_are_one_or_several() {
        assert_eq!(
            parse_stop_token_ids(r#"{"eos_token_id": 3}"#, 10).unwrap(),
            [3]
        );
        assert_eq!(
            parse_stop_token_ids(r#"{"eos_token_id": [3, 4]}"#, 10).unwrap(),
            [3, 4]
        );
        for bad in [
            "{}",
            "[",
            r#"{"eos_token_id": 10}"#,
            r#"{"eos_token_id": []}"#,
            r#"{"eos_token_id": "x"}"#,
        ] {
            parse_stop_token_ids(bad, 10).unwrap_err();
        }
    }
}
