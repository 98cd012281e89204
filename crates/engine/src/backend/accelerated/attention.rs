//! Attention of a step over the paged cache: each row by the kernel that is made for it.
//!
//! ```text
//!                     one query                           several queries
//! sees everything     paged_attention over the blocks     the cache gathered, or the chunk's own keys if nothing is
//!                                                         before them; then varlen_attention
//! has a window        its keys picked by slot, then varlen_attention
//! ```
//! What a layer's calls need is on the device once per step and kind of layer ([`View`]). Knows `paging.rs` for what is
//! read, `device.rs` for who reads it. Invariant: rows come out in the order of the step.

use candle_core::{DType, Device, Result, Tensor};

use super::device;
use super::kv::{CACHE_DTYPE, PagedKv, Pair};
use super::paging::{Split, Tables, WindowKeys, cumulative_queries};
use crate::step::Step;

/// Sizes that all layers have.
#[derive(Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// What is the same for all layers of a step.
pub struct StepTensors {
    split: Split,
    is_fresh: bool,
    /// Rows of the step, in the order of the kernels; `None` for all in order.
    decode_rows: Option<Tensor>,
    padded: Option<Tensor>,
    unpadded: Option<Tensor>,
    order: Option<Tensor>,
    cumulative_decodes: Tensor,
    cumulative_chunks: Tensor,
    /// By group and window.
    views: Vec<((usize, Option<usize>), View)>,
}

/// What the layers of one kind read and write.
struct View {
    /// Slot of each row.
    slots: Tensor,
    decodes: Decodes,
    chunks: Chunks,
}

enum Decodes {
    None,
    ByBlock(Vec<Call>),
    BySlot(Packed),
}

/// One call of the single-query kernel.
struct Call {
    /// First of its decodes, and how many.
    first: usize,
    count: usize,
    tables: Tensor,
    context_lens: Tensor,
    max_context_len: usize,
}

enum Chunks {
    None,
    /// Nothing is before them.
    Fresh,
    ByBlock {
        tables: Tensor,
        cumulative: Tensor,
    },
    BySlot(Packed),
}

/// Slots of packed keys.
struct Packed {
    slots: Tensor,
    cumulative: Tensor,
}

impl StepTensors {
    /// Lays out `step`.
    ///
    /// # Errors
    /// The device failed.
    pub fn new(step: &Step<'_>, heads: Heads, device: &Device) -> Result<Self> {
        let split = Split::new(step, heads.num_heads);
        let in_order = |rows: &[u32]| rows.iter().copied().eq(0..step.positions.len() as u32);
        let unless_in_order = |rows: &[u32]| match rows.is_empty() || in_order(rows) {
            true => Ok(None),
            false => Tensor::new(rows, device).map(Some),
        };
        Ok(Self {
            is_fresh: split.is_fresh(step),
            decode_rows: unless_in_order(&split.decode_rows)?,
            padded: unless_in_order(&split.padded)?,
            // One chunk alone is padded to its own length.
            unpadded: match split.unpadded.len() == split.padded.len() {
                true => None,
                false => Some(Tensor::new(split.unpadded.as_slice(), device)?),
            },
            order: split
                .order
                .as_deref()
                .map(|order| Tensor::new(order, device))
                .transpose()?,
            cumulative_decodes: Tensor::new(cumulative_queries(step, &split.decodes), device)?,
            cumulative_chunks: Tensor::new(cumulative_queries(step, &split.chunks), device)?,
            views: Vec::new(),
            split,
        })
    }

    /// The view of a layer; made when the first layer of its kind asks.
    fn view(
        &mut self,
        step: &Step<'_>,
        group: usize,
        window: Option<usize>,
        block_size: usize,
        device: &Device,
    ) -> Result<usize> {
        let mut views = self.views.iter();
        if let Some(index) = views.position(|(kind, _)| *kind == (group, window)) {
            return Ok(index);
        }
        let view = self.new_view(step, group, window, block_size, device)?;
        self.views.push(((group, window), view));
        Ok(self.views.len() - 1)
    }

