//! The output projection on the device, and drawing from what it makes without copying it.
//!
//! Logits are f32. Per draw, the largest logit and the mass of each block are copied (12.5 KB at GPT-OSS's vocabulary), then
//! the few blocks that decide (`coarse.rs`), instead of 804 KB. Draws that need more get their rows whole, and so do scores
//! of prompts. What is drawn is decided by the sampler alone.

use candle_core::{D, DType, Device, Result, Tensor};
use gossamer_kernels::Isa;
use gossamer_scheduler::{PromptLogprobs, SampleSpec, SampledToken};

use super::coarse::{self, BLOCK, Coarse};
use super::device::Traits;
use super::linear::{Form, Linear};
use crate::config::WeightFormat;
use crate::error::{LoadError, StepError};
use crate::sampler::{self, Row, Scratch};
use crate::step::Score;
use crate::weights::Weight;

/// The output projection, perhaps in pieces of its rows.
pub struct Head(Vec<Linear>);

impl Head {
    /// Puts `[vocab_size, hidden]` on the device.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(
        weight: &Weight,
        format: WeightFormat,
        dtype: DType,
        traits: &Traits,
        device: &Device,
    ) -> Result<Self> {
        // In eight bits the logits can be f32; in bf16 neighbours among the best of them are often equal.
        let input = match format {
            WeightFormat::Int8 => DType::F32,
            WeightFormat::Bf16 => dtype,
        };
        let num_rows = weight.shape()[0];
        let piece = match traits.piece_bytes {
            Some(bytes) if format == WeightFormat::Int8 => (bytes / weight.shape()[1]).max(1),
            _ => num_rows,
        };
        let form = Form {
            format,
            eight_bits: traits.eight_bits,
            input,
        };
        let pieces = (0..num_rows).step_by(piece).map(|first| {
            let rows = first..num_rows.min(first + piece);
            Linear::of_rows(weight, rows, form, device)
        });
        let pieces = pieces.collect::<Result<_>>()?;
        weight.release();
        Ok(Self(pieces))
    }

    /// f32 logits, `[rows, vocab_size]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pieces = self.0.iter().map(|piece| piece.forward(x));
        let pieces = pieces.collect::<Result<Vec<_>>>()?;
        let logits = match pieces.as_slice() {
            [whole] => whole.clone(),
            pieces => Tensor::cat(pieces, D::Minus1)?,
        };
        logits.to_dtype(DType::F32)
    }
}

/// One token per draw from row `draws[i].0` of `logits`.
///
/// # Errors
/// The device failed, or those of the sampler.
pub fn sample(
    isa: Isa,
    logits: &Tensor,
    draws: &[(usize, &SampleSpec)],
    scratch: &mut Scratch,
) -> std::result::Result<Vec<SampledToken>, StepError> {
    let mut drawn = vec![None; draws.len()];
    let by_block: Vec<usize> = (0..draws.len())
        .filter(|draw| coarse::applies(draws[*draw].1))
        .collect();
    if !by_block.is_empty() {
        sample_by_block(isa, logits, draws, &by_block, scratch, &mut drawn)?;
    }
    let rest: Vec<usize> = (0..draws.len())
        .filter(|draw| drawn[*draw].is_none())
        .collect();
    let rows = rest.iter().map(|draw| draws[*draw].0 as u32).collect();
    let rows = whole_rows(logits, rows)?;
    for (draw, row) in rest.into_iter().zip(&rows) {
        let token = sampler::sample(isa, Row::whole(row), draws[draw].1, scratch)?;
        drawn[draw] = Some(token);
    }
    Ok(drawn.into_iter().flatten().collect())
}

