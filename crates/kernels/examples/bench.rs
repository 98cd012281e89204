//! How fast the kernels are on this machine: `cargo run --release -p gossamer-kernels --example bench [isa [part]]`.
//!
//! One thread. Long calls are timed in slices of rows or heads and each line is the best slice's pace, so that a busy
//! machine disturbs little. GB/s counts the weights once per call, GMAC/s the multiply-adds of the
//! mathematical product.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gossamer_kernels::{
    Bf16Matrix, Bf16Slice, ColumnsMut, HEAD_DIM, Isa, KvCache, KvDtype, KvLayout, Mxfp4Matrix,
    PackedFormat, PackedMatrix, PagedQueries, QUANT_BLOCK, QuantBlock, argmax, bf16_matmul,
    collect_at_least, mxfp4_matmul, pack_int8, pack_mxfp4, packed_len, packed_matmul,
    paged_attention, quantize, softmax_in_place, sum_exp, write_kv,
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let isa = match arguments.next() {
        Some(name) => Isa::from_name(&name).expect("an instruction set of this machine"),
        None => Isa::detect(),
    };
    let part = arguments.next().unwrap_or_default();
    let run = |name: &str| part.is_empty() || part == name;
    println!("isa {isa}");
    if run("tiny") {
        lm_head(isa, 201_088, 128, &[1, 2, 3, 4, 8, 16, 64]);
        lm_head(isa, 4096, 128, &[1, 2, 4, 16, 64]);
        experts(isa, 256, 128, &[1, 2, 3, 4, 5, 8, 16, 64]);
    }
    if run("dense") {
        lm_head(isa, 2880, 2880, &[1, 4, 16, 64]);
        lm_head(isa, 201_088, 2880, &[1, 2, 4]);
    }
    if run("experts") {
        experts(isa, 5760, 2880, &[1, 2, 3, 4, 5, 8, 16, 64, 256]);
    }
    if run("packed") {
        for format in [PackedFormat::Mxfp4, PackedFormat::Int8] {
            packed(isa, format, 256, 2880, &[1, 4, 16, 64]);
            packed(isa, format, 5760, 2880, &[1, 2, 3, 4, 6, 8, 16, 32, 64]);
        }
    }
    if run("attention") {
        for dtype in [KvDtype::Bf16, KvDtype::Int8] {
            attention(isa, dtype);
        }
    }
    if run("sampling") {
        sampling(isa);
    }
}

/// The shortest of several runs that together take about a third of a second.
fn best(mut run: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}

/// Numbers without structure, in -1..1.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

fn bf16_bits(x: &f32) -> u16 {
    (x.to_bits() >> 16) as u16
}

fn report(what: &str, seconds: f64, weight_bytes: usize, macs: usize) {
    println!(
        "{what:44} {:10.1} us {:7.2} GB/s {:7.2} GMAC/s",
        seconds * 1e6,
        weight_bytes as f64 / seconds / 1e9,
        macs as f64 / seconds / 1e9
    );
}

fn lm_head(isa: Isa, rows: usize, cols: usize, tokens: &[usize]) {
    // One period of noise repeated: making half a billion numbers one by one would outlast the measurement.
    let period: Vec<u8> = noise(1 << 20)
        .iter()
        .flat_map(|x| bf16_bits(x).to_le_bytes())
        .collect();
    let data: Vec<u8> = period
        .iter()
        .copied()
        .cycle()
        .take(2 * rows * cols)
        .collect();
    let weights = Bf16Matrix::new(Bf16Slice::new(&data), rows, cols);
    for &num_tokens in tokens {
        let x = noise(num_tokens * cols);
        let mut out = vec![0.0; num_tokens * rows];
        let slice = rows
            .min((1 << 25) / (cols * num_tokens.max(4)))
            .next_multiple_of(24);
        let mut start = 0;
        let seconds = best(|| {
            start = if start + 2 * slice > rows {
                0
            } else {
                start + slice
            };
            let range = start..rows.min(start + slice);
            let (_, out) = ColumnsMut::new(&mut out, num_tokens).split_at(range.start);
            let (mut out, _) = out.split_at(range.len());
            bf16_matmul(isa, black_box(&x), weights, range, None, &mut out);
        }) * rows as f64
            / slice as f64;
        report(
            &format!("bf16 {rows}x{cols} T={num_tokens}"),
            seconds,
            data.len(),
            num_tokens * rows * cols,
        );
    }
}

fn experts(isa: Isa, rows: usize, cols: usize, tokens: &[usize]) {
    // Eight experts in turn, so that the weights come from memory at the published size.
    const NUM_EXPERTS: usize = 8;
    let blocks = bytes(NUM_EXPERTS * rows * cols / 2);
    let scales: Vec<u8> = bytes(NUM_EXPERTS * rows * cols / 32)
        .iter()
        .map(|byte| 120 + byte % 8)
        .collect();
    let experts: Vec<_> = blocks
        .chunks_exact(rows * cols / 2)
        .zip(scales.chunks_exact(rows * cols / 32))
        .map(|(blocks, scales)| Mxfp4Matrix::new(blocks, scales, rows, cols))
        .collect();
    for &num_tokens in tokens {
        let x = noise(num_tokens * cols);
        let mut out = vec![0.0; num_tokens * rows];
        let slice = rows
            .min((1 << 25) / (cols * num_tokens.max(4)))
            .next_multiple_of(24)
            .min(rows);
        let mut start = 0;
        let mut turn = 0;
        let seconds = best(|| {
            start = if start + 2 * slice > rows {
                0
            } else {
                start + slice
            };
            let range = start..rows.min(start + slice);
            let (_, out) = ColumnsMut::new(&mut out, num_tokens).split_at(range.start);
            let (mut out, _) = out.split_at(range.len());
            turn = (turn + 1) % NUM_EXPERTS;
            mxfp4_matmul(isa, black_box(&x), experts[turn], range, None, &mut out);
        }) * rows as f64
            / slice as f64;
        report(
            &format!("mxfp4 {rows}x{cols} T={num_tokens}"),
            seconds,
            rows * cols / 2 + rows * cols / 32,
            num_tokens * rows * cols,
        );
    }
}