    fn new_view(
        &self,
        step: &Step<'_>,
        group: usize,
        window: Option<usize>,
        block_size: usize,
        device: &Device,
    ) -> Result<View> {
        let group = &step.groups[group];
        let by_slot = |sequences: &[usize], window| {
            let keys = WindowKeys::new(step, group, sequences, window, block_size);
            Ok::<_, candle_core::Error>(Packed {
                slots: Tensor::new(keys.slots, device)?,
                cumulative: Tensor::new(keys.cumulative, device)?,
            })
        };
        let by_block = |sequences: &[usize]| {
            let tables = Tables::new(step, group, sequences, block_size);
            let shape = (sequences.len(), tables.width);
            let on_device = Tensor::from_slice(&tables.blocks, shape, device)?;
            Ok::<_, candle_core::Error>((tables, on_device))
        };
        let Split {
            decodes,
            calls,
            chunks,
            ..
        } = &self.split;
        let slots: Vec<i64> = group.slots.iter().map(|slot| *slot as i64).collect();
        Ok(View {
            slots: Tensor::new(slots, device)?,
            decodes: match window {
                _ if decodes.is_empty() => Decodes::None,
                Some(window) => Decodes::BySlot(by_slot(decodes, window)?),
                None => {
                    let call = |range: &std::ops::Range<usize>| {
                        let (tables, on_device) = by_block(&decodes[range.clone()])?;
                        Ok(Call {
                            first: range.start,
                            count: range.len(),
                            tables: on_device,
                            context_lens: Tensor::new(tables.context_lens, device)?,
                            max_context_len: tables.max_context_len,
                        })
                    };
                    Decodes::ByBlock(calls.iter().map(call).collect::<Result<_>>()?)
                }
            },
            chunks: match window {
                _ if chunks.is_empty() => Chunks::None,
                _ if self.is_fresh => Chunks::Fresh,
                Some(window) => Chunks::BySlot(by_slot(chunks, window)?),
                None => {
                    let (tables, on_device) = by_block(chunks)?;
                    Chunks::ByBlock {
                        tables: on_device,
                        cumulative: Tensor::new(tables.cumulative(), device)?,
                    }
                }
            },
        })
    }