/// Draws those of `draws` that `which` names, as far as blocks decide them.
fn sample_by_block(
    isa: Isa,
    logits: &Tensor,
    draws: &[(usize, &SampleSpec)],
    which: &[usize],
    scratch: &mut Scratch,
    drawn: &mut [Option<SampledToken>],
) -> std::result::Result<(), StepError> {
    let rows: Vec<u32> = which.iter().map(|draw| draws[*draw].0 as u32).collect();
    let scales: Vec<f32> = which.iter().map(|draw| coarse::scale(draws[*draw].1)).collect();
    let len = logits.dim(D::Minus1)?;
    let blocks = in_blocks(&select(logits, rows)?)?; // [n, blocks, BLOCK]
    let sums = sums(&blocks, &scales)?;
    let per_row = sums.dim(1)? / 2;
    let sums: Vec<Vec<f32>> = sums.to_vec2()?;
    let rows: Vec<Coarse<'_>> = sums
        .iter()
        .zip(&scales)
        .map(|(sums, scale)| Coarse {
            maxima: &sums[..per_row],
            masses: &sums[per_row..],
            scale: *scale,
            len,
        })
        .collect();

    let needed: Vec<Option<Vec<u32>>> = rows
        .iter()
        .zip(which)
        .map(|(row, draw)| row.needed(isa, draws[*draw].1, scratch))
        .collect();
    let mut ids: Vec<u32> = Vec::new();
    for (index, blocks) in needed.iter().enumerate() {
        let first = (index * per_row) as u32;
        ids.extend(blocks.iter().flatten().map(|block| first + block));
    }
    if ids.is_empty() {
        return Ok(());
    }
    let ids = Tensor::new(ids, logits.device())?;
    let blocks = blocks.reshape((rows.len() * per_row, BLOCK))?;
    let copied: Vec<f32> = blocks.index_select(&ids, 0)?.flatten_all()?.to_vec1()?;
    let mut copied = copied.as_slice();
    for ((row, blocks), draw) in rows.iter().zip(&needed).zip(which) {
        let Some(blocks) = blocks else { continue };
        let (own, rest) = copied.split_at(blocks.len() * BLOCK);
        copied = rest;
        drawn[*draw] = row.sample(isa, blocks, own, draws[*draw].1, scratch)?;
    }
    Ok(())
}

/// Rows `[n, vocab_size]` as `[n, blocks, BLOCK]`, the last block filled up with what is never drawn.
fn in_blocks(rows: &Tensor) -> Result<Tensor> {
    let (n, len) = rows.dims2()?;
    let rows = match len % BLOCK {
        0 => rows.clone(),
        over => {
            let fill = Tensor::full(f32::MIN, (n, BLOCK - over), rows.device())?;
            Tensor::cat(&[rows, &fill], 1)?
        }
    };
    rows.reshape((n, len.div_ceil(BLOCK), BLOCK))
}

/// Maxima and then masses of the blocks of each row, `[n, 2 * blocks]`.
fn sums(blocks: &Tensor, scales: &[f32]) -> Result<Tensor> {
    let maxima = blocks.max(2)?; // [n, blocks]
    let largest = maxima.max_keepdim(1)?.unsqueeze(2)?; // [n, 1, 1]
    let scales = Tensor::new(scales, blocks.device())?.reshape((scales.len(), 1, 1))?;
    let weights = blocks.broadcast_sub(&largest)?.broadcast_mul(&scales)?.exp()?;
    Tensor::cat(&[maxima, weights.sum(2)?], 1)
}

/// Rows by number; the tensor itself where that is all of them in order.
fn select(logits: &Tensor, rows: Vec<u32>) -> Result<Tensor> {
    if rows.iter().copied().eq(0..logits.dim(0)? as u32) {
        return Ok(logits.clone());
    }
    logits.index_select(&Tensor::new(rows, logits.device())?, 0)
}

fn whole_rows(logits: &Tensor, rows: Vec<u32>) -> Result<Vec<Vec<f32>>> {
    match rows.is_empty() {
        true => Ok(Vec::new()),
        false => select(logits, rows)?.to_vec2(),
    }
}

/// How likely one token per entry was by row `scores[i].0` of `logits`.
///
/// # Errors
/// The device failed, or those of the sampler.
pub fn score(
    isa: Isa,
    logits: &Tensor,
    scores: &[(usize, Score)],
    scratch: &mut Scratch,
) -> std::result::Result<Vec<PromptLogprobs>, StepError> {
    let rows = scores.iter().map(|(row, _)| *row as u32).collect();
    let rows = whole_rows(logits, rows)?;
    let scored = scores.iter().zip(&rows);
    scored
        .map(|((_, score), row)| sampler::score(isa, Row::whole(row), *score, scratch))
        .collect()
}

impl From<candle_core::Error> for StepError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(first_line(&error))
    }
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(first_line(&error))
    }
}

/// Without the stack that candle may append.
fn first_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
