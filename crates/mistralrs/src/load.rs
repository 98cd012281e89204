//! A model from a folder or a GGUF file, through mistral.rs's loaders.
//!
//! Knows names of files and of architectures. Nothing is downloaded here. Invariant: GPT-OSS is refused before a weight is
//! read, in either form.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use candle_core::quantized::gguf_file;
use mistralrs_core::{
    AutoDeviceMapParams, AutoLoaderBuilder, DeviceMapSetting, EmbeddingSpecificConfig,
    GGUFLoaderBuilder, GGUFSpecificConfig, Loader, ModelDType, MultimodalSpecificConfig,
    NormalSpecificConfig, Pipeline, TokenSource,
};
use serde_json::Value;

/// What to load, and how much of it may run.
#[derive(Clone, Debug)]
pub struct MistralConfig {
    /// A folder with `config.json`, `tokenizer.json` and safetensors, or a GGUF file.
    pub path: PathBuf,
    /// Most tokens of one sequence, if fewer than the model's own limit.
    pub max_model_len: Option<usize>,
    /// Most choices that run at the same time, at least 1.
    pub max_num_seqs: usize,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// How long a request may wait.
    pub queue_timeout: Option<Duration>,
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// GPT-OSS.
    #[error(
        "{path} is GPT-OSS ({found}), which mistral.rs 0.8.1 does not run well: its set of end-of-sequence tokens for harmony \
         templates contains <|channel|>, <|message|>, <|start|> and <|end|>, and the first token that GPT-OSS writes is \
         <|channel|>; and it batches only sequences of equal length, so that mixed requests run nearly one at a time. \
         Use `--engine local`, which is made for this model"
    )]
    GptOss {
        /// Where it is.
        path: PathBuf,
        /// The architecture that it names.
        found: String,
    },
    /// Something else than a model.
    #[error("{path}: {message}")]
    Unusable {
        /// Where that is.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// mistral.rs cannot load it.
    #[error("mistral.rs cannot load {path}: {message}")]
    Loader {
        /// Where the model is.
        path: PathBuf,
        /// In mistral.rs's words.
        message: String,
    },
}

type LoadedPipeline = Arc<tokio::sync::Mutex<dyn Pipeline + Send + Sync>>;

/// Looks at the model's description, and refuses what this engine is not for. Returns the architecture that it names.
pub(crate) fn inspect(path: &Path) -> Result<String, LoadError> {
    let unusable = |message: String| LoadError::Unusable {
        path: path.to_owned(),
        message,
    };
    let architecture = if path.is_dir() {
        let config = path.join("config.json");
        let text = std::fs::read_to_string(&config)
            .map_err(|error| unusable(format!("config.json cannot be read: {error}")))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|error| unusable(format!("config.json is not JSON: {error}")))?;
        let named = (config["architectures"][0].as_str()).or(config["model_type"].as_str());
        (named.map(str::to_owned))
            .ok_or_else(|| unusable("config.json names no architecture".into()))?
    } else if path
        .extension()
        .is_some_and(|extension| extension == "gguf")
    {
        let mut file = File::open(path).map_err(|error| unusable(error.to_string()))?;
        let content = gguf_file::Content::read(&mut file)
            .map_err(|error| unusable(format!("it is no GGUF file: {error}")))?;
        let named = content.metadata.get("general.architecture");
        (named.and_then(|value| value.to_string().ok().cloned()))
            .ok_or_else(|| unusable("the GGUF file names no architecture".into()))?
    } else {
        let expected =
            "a folder in Hugging Face's layout or a file whose name ends in .gguf is needed";
        return Err(unusable(expected.into()));
    };
    let letters: String = (architecture.chars())
        .filter(char::is_ascii_alphanumeric)
        .collect();
    if letters.to_ascii_lowercase().starts_with("gptoss") {
        return Err(LoadError::GptOss {
            path: path.to_owned(),
            found: architecture,
        });
    }
    Ok(architecture)
}