    /// Writes the step's keys and values to a layer's cache and attends its queries: `q` is `[t, num_heads * head_dim]`,
    /// like the result, `k` and `v` `[t, num_kv_heads * head_dim]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn attend(
        &mut self,
        step: &Step<'_>,
        [q, k, v]: [&Tensor; 3],
        layer: Layer<'_>,
        heads: Heads,
    ) -> Result<Tensor> {
        let Layer { kv, index, window, .. } = layer;
        let view = self.view(step, kv.group(index), window, kv.block_size, q.device())?;
        let view = &self.views[view].1;
        let cache = kv.layer(index, window.is_some());
        let rows = q.dim(0)?;
        let q = q.reshape((rows, heads.num_heads, heads.head_dim))?;
        let of_token = (rows, heads.num_kv_heads, heads.head_dim);
        let [k, v] = [k.reshape(of_token)?, v.reshape(of_token)?];
        device::write_cache(&k, &v, cache, &view.slots)?;

        let mut parts = Vec::with_capacity(2);
        if !matches!(view.decodes, Decodes::None) {
            let q = match &self.decode_rows {
                None => q.clone(),
                Some(rows) => q.index_select(rows, 0)?,
            };
            parts.push(self.decode(&q, view, cache, &layer, heads)?);
        }
        if !matches!(view.chunks, Chunks::None) {
            parts.push(self.prefill(&q, [&k, &v], view, cache, &layer, heads)?);
        }
        let out = match parts.as_slice() {
            [only] => only.clone(),
            parts => Tensor::cat(parts, 0)?,
        };
        match &self.order {
            None => Ok(out),
            Some(order) => out.index_select(order, 0),
        }
    }

    /// Single queries, `[n, num_heads, head_dim]`; `[n, num_heads * head_dim]`.
    fn decode(
        &self,
        q: &Tensor,
        view: &View,
        cache: &Pair,
        layer: &Layer<'_>,
        heads: Heads,
    ) -> Result<Tensor> {
        let width = heads.num_heads * heads.head_dim;
        let out = match &view.decodes {
            Decodes::None => unreachable!("asked for decodes where there are some"),
            Decodes::BySlot(keys) => {
                let packed = pick(cache, &keys.slots, heads)?;
                device::varlen_attention(
                    &q.unsqueeze(2)?,
                    &packed,
                    &self.cumulative_decodes,
                    &keys.cumulative,
                    scale(heads),
                    layer.window.unwrap_or(0),
                    layer.sinks,
                )?
            }
            Decodes::ByBlock(calls) => {
                let call = |call: &Call| {
                    device::paged_attention(
                        &q.narrow(0, call.first, call.count)?,
                        cache,
                        &call.tables,
                        &call.context_lens,
                        call.max_context_len,
                        scale(heads),
                        layer.sinks,
                    )
                };
                match calls.as_slice() {
                    [only] => call(only)?,
                    calls => Tensor::cat(&calls.iter().map(call).collect::<Result<Vec<_>>>()?, 0)?,
                }
            }
        };
        out.reshape((q.dim(0)?, width))
    }

    /// Runs of queries: `q` is `[t, num_heads, head_dim]`, `k` and `v` `[t, num_kv_heads, head_dim]`, of all rows; the
    /// chunks' rows, `[n, num_heads * head_dim]`.
    fn prefill(
        &self,
        q: &Tensor,
        [k, v]: [&Tensor; 2],
        view: &View,
        cache: &Pair,
        layer: &Layer<'_>,
        heads: Heads,
    ) -> Result<Tensor> {
        let Heads {
            num_heads,
            head_dim,
            ..
        } = heads;
        let (packed, cumulative) = match &view.chunks {
            Chunks::None => unreachable!("asked for chunks where there are some"),
            Chunks::Fresh => {
                // What was written is what is seen: rounded as the cache is.
                let own = |x: &Tensor| {
                    let rows = x.to_dtype(CACHE_DTYPE)?;
                    let padded = match &self.padded {
                        None => rows,
                        Some(padded) => rows.index_select(padded, 0)?,
                    };
                    match &self.unpadded {
                        None => Ok(padded),
                        Some(unpadded) => padded.index_select(unpadded, 0),
                    }
                };
                let packed = Pair {
                    keys: own(k)?,
                    values: own(v)?,
                };
                (packed, &self.cumulative_chunks)
            }
            Chunks::ByBlock { tables, cumulative } => {
                let packed = device::gather_cache(cache, tables, cumulative, CACHE_DTYPE)?;
                (packed, cumulative)
            }
            Chunks::BySlot(keys) => (pick(cache, &keys.slots, heads)?, &keys.cumulative),
        };
        let (count, longest) = (self.split.chunks.len(), self.split.max_queries);
        let q = match &self.padded {
            None => q.clone(),
            Some(padded) => q.index_select(padded, 0)?,
        };
        let q = q
            .reshape((count, longest, num_heads, head_dim))?
            .transpose(1, 2)?
            .contiguous()?; // [n, num_heads, longest, head_dim]
        let out = device::varlen_attention(
            &q,
            &packed,
            &self.cumulative_chunks,
            cumulative,
            scale(heads),
            layer.window.unwrap_or(0),
            layer.sinks,
        )?;
        let out = out
            .transpose(1, 2)?
            .reshape((count * longest, num_heads * head_dim))?;
        match &self.unpadded {
            None => Ok(out),
            Some(unpadded) => out.index_select(unpadded, 0),
        }
    }
}

/// Which layer attends, over what.
pub struct Layer<'a> {
    /// The cache.
    pub kv: &'a PagedKv,
    /// Its index.
    pub index: usize,
    /// Tokens that a query sees.
    pub window: Option<usize>,
    /// A logit per query head, f32.
    pub sinks: &'a Tensor,
}

/// Keys and values of some slots, packed: `[slots, num_kv_heads, head_dim]` each.
fn pick(cache: &Pair, slots: &Tensor, heads: Heads) -> Result<Pair> {
    let width = heads.num_kv_heads * heads.head_dim;
    let pick = |cache: &Tensor| {
        let rows = cache.reshape((cache.dim(0)?, width))?;
        let picked = rows.index_select(slots, 0)?;
        picked.reshape((slots.dim(0)?, heads.num_kv_heads, heads.head_dim))
    };
    Ok(Pair {
        keys: pick(&cache.keys)?,
        values: pick(&cache.values)?,
    })
}

fn scale(heads: Heads) -> f32 {
    1.0 / (heads.head_dim as f32).sqrt()
}

/// Sinks as every kernel wants them.
///
/// # Errors
/// The device failed.
pub fn sinks(weight: Tensor) -> Result<Tensor> {
    weight.to_dtype(DType::F32)
}