/// Packed weights and rounded activations; matrices in turn, as in `experts`, but so many that a server's caches do not hold
/// them; of 256 rows there is one, which the second cache holds.
fn packed(isa: Isa, format: PackedFormat, rows: usize, cols: usize, tokens: &[usize]) {
    let num_matrices = if rows == 256 { 1 } else { 64 };
    let len = packed_len(isa, format, rows, cols);
    let mut data = vec![0; len];
    match format {
        PackedFormat::Mxfp4 => {
            let (blocks, scales) = (bytes(rows * cols / 2), vec![121; rows * cols / 32]);
            let weights = Mxfp4Matrix::new(&blocks, &scales, rows, cols);
            pack_mxfp4(isa, weights, 0..rows, &mut data);
        }
        PackedFormat::Int8 => {
            let source: Vec<u8> = noise(rows * cols)
                .iter()
                .flat_map(|x| bf16_bits(x).to_le_bytes())
                .collect();
            let weights = Bf16Matrix::new(Bf16Slice::new(&source), rows, cols);
            pack_int8(isa, weights, 0..rows, &mut data);
        }
    }
    let data = data.repeat(num_matrices);
    for &num_tokens in tokens {
        let mut x = vec![QuantBlock::default(); num_tokens * cols / QUANT_BLOCK];
        quantize(isa, &noise(num_tokens * cols), &mut x);
        let order: Vec<u32> = (0..num_tokens as u32).collect();
        let mut out = vec![0.0; num_tokens * rows];
        let mut turn = 0;
        let seconds = best(|| {
            turn = (turn + 1) % num_matrices;
            let weights = PackedMatrix::new(isa, format, &data[turn * len..][..len], rows, cols);
            let mut out = ColumnsMut::new(&mut out, num_tokens);
            packed_matmul(black_box(&x), &order, weights, None, 0..rows, &mut out);
        });
        report(
            &format!("packed {format:?} {rows}x{cols} T={num_tokens}"),
            seconds,
            len,
            num_tokens * rows * cols,
        );
    }
}

fn attention(isa: Isa, dtype: KvDtype) {
    let (num_heads, layout) = (
        64,
        KvLayout {
            num_kv_heads: 8,
            block_size: 16,
            dtype,
        },
    );
    for (context, num_queries) in [
        (128, 1),
        (2048, 1),
        (16_384, 1),
        (512, 16),
        (512, 64),
        (8192, 64),
    ] {
        let num_blocks = context / layout.block_size;
        let mut keys = vec![0; num_blocks * layout.block_bytes()];
        let mut values = keys.clone();
        let token_len = layout.num_kv_heads * HEAD_DIM;
        let token = noise(1009 + token_len);
        for slot in 0..context {
            let x = &token[slot % 1009..][..token_len];
            write_kv(layout, &mut keys, &mut values, slot, x, x);
        }
        let block_table: Vec<u32> = (0..num_blocks as u32).rev().collect();
        let q = noise(num_queries * num_heads * HEAD_DIM);
        let sinks = noise(num_heads);
        let queries = PagedQueries {
            q: &q,
            sinks: &sinks,
            first_position: context - num_queries,
            window: None,
            block_table: &block_table,
            scale: 0.125,
        };
        let cache = KvCache {
            keys: &keys,
            values: &values,
            layout,
        };
        let mut out = vec![0.0; q.len()];
        let seconds = best(|| {
            let mut out = ColumnsMut::new(&mut out, num_queries);
            paged_attention(
                isa,
                black_box(cache),
                queries,
                0..layout.num_kv_heads,
                &mut out,
            );
        });
        report(
            &format!(
                "attention {} context={context} Q={num_queries}",
                dtype.name()
            ),
            seconds,
            2 * keys.len(),
            2 * num_queries * num_heads * HEAD_DIM * (context - num_queries / 2),
        );
    }
}

fn sampling(isa: Isa) {
    let logits = noise(201_088);
    let mut probabilities = logits.clone();
    let mut indices = Vec::new();
    let seconds = best(|| {
        black_box(argmax(isa, black_box(&logits)));
    });
    println!("argmax of 201088 {:38.1} us", seconds * 1e6);
    let seconds = best(|| {
        black_box(sum_exp(isa, black_box(&logits), 1.0, 1.0));
    });
    println!("sum_exp of 201088 {:37.1} us", seconds * 1e6);
    let seconds = best(|| {
        probabilities.copy_from_slice(&logits);
        softmax_in_place(isa, black_box(&mut probabilities), 1.0);
    });
    println!(
        "copy + softmax_in_place of 201088 {:21.1} us",
        seconds * 1e6
    );
    let seconds = best(|| {
        indices.clear();
        collect_at_least(isa, black_box(&logits), 0.999, &mut indices);
    });
    println!(
        "collect_at_least of 201088 (0.05% kept) {:15.1} us",
        seconds * 1e6
    );
}