/// Loads the weights; takes as long as that takes.
pub(crate) fn pipeline(path: &Path, device: &Device) -> Result<LoadedPipeline, LoadError> {
    let failed = |message: String| LoadError::Loader {
        path: path.to_owned(),
        message,
    };
    let loader = loader(path).ok_or_else(|| failed("its name is not Unicode".into()))?;
    loader
        .load_model_from_hf(
            None,
            TokenSource::None,
            &ModelDType::Auto,
            device,
            true,
            DeviceMapSetting::Auto(AutoDeviceMapParams::default_text()),
            None,
            None,
        )
        .map_err(|error| failed(format!("{error:#}")))
}

fn loader(path: &Path) -> Option<Box<dyn Loader>> {
    if path.is_dir() {
        let builder = AutoLoaderBuilder::new(
            NormalSpecificConfig::default(),
            MultimodalSpecificConfig::default(),
            EmbeddingSpecificConfig::default(),
            None,
            None,
            path.to_str()?.to_owned(),
            false,
            None,
        );
        return Some(builder.build());
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_str()?,
        _ => ".",
    };
    let builder = GGUFLoaderBuilder::new(
        None,
        None,
        folder.to_owned(),
        vec![path.file_name()?.to_str()?.to_owned()],
        GGUFSpecificConfig::default(),
        false,
        None,
    );
    Some(builder.build())
}

/// The device that this build of mistral.rs computes on.
pub(crate) fn device() -> Result<Device, candle_core::Error> {
    // candle panics where there is none.
    #[cfg(feature = "metal")]
    if candle_metal_kernels::metal::Device::system_default().is_none() {
        candle_core::bail!("the system names no Metal device");
    }
    if cfg!(feature = "metal") {
        Device::new_metal(0)
    } else if cfg!(feature = "cuda") {
        Device::new_cuda(0)
    } else {
        Ok(Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn folder(name: &str, config: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("gossamer-load-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), config).unwrap();
        folder
    }

    #[test]
    fn gpt_oss_is_refused_in_either_form_and_says_what_to_use() {
        let as_folder = folder("oss", r#"{"architectures": ["GptOssForCausalLM"]}"#);
        let by_type = folder("type", r#"{"model_type": "gpt_oss"}"#);
        // A GGUF file with one entry and no tensors.
        let as_file = as_folder.join("model.gguf");
        let mut file = File::create(&as_file).unwrap();
        let string =
            |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let header = [
            &b"GGUF"[..],
            &3_u32.to_le_bytes(),
            &0_u64.to_le_bytes(),
            &1_u64.to_le_bytes(),
            &string("general.architecture"),
            &8_u32.to_le_bytes(),
            &string("gpt-oss"),
        ];
        file.write_all(&header.concat()).unwrap();
        for path in [&as_folder, &by_type, &as_file] {
            let error = inspect(path).unwrap_err();
            assert!(matches!(error, LoadError::GptOss { .. }), "{error}");
            let text = error.to_string();
            for part in ["<|channel|>", "equal length", "--engine local"] {
                assert!(text.contains(part), "{text}");
            }
        }
        for folder in [as_folder, by_type] {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn what_is_no_model_is_named() {
        let other = folder("other", r#"{"architectures": ["Qwen3ForCausalLM"]}"#);
        assert_eq!(inspect(&other).unwrap(), "Qwen3ForCausalLM");
        std::fs::write(other.join("config.json"), "{}").unwrap();
        assert!(
            inspect(&other)
                .unwrap_err()
                .to_string()
                .contains("no architecture")
        );
        std::fs::write(other.join("config.json"), "nonsense").unwrap();
        assert!(
            inspect(&other)
                .unwrap_err()
                .to_string()
                .contains("not JSON")
        );
        let file = other.join("model.gguf");
        std::fs::write(&file, "nonsense").unwrap();
        assert!(
            inspect(&file)
                .unwrap_err()
                .to_string()
                .contains("no GGUF file")
        );
        assert!(inspect(&other.join("missing")).is_err());
        std::fs::remove_dir_all(other).unwrap();
    }
}
