//! The only differences between devices: how one is opened, what it has free, and the kernels that are its own.
//!
//! Every function here calls the kernel of the tensor's device; on candle's CPU device, which only tests use, the
//! stand-in of `reference.rs`. Shapes are those of `mistralrs_paged_attn` and `mistralrs_quant` 0.8.1.
//! Invariant: nothing outside this file asks which device it is on.

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::kv::Pair;
use super::linear::EightBits;

#[cfg(test)]
use super::reference;

/// The constant in GPT-OSS's activation (openai/gpt-oss `gpt_oss/torch/model.py`, `swiglu`).
const SWIGLU_ALPHA: f32 = 1.702;

/// What is fixed about the device of this build.
pub struct Traits {
    /// Its name in settings and metrics.
    pub name: &'static str,
    /// Whose kernels run on it.
    pub kernels: &'static str,
    /// How it keeps eight-bit matrices.
    pub eight_bits: EightBits,
    /// Most bytes of an eight-bit matrix in one piece.
    pub piece_bytes: Option<usize>,
    /// Most bytes that a KV cache takes unless more are asked for, and why.
    pub kv_cache_cap: Option<(u64, &'static str)>,
}

/// Apple GPUs.
#[cfg(feature = "metal")]
pub const TRAITS: Traits = Traits {
    name: "metal",
    kernels: "mistral.rs 0.8.1",
    eight_bits: EightBits::Afq8,
    // candle rounds what it allocates up to a power of two, and keeps it for reuse: an output projection in one piece would
    // take 1 GiB for 0.58 and leave the 4 GiB behind that its f32 form went through.
    piece_bytes: Some(64 << 20),
    // mistral.rs issues 1029, 1064 and 1625: pools of many gigabytes stalled or slowed Macs down, 0.5 to 4 GB did not.
    kv_cache_cap: Some((4 << 30, "larger pools have been reported to stall Macs")),
};

/// NVIDIA GPUs.
#[cfg(feature = "cuda")]
pub const TRAITS: Traits = Traits {
    name: "cuda",
    kernels: "mistral.rs 0.8.1",
    eight_bits: EightBits::Q8_0,
    piece_bytes: None,
    kv_cache_cap: None,
};

/// The stand-in.
#[cfg(not(any(feature = "metal", feature = "cuda")))]
pub const TRAITS: Traits = Traits {
    name: "reference",
    kernels: "none",
    eight_bits: EightBits::Q8_0,
    piece_bytes: None,
    kv_cache_cap: None,
};

/// Opens the machine's device.
///
/// # Errors
/// There is none.
#[cfg(feature = "metal")]
pub fn open() -> Result<Device> {
    // candle panics where there is none.
    if candle_metal_kernels::metal::Device::system_default().is_none() {
        candle_core::bail!("the system names no Metal device");
    }
    Device::new_metal(0)
}

/// Opens the machine's first device.
///
/// # Errors
/// There is none.
#[cfg(feature = "cuda")]
pub fn open() -> Result<Device> {
    // On the default stream: the rotary kernel knows no other.
    Device::new_cuda(0)
}

/// What the device calls itself.
#[cfg(any(feature = "metal", feature = "cuda"))]
pub fn name(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "metal")]
        Device::Metal(device) => Some(device.device().architecture_name()),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => device.cuda_stream().context().name().ok(),
        _ => None,
    }
}

/// Bytes of the device's memory that nobody uses; `None` for a device without memory of its own.
///
/// # Errors
/// The device does not say.
pub fn free_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "metal")]
        Device::Metal(device) => {
            // What the weights came through is gone only when the device is done with it.
            device.wait_until_completed()?;
            let most = device.device().recommended_max_working_set_size();
            let used = device.device().current_allocated_size();
            Ok(Some(most.saturating_sub(used) as u64))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            use candle_core::cuda_backend::WrapErr;
            let stream = device.cuda_stream();
            stream.synchronize().w()?;
            let (free, _total) = stream.context().mem_get_info().w()?;
            Ok(Some(free as u64))
        }
        _ => Ok(None),
    }
}

/// Zeros that stay.
///
/// # Errors
/// The device has no room.
pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    match device {
        // Copied memory is taken as it is, cleared memory rounded up to a power of two.
        #[cfg(feature = "metal")]
        Device::Metal(_) => Tensor::zeros(shape, dtype, &Device::Cpu)?.to_device(device),
        _ => Tensor::zeros(shape, dtype, device),
    }
}

/// Writes rows of keys and values, `[t, num_kv_heads, head_dim]`, to their slots (i64, `[t]`).
///
/// # Errors
/// The device failed.
pub fn write_cache(keys: &Tensor, values: &Tensor, cache: &Pair, slots: &Tensor) -> Result<()> {
    match keys.device() {
        #[cfg(any(feature = "metal", feature = "cuda"))]
        Device::Metal(_) | Device::Cuda(_) => mistralrs_paged_attn::reshape_and_cache(
            keys,
            values,
            None,
            None,
            &cache.keys,
            &cache.values,
            slots,
        ),
        #[cfg(test)]
        Device::Cpu => reference::write_cache(keys, values, cache, slots),
        device => unsupported(device),
    }
}

