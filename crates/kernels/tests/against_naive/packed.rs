//! Packed weights and eight-bit activations: rounding within its bound, exact packing, products against the oracle,
//! alone and in company, and the error against unrounded products.

use gossamer_kernels::*;
use proptest::prelude::*;

use crate::support::*;

/// As in `matmul.rs`: f32's half ulp times the number of blocks that are added, and a few more for their scales.
const DOT_TOLERANCE: f64 = 4e-6;

struct Packed {
    bytes: Vec<u8>,
    format: PackedFormat,
    rows: usize,
    cols: usize,
}

impl Packed {
    /// Packs in `parts` calls, as several threads would.
    fn new(
        isa: Isa,
        format: PackedFormat,
        rows: usize,
        cols: usize,
        parts: usize,
        pack: impl Fn(std::ops::Range<usize>, &mut [u8]),
    ) -> Self {
        let mut bytes = vec![0xaa; packed_len(isa, format, rows, cols)];
        let units = rows.div_ceil(PackedMatrix::ROW_UNIT);
        let (mut rest, mut start) = (&mut bytes[..], 0);
        for part in 1..=parts {
            let end = (units * part / parts * PackedMatrix::ROW_UNIT).min(rows);
            let (own, after) = rest.split_at_mut(packed_len(isa, format, end - start, cols));
            pack(start..end, own);
            (rest, start) = (after, end);
        }
        Self {
            bytes,
            format,
            rows,
            cols,
        }
    }

    fn mxfp4(isa: Isa, weights: Mxfp4Matrix<'_>, parts: usize) -> Self {
        let (rows, cols) = (weights.rows(), weights.cols());
        Self::new(isa, PackedFormat::Mxfp4, rows, cols, parts, |rows, out| {
            pack_mxfp4(isa, weights, rows, out);
        })
    }

    fn int8(isa: Isa, weights: Bf16Matrix<'_>, parts: usize) -> Self {
        let (rows, cols) = (weights.rows(), weights.cols());
        Self::new(isa, PackedFormat::Int8, rows, cols, parts, |rows, out| {
            pack_int8(isa, weights, rows, out);
        })
    }

    fn view(&self, isa: Isa) -> PackedMatrix<'_> {
        PackedMatrix::new(isa, self.format, &self.bytes, self.rows, self.cols)
    }
}

/// Whether activations are rounded to bf16 and not to eight bits.
fn takes_bf16(isa: Isa) -> bool {
    isa.name().starts_with("amx")
}

fn quantized(isa: Isa, x: &[f32]) -> Vec<QuantBlock> {
    let mut blocks = vec![QuantBlock::default(); x.len() / QUANT_BLOCK];
    quantize(isa, x, &mut blocks);
    blocks
}

