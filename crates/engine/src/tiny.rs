//! The GPT-OSS inside the binary: made by `models/tiny/train.py`, stored compressed.

use std::io::Read;

use crate::error::LoadError;

/// The files of the embedded model.
pub struct EmbeddedModel {
    /// `config.json`.
    pub config: &'static str,
    /// `generation_config.json`.
    pub generation_config: &'static str,
    /// `model.safetensors`, compressed with zstd.
    pub compressed_weights: &'static [u8],
}

/// The embedded model.
pub fn tiny() -> EmbeddedModel {
    EmbeddedModel {
        config: include_str!("../../../models/tiny/config.json"),
        generation_config: include_str!("../../../models/tiny/generation_config.json"),
        compressed_weights: include_bytes!("../../../models/tiny/model.safetensors.zst"),
    }
}

impl EmbeddedModel {
    /// `model.safetensors`, unpacked.
    ///
    /// # Errors
    /// [`LoadError::Checkpoint`] if the binary was built with a damaged file.
    pub fn weights(&self) -> Result<Vec<u8>, LoadError> {
        let damaged = |error: &dyn std::fmt::Display| {
            LoadError::checkpoint("the embedded model.safetensors.zst", error.to_string())
        };
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(self.compressed_weights)
            .map_err(|error| damaged(&error))?;
        let size = decoder.decoder.content_size();
        let mut weights = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        decoder
            .read_to_end(&mut weights)
            .map_err(|error| damaged(&error))?;
        Ok(weights)
    }
}
