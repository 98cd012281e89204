//! Stand-ins for the kernels of a device, on candle's CPU device: obvious, slow, for tests only.
//!
//! Each does what the kernel of the same purpose is documented to do, on the same tensors in the same layouts, and checks
//! what the kernel takes for granted: that lengths and slots are in range. They know nothing of how `paging.rs` came to what they are given. Sums are in f32.

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, bail};
use half::bf16;

use super::kv::Pair;

/// The shape of a cache, and where an element of a slot is in it.
#[derive(Clone, Copy)]
struct Dims {
    heads: usize,
    dim: usize,
    block: usize,
    x: usize,
    slots: usize,
}

impl Dims {
    fn of(cache: &Pair) -> Result<Self> {
        let (blocks, heads, groups, block, x) = cache.keys.dims5()?;
        assert_eq!(
            cache.values.dims4()?,
            (blocks, heads, groups * x, block),
            "keys and values of one shape"
        );
        Ok(Self {
            heads,
            dim: groups * x,
            block,
            x,
            slots: blocks * block,
        })
    }

    fn key(&self, slot: usize, head: usize, at: usize) -> usize {
        let (block, offset) = (slot / self.block, slot % self.block);
        let group = (block * self.heads + head) * (self.dim / self.x) + at / self.x;
        (group * self.block + offset) * self.x + at % self.x
    }

    fn value(&self, slot: usize, head: usize, at: usize) -> usize {
        let (block, offset) = (slot / self.block, slot % self.block);
        ((block * self.heads + head) * self.dim + at) * self.block + offset
    }
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Where an element of a head of a slot is.
type Place = fn(&Dims, usize, usize, usize) -> usize;

struct Write<'a> {
    rows: &'a [f32],
    slots: &'a [i64],
    dims: Dims,
    place: Place,
}

impl InplaceOp2 for Write<'_> {
    fn name(&self) -> &'static str {
        "write-cache"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        let CpuStorage::BF16(cache) = cache else {
            bail!("the cache is bf16");
        };
        let cache = &mut cache[layout.start_offset()..];
        let Dims { heads, dim, .. } = self.dims;
        for (row, slot) in self.rows.chunks_exact(heads * dim).zip(self.slots) {
            for (index, value) in row.iter().enumerate() {
                let place = (self.place)(&self.dims, *slot as usize, index / dim, index % dim);
                cache[place] = bf16::from_f32(*value);
            }
        }
        Ok(())
    }
}

/// See `device::write_cache`.
pub fn write_cache(keys: &Tensor, values: &Tensor, cache: &Pair, slots: &Tensor) -> Result<()> {
    let dims = Dims::of(cache)?;
    let slots: Vec<i64> = slots.to_vec1()?;
    assert_eq!(keys.dims3()?, (slots.len(), dims.heads, dims.dim));
    assert_eq!(keys.dims(), values.dims());
    assert!(slots.iter().all(|slot| (*slot as usize) < dims.slots));
    let places: [Place; 2] = [Dims::key, Dims::value];
    let targets = [(keys, &cache.keys), (values, &cache.values)];
    for ((source, target), place) in targets.into_iter().zip(places) {
        let write = Write {
            rows: &floats(source)?,
            slots: &slots,
            dims,
            place,
        };
        target.inplace_op2(source, &write)?;
    }
    Ok(())
}

/// See `device::gather_cache`.
pub fn gather_cache(
    cache: &Pair,
    tables: &Tensor,
    cumulative: &Tensor,
    dtype: DType,
) -> Result<Pair> {
    let dims = Dims::of(cache)?;
    let tables: Vec<Vec<u32>> = tables.to_vec2()?;
    let bounds: Vec<u32> = cumulative.to_vec1()?;
    assert_eq!(bounds.len(), tables.len() + 1);
    let mut slots = Vec::new();
    for (table, bounds) in tables.iter().zip(bounds.windows(2)) {
        let len = (bounds[1] - bounds[0]) as usize;
        slots.extend(
            (0..len).map(|at| table[at / dims.block] as usize * dims.block + at % dims.block),
        );
    }
    let read = |cache: &Tensor, place: Place| {
        let cache = floats(cache)?;
        let mut rows = Vec::with_capacity(slots.len() * dims.heads * dims.dim);
        for slot in &slots {
            for head in 0..dims.heads {
                rows.extend((0..dims.dim).map(|at| cache[place(&dims, *slot, head, at)]));
            }
        }
        let shape = (slots.len(), dims.heads, dims.dim);
        Tensor::from_vec(rows, shape, &Device::Cpu)?.to_dtype(dtype)
    };
    Ok(Pair {
        keys: read(&cache.keys, Dims::key)?,
        values: read(&cache.values, Dims::value)?,
    })
}