/// Both formats of a random matrix on `isa`.
fn both(isa: Isa, random: &mut Random, rows: usize, cols: usize, parts: usize) -> [Packed; 2] {
    let (blocks, scales) = random.mxfp4(rows, cols, 0);
    let data = random.bf16_bytes(rows * cols, 0);
    [
        Packed::mxfp4(isa, Mxfp4Matrix::new(&blocks, &scales, rows, cols), parts),
        Packed::int8(
            isa,
            Bf16Matrix::new(Bf16Slice::new(&data), rows, cols),
            parts,
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]

    #[test]
    fn activations_are_rounded_by_at_most_half_a_step(seed: u64, blocks in 1usize..10, exponent in -30i32..30) {
        let mut random = Random::new(seed);
        let x: Vec<f32> = random.numbers(blocks * QUANT_BLOCK).iter().map(|x| x * 2f32.powi(exponent)).collect();
        let expect = quantized(Isa::SCALAR, &x);
        for (x, block) in x.chunks_exact(QUANT_BLOCK).zip(&expect) {
            let step = x.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
            for (i, x) in x.iter().enumerate() {
                prop_assert!((block.get(Isa::SCALAR, i) - x).abs() <= step * 0.500_01);
            }
        }
        for isa in Isa::available() {
            if takes_bf16(isa) {
                for (x, block) in x.chunks_exact(QUANT_BLOCK).zip(quantized(isa, &x)) {
                    for (i, x) in x.iter().enumerate() {
                        prop_assert!((block.get(isa, i) - x).abs() <= x.abs() / 256.0);
                    }
                }
                continue;
            }
            prop_assert_eq!(&quantized(isa, &x), &expect, "{}", isa);
        }
    }

    #[test]
    fn mxfp4_is_packed_exactly(seed: u64, rows in 0usize..70, num_blocks in 1usize..6, parts in 1usize..4) {
        let cols = 32 * num_blocks;
        let (blocks, scales) = Random::new(seed).mxfp4(rows, cols, 0);
        let weights = Mxfp4Matrix::new(&blocks, &scales, rows, cols);
        for isa in Isa::available() {
            let packed = Packed::mxfp4(isa, weights, parts);
            for row in 0..rows {
                for col in 0..cols {
                    prop_assert_eq!(f64::from(packed.view(isa).get(row, col)), naive::mxfp4(weights, row, col));
                }
            }
        }
    }

    #[test]
    fn weights_are_rounded_by_at_most_half_a_step(
        seed: u64, rows in 0usize..70, num_blocks in 1usize..6, parts in 1usize..4, exponent in -30i32..30,
    ) {
        let cols = 32 * num_blocks;
        let mut random = Random::new(seed);
        let data: Vec<u8> = (0..rows * cols)
            .flat_map(|_| {
                let bits = (random.number() * 2f32.powi(exponent)).to_bits().to_le_bytes();
                [bits[2], bits[3]]
            })
            .collect();
        let weights = Bf16Matrix::new(Bf16Slice::new(&data), rows, cols);
        for isa in Isa::available() {
            let packed = Packed::int8(isa, weights, parts);
            for row in 0..rows {
                for block in 0..num_blocks {
                    let source: Vec<f32> = (0..32).map(|i| weights.row(row).get(32 * block + i)).collect();
                    // A bf16 scale is at most one part in 128 above the exact one.
                    let step = source.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0 * (1.0 + 1.0 / 128.0);
                    for (i, x) in source.iter().enumerate() {
                        let got = packed.view(isa).get(row, 32 * block + i);
                        // The product of both is then rounded to bf16 where AMX multiplies it.
                        let again = if takes_bf16(isa) { x.abs() / 250.0 } else { 0.0 };
                        prop_assert!(
                            (got - x).abs() <= step * 0.500_01 + again,
                            "{isa}: {got} for {x} in steps of {step}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn packed_matmul_is_the_product(
        seed: u64, num_rows in 1usize..20, num_tokens in 1usize..80, rows in 0usize..70, num_blocks in 1usize..40,
        biased: bool,
    ) {
        let cols = 32 * num_blocks;
        for isa in Isa::available() {
            let mut random = Random::new(seed);
            let x = quantized(isa, &random.numbers(num_rows * cols));
            let tokens: Vec<u32> = (0..num_tokens).map(|_| (random.next() % num_rows as u64) as u32).collect();
            let bias = random.numbers(rows);
            let bias = biased.then_some(&bias[..]);
            for packed in both(isa, &mut random, rows, cols, 1) {
                let weights = packed.view(isa);
                let expect = naive::packed_matmul(&x, &tokens, weights, bias);
                let mut out = vec![f32::NAN; num_tokens * rows];
                packed_matmul(&x, &tokens, weights, bias, 0..rows, &mut ColumnsMut::new(&mut out, num_tokens));
                // No product is above 4 x 4 in int8, 4 x 6 x 2^2 in MXFP4.
                let scale = vec![96.0 * cols as f64 + 4.0; out.len()];
                assert_close(&format!("{isa} {:?}", packed.format), &out, &expect, &scale, DOT_TOLERANCE / 8.0);
            }
        }
    }

    #[test]
    fn a_packed_product_does_not_depend_on_its_company(
        seed: u64, num_tokens in 1usize..140, rows in 1usize..70, num_blocks in 1usize..40, parts in 1usize..5,
    ) {
        let cols = 32 * num_blocks;
        for isa in Isa::available() {
            let mut random = Random::new(seed);
            let x = quantized(isa, &random.numbers(num_tokens * cols));
            let tokens: Vec<u32> = (0..num_tokens as u32).rev().collect();
            for packed in both(isa, &mut random, rows, cols, parts) {
                let weights = packed.view(isa);
                let mut together = vec![f32::NAN; num_tokens * rows];
                let columns = ColumnsMut::new(&mut together, num_tokens);
                for (range, mut out) in columns.split_even(parts, PackedMatrix::ROW_UNIT) {
                    packed_matmul(&x, &tokens, weights, None, range, &mut out);
                }
                for (token, together) in tokens.iter().zip(together.chunks_exact(rows)) {
                    let mut alone = vec![f32::NAN; rows];
                    packed_matmul(&x, &[*token], weights, None, 0..rows, &mut ColumnsMut::new(&mut alone, 1));
                    prop_assert_eq!(bits(&alone), bits(together), "{} {:?}", isa, packed.format);
                }
            }
        }
    }

    #[test]
    fn the_gated_product_is_the_product_gated(
        seed: u64, num_tokens in 1usize..140, out_blocks in 1usize..4, num_blocks in 1usize..8, parts in 1usize..4,
    ) {
        let (rows, cols) = (64 * out_blocks, 32 * num_blocks);
        for isa in Isa::available() {
            let mut random = Random::new(seed);
            let x = quantized(isa, &random.numbers(num_tokens * cols));
            let tokens: Vec<u32> = (0..num_tokens as u32).rev().collect();
            let bias = random.numbers(rows);
            for packed in both(isa, &mut random, rows, cols, 1) {
                let weights = packed.view(isa);
                let mut wide = vec![0.0; num_tokens * rows];
                packed_matmul(&x, &tokens, weights, Some(&bias), 0..rows, &mut ColumnsMut::new(&mut wide, num_tokens));
                let mut narrow = vec![0.0; wide.len() / 2];
                swiglu(isa, &wide, 7.0, &mut narrow);
                let mut out = vec![QuantBlock::default(); num_tokens * out_blocks];
                for (blocks, mut out) in ColumnsMut::new(&mut out, num_tokens).split_even(parts, 1) {
                    packed_swiglu(&x, &tokens, weights, Some(&bias), 7.0, blocks, &mut out);
                }
                prop_assert_eq!(&out, &quantized(isa, &narrow), "{} {:?}", isa, packed.format);
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_show() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 64];
            x[40] = bad;
            let blocks = quantized(isa, &x);
            assert!((0..32).all(|i| blocks[0].get(isa, i) == 1.0));
            let shows = |i: usize| match takes_bf16(isa) {
                true => blocks[1].get(isa, i).is_finite() == (i != 8),
                false => blocks[1].get(isa, i).is_nan(),
            };
            assert!((0..32).all(shows), "{isa} {bad}");
        }
        let tiny = quantized(isa, &[1e-44; 32]);
        assert!((0..32).all(|i| tiny[0].get(isa, i) == 0.0));
    }
}

/// The largest magnitudes in every place: nothing saturates or wraps on the way.
#[test]
fn the_extremes_are_exact() {
    let (rows, cols) = (32, 96);
    for isa in Isa::available() {
        for sign in [1.0, -1.0] {
            let x = quantized(isa, &vec![127.0 * sign; cols]);
            let (blocks, scales) = (
                [0x77, 0xff].repeat(rows * cols / 4),
                vec![127; rows * cols / 32],
            );
            let largest: Vec<u8> = 127f32.to_bits().to_le_bytes()[2..].repeat(rows * cols);
            let mxfp4 = Packed::mxfp4(isa, Mxfp4Matrix::new(&blocks, &scales, rows, cols), 1);
            let int8 = Packed::int8(
                isa,
                Bf16Matrix::new(Bf16Slice::new(&largest), rows, cols),
                1,
            );
            for packed in [mxfp4, int8] {
                let expect = naive::packed_matmul(&x, &[0], packed.view(isa), None);
                let mut out = vec![0.0; rows];
                let mut columns = ColumnsMut::new(&mut out, 1);
                packed_matmul(&x, &[0], packed.view(isa), None, 0..rows, &mut columns);
                let out: Vec<f64> = out.into_iter().map(f64::from).collect();
                assert_eq!(out, expect, "{isa} {:?}", packed.format);
            }
        }
    }
}

/// The nearest f16, for numbers in its normal range.
fn to_f16(x: f32) -> f32 {
    let bits = x.to_bits();
    let half = 0xfff + (bits >> 13 & 1);
    f32::from_bits((bits + half) & !0x1fff)
}

/// 32 numbers as llama.cpp's Q8_0 keeps them: multiples of their largest magnitude over 127, and that as f16
/// (ggml `quantize_row_q8_0_ref`).
fn q8_0(x: &[f32]) -> Vec<f64> {
    let scale = x.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
    let kept = f64::from(to_f16(scale));
    x.iter()
        .map(|x| f64::from((x / scale).round()) * kept)
        .collect()
}

/// Quality: the error of a whole product of random matrices beside the one that llama.cpp's Q8_0 path makes of the same.
#[test]
fn the_error_is_no_larger_than_that_of_q8_0() {
    let (num_tokens, rows, cols) = (24, 96, 2880);
    let mut random = Random::new(6);
    // Sums of uniform numbers are nearly normal; a few columns are loud, as activations are in trained models.
    let mut normal = |scale: f32| {
        let sum: f32 = (0..6).map(|_| random.number()).sum();
        scale * sum
    };
    let x: Vec<f32> = (0..num_tokens * cols)
        .map(|i| normal(if i % cols % 97 == 3 { 4.0 } else { 0.25 }))
        .collect();
    let data: Vec<u8> = (0..rows * cols)
        .flat_map(|_| normal(0.01).to_bits().to_le_bytes()[2..].to_vec())
        .collect();
    let weights = Bf16Matrix::new(Bf16Slice::new(&data), rows, cols);
    let expect = naive::bf16_matmul(&x, weights, None);
    let error = |got: &[f64]| {
        let squares: f64 = got.iter().zip(&expect).map(|(a, b)| (a - b).powi(2)).sum();
        let all: f64 = expect.iter().map(|x| x.powi(2)).sum();
        (squares / all).sqrt()
    };

    let w: Vec<f64> = (0..rows)
        .flat_map(|row| (0..cols).map(move |col| weights.row(row).get(col)))
        .collect::<Vec<f32>>()
        .chunks_exact(32)
        .flat_map(q8_0)
        .collect();
    let theirs: Vec<f64> = x
        .chunks_exact(cols)
        .flat_map(|x| {
            let x: Vec<f64> = x.chunks_exact(32).flat_map(q8_0).collect();
            let row = |row: &[f64]| row.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>();
            w.chunks_exact(cols).map(row).collect::<Vec<_>>()
        })
        .collect();
    let theirs = error(&theirs);

    for isa in Isa::available() {
        let packed = Packed::int8(isa, weights, 1);
        let tokens: Vec<u32> = (0..num_tokens as u32).collect();
        let mut out = vec![0.0; num_tokens * rows];
        let mut columns = ColumnsMut::new(&mut out, num_tokens);
        let x = quantized(isa, &x);
        packed_matmul(&x, &tokens, packed.view(isa), None, 0..rows, &mut columns);
        let ours = error(&out.into_iter().map(f64::from).collect::<Vec<_>>());
        println!("{isa}: {ours:.6} of the product, Q8_0 {theirs:.6}");
        assert!(ours < 1.01 * theirs, "{isa}: {ours} against {theirs}");
    }
}