/// One query per sequence, `[n, num_heads, head_dim]`, over all of its blocks (u32, `[n, width]`) and tokens (u32, `[n]`).
///
/// # Errors
/// The device failed.
pub fn paged_attention(
    q: &Tensor,
    cache: &Pair,
    tables: &Tensor,
    context_lens: &Tensor,
    max_context_len: usize,
    scale: f32,
    sinks: &Tensor,
) -> Result<Tensor> {
    match q.device() {
        #[cfg(any(feature = "metal", feature = "cuda"))]
        Device::Metal(_) | Device::Cuda(_) => mistralrs_paged_attn::paged_attention(
            q,
            None,
            None,
            &cache.keys,
            &cache.values,
            tables,
            context_lens,
            None,
            max_context_len,
            scale,
            1.0,
            Some(sinks),
        ),
        #[cfg(test)]
        Device::Cpu => {
            let longest = context_lens.max(0)?.to_scalar::<u32>()?;
            assert_eq!(longest as usize, max_context_len);
            reference::paged_attention(q, cache, tables, context_lens, scale, sinks)
        }
        device => unsupported(device),
    }
}

/// Keys and values of whole sequences, packed: `[tokens, num_kv_heads, head_dim]` each.
///
/// # Errors
/// The device failed.
pub fn gather_cache(
    cache: &Pair,
    tables: &Tensor,
    cumulative: &Tensor,
    dtype: DType,
) -> Result<Pair> {
    match tables.device() {
        #[cfg(any(feature = "metal", feature = "cuda"))]
        Device::Metal(_) | Device::Cuda(_) => {
            let (keys, values) = mistralrs_paged_attn::gather_kv_cache(
                &cache.keys,
                &cache.values,
                None,
                None,
                tables,
                cumulative,
                dtype,
            )?;
            Ok(Pair { keys, values })
        }
        #[cfg(test)]
        Device::Cpu => reference::gather_cache(cache, tables, cumulative, dtype),
        device => unsupported(device),
    }
}

/// Runs of queries, `[n, num_heads, max_queries, head_dim]`, over packed keys; query `i` of `m` is at the end of its
/// sequence's keys but `m - 1 - i`, and sees `window` of them (0: all), its own included.
///
/// # Errors
/// The device failed.
pub fn varlen_attention(
    q: &Tensor,
    packed: &Pair,
    cumulative_q: &Tensor,
    cumulative_k: &Tensor,
    scale: f32,
    window: usize,
    sinks: &Tensor,
) -> Result<Tensor> {
    match q.device() {
        #[cfg(feature = "metal")]
        Device::Metal(_) => mistralrs_quant::flash_attn_sinks_varlen_metal(
            q,
            &packed.keys,
            &packed.values,
            Some(sinks),
            cumulative_q,
            cumulative_k,
            scale,
            window,
        ),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => mistralrs_paged_attn::flash_attn_sinks_varlen(
            q,
            &packed.keys,
            &packed.values,
            Some(sinks),
            cumulative_q,
            cumulative_k,
            scale,
            window,
        ),
        #[cfg(test)]
        Device::Cpu => {
            let lens = [cumulative_q, cumulative_k];
            reference::varlen_attention(q, packed, lens, scale, window, sinks)
        }
        device => unsupported(device),
    }
}

/// Rotates queries and keys, `[t, heads, head_dim]`, by the angles of their rows, `[t, head_dim / 2]`. What is given may
/// be overwritten.
///
/// # Errors
/// The device failed.
pub fn rope(q: Tensor, k: Tensor, cos: &Tensor, sin: &Tensor) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() {
        mistralrs_quant::rotary::apply_rotary_inplace(&q, &k, cos, sin, true)?;
        return Ok((q, k));
    }
    let rotate = |x: Tensor| candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?, cos, sin)?.squeeze(0);
    Ok((rotate(q)?, rotate(k)?))
}

/// `(up + 1) * gate * sigmoid(1.702 * gate)` of clamped pairs of gate and up, `[n, inner, 2]`; `[n, inner]`.
///
/// # Errors
/// The device failed.
pub fn swiglu(pairs: &Tensor, limit: f32) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if pairs.device().is_cuda() {
        let inner = pairs.dim(1)?;
        return mistralrs_quant::gptoss_swiglu_interleaved(pairs, inner, SWIGLU_ALPHA, limit);
    }
    let limit = f64::from(limit);
    let part = |index| pairs.narrow(2, index, 1)?.squeeze(2)?.contiguous();
    let gate = part(0)?.minimum(limit)?;
    let up = part(1)?.clamp(-limit, limit)?;
    let sigmoid = candle_nn::ops::sigmoid(&(&gate * f64::from(SWIGLU_ALPHA))?)?;
    (up + 1.0)? * (gate * sigmoid)?
}

fn unsupported<T>(device: &Device) -> Result<T> {
    candle_core::bail!("no kernels for {:?} in this build", device.location())
}