/// See `device::paged_attention`.
pub fn paged_attention(
    q: &Tensor,
    cache: &Pair,
    tables: &Tensor,
    context_lens: &Tensor,
    scale: f32,
    sinks: &Tensor,
) -> Result<Tensor> {
    let (count, heads, dim) = q.dims3()?;
    let lens: Vec<u32> = context_lens.to_vec1()?;
    assert_eq!((lens.len(), tables.dim(0)?), (count, count));
    let mut sum = 0;
    let ends = lens.iter().map(|len| {
        sum += len;
        sum
    });
    let bounds: Vec<u32> = std::iter::once(0).chain(ends).collect();
    let bounds = Tensor::new(bounds, q.device())?;
    let packed = gather_cache(cache, tables, &bounds, DType::F32)?;
    let single: Vec<u32> = (0..=count as u32).collect();
    let single = Tensor::new(single, q.device())?;
    let q = q.reshape((count, heads, 1, dim))?;
    let out = varlen_attention(&q, &packed, [&single, &bounds], scale, 0, sinks)?;
    out.reshape((count, heads, dim))
}

/// See `device::varlen_attention`.
pub fn varlen_attention(
    q: &Tensor,
    packed: &Pair,
    cumulative: [&Tensor; 2],
    scale: f32,
    window: usize,
    sinks: &Tensor,
) -> Result<Tensor> {
    let (count, heads, longest, dim) = q.dims4()?;
    let (tokens, kv_heads, _) = packed.keys.dims3()?;
    assert_eq!(packed.keys.dims(), packed.values.dims());
    let [bounds_q, bounds_k]: [Vec<u32>; 2] = [cumulative[0].to_vec1()?, cumulative[1].to_vec1()?];
    assert_eq!([bounds_q.len(), bounds_k.len()], [count + 1; 2]);
    assert_eq!(bounds_k[count] as usize, tokens);
    let (keys, values) = (floats(&packed.keys)?, floats(&packed.values)?);
    let (queries, sinks) = (floats(q)?, floats(sinks)?);
    assert_eq!(sinks.len(), heads);
    let mut out = vec![0f32; queries.len()];
    for sequence in 0..count {
        let num_q = (bounds_q[sequence + 1] - bounds_q[sequence]) as usize;
        let first = bounds_k[sequence] as usize;
        let num_k = bounds_k[sequence + 1] as usize - first;
        assert!(num_q <= longest && num_q <= num_k);
        for (head, sink) in sinks.iter().enumerate() {
            let kv_head = head / (heads / kv_heads);
            let row = |at: usize| ((first + at) * kv_heads + kv_head) * dim;
            for query in 0..num_q {
                let place = ((sequence * heads + head) * longest + query) * dim;
                let end = num_k - num_q + query + 1;
                let start = match window {
                    0 => 0,
                    window => end.saturating_sub(window),
                };
                let score = |at: usize| {
                    let key = &keys[row(at)..row(at) + dim];
                    let query = &queries[place..place + dim];
                    query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() * scale
                };
                let scores: Vec<f32> = (start..end).map(score).collect();
                let largest = scores.iter().copied().fold(*sink, f32::max);
                let weights: Vec<f32> = scores.iter().map(|s| (s - largest).exp()).collect();
                let whole = weights.iter().sum::<f32>() + (sink - largest).exp();
                for (at, weight) in (start..end).zip(weights) {
                    let value = &values[row(at)..row(at) + dim];
                    for (out, value) in out[place..place + dim].iter_mut().zip(value) {
                        *out += weight / whole * value;
                    }
                }
            }
        }
    }
    Tensor::from_vec(out, q.dims(), q.device())?.to_dtype(q.dtype())
}
