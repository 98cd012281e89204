//! Both matrix products: against the oracle, alone and in company, and every MXFP4 code.

use gossamer_kernels::*;
use proptest::prelude::*;

use crate::support::*;

/// Allowed error per unit of `sum |a b|`: f32's half ulp times the length of the longest chain of additions
/// (a lane's share of a few hundred columns).
const DOT_TOLERANCE: f64 = 4e-6;

fn matmul_magnitudes(
    x: &[f32],
    rows: usize,
    cols: usize,
    w: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut sums = vec![];
    for token in x.chunks_exact(cols) {
        for row in 0..rows {
            sums.push(
                (0..cols)
                    .map(|col| (f64::from(token[col]) * w(row, col)).abs())
                    .sum(),
            );
        }
    }
    sums
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]

    #[test]
    fn bf16_matmul_is_the_product(
        seed: u64, num_tokens in 1usize..40, rows in 0usize..40, eights in 1usize..80, biased: bool, shift in 0usize..4,
    ) {
        let cols = 8 * eights;
        let mut random = Random::new(seed);
        let x = random.numbers(num_tokens * cols);
        let data = random.bf16_bytes(rows * cols, shift);
        let weights = Bf16Matrix::new(Bf16Slice::new(&data[shift..]), rows, cols);
        let bias = random.bf16_bytes(rows, shift);
        let bias = biased.then(|| Bf16Slice::new(&bias[shift..]));
        let expect = naive::bf16_matmul(&x, weights, bias);
        let scale: Vec<f64> = matmul_magnitudes(&x, rows, cols, |r, c| f64::from(weights.row(r).get(c)))
            .iter().map(|sum| sum + 4.0).collect();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; num_tokens * rows];
            bf16_matmul(isa, &x, weights, 0..rows, bias, &mut ColumnsMut::new(&mut out, num_tokens));
            assert_close(&format!("{isa}"), &out, &expect, &scale, DOT_TOLERANCE);
        }
    }

    #[test]
    fn mxfp4_matmul_is_the_product(
        seed: u64, num_tokens in 1usize..40, rows in 0usize..40, num_blocks in 1usize..20, biased: bool, shift in 0usize..4,
    ) {
        let cols = 32 * num_blocks;
        let mut random = Random::new(seed);
        let x = random.numbers(num_tokens * cols);
        let (blocks, scales) = random.mxfp4(rows, cols, shift);
        let weights = Mxfp4Matrix::new(&blocks[shift..], &scales[shift..], rows, cols);
        let bias = random.bf16_bytes(rows, shift);
        let bias = biased.then(|| Bf16Slice::new(&bias[shift..]));
        let expect = naive::mxfp4_matmul(&x, weights, bias);
        let scale: Vec<f64> = matmul_magnitudes(&x, rows, cols, |r, c| naive::mxfp4(weights, r, c))
            .iter().map(|sum| sum + 4.0).collect();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; num_tokens * rows];
            mxfp4_matmul(isa, &x, weights, 0..rows, bias, &mut ColumnsMut::new(&mut out, num_tokens));
            assert_close(&format!("{isa}"), &out, &expect, &scale, DOT_TOLERANCE);
        }
    }

    #[test]
    fn a_product_does_not_depend_on_its_company(
        seed: u64, num_tokens in 1usize..140, rows in 1usize..40, num_blocks in 1usize..20, eights in 1usize..80, parts in 1usize..5,
    ) {
        let mut random = Random::new(seed);
        let (blocks, scales) = random.mxfp4(rows, 32 * num_blocks, 0);
        let mxfp4 = Mxfp4Matrix::new(&blocks, &scales, rows, 32 * num_blocks);
        let cols = 8 * eights;
        let data = random.bf16_bytes(rows * cols, 0);
        let bf16 = Bf16Matrix::new(Bf16Slice::new(&data), rows, cols);
        for isa in Isa::available() {
            let x = random.numbers(num_tokens * cols);
            company(num_tokens, rows, cols, parts, &x, |x, range, out| {
                bf16_matmul(isa, x, bf16, range, None, out);
            });
            let x = random.numbers(num_tokens * 32 * num_blocks);
            company(num_tokens, rows, 32 * num_blocks, parts, &x, |x, range, out| {
                mxfp4_matmul(isa, x, mxfp4, range, None, out);
            });
        }
    }
}

/// Asserts that `multiply` gives each token the same bits alone as among others, whole as in parts of the rows.
fn company(
    num_tokens: usize,
    rows: usize,
    cols: usize,
    parts: usize,
    x: &[f32],
    multiply: impl Fn(&[f32], std::ops::Range<usize>, &mut ColumnsMut<'_>),
) {
    let mut together = vec![f32::NAN; num_tokens * rows];
    for (range, mut out) in ColumnsMut::new(&mut together, num_tokens).split_even(parts, 1) {
        multiply(x, range, &mut out);
    }
    for (x, together) in x.chunks_exact(cols).zip(together.chunks_exact(rows)) {
        let mut alone = vec![f32::NAN; rows];
        multiply(x, 0..rows, &mut ColumnsMut::new(&mut alone, 1));
        assert_eq!(bits(&alone), bits(together));
    }
}

#[test]
fn every_mxfp4_byte_and_scale_decodes_exactly() {
    // A row is one block, so that overflow in one scale stays there; sixteen rows per scale hold every byte
    // once, at a place that turns with the scale. Each token picks one column: a product is a weight.
    let (rows, cols) = (16 * 256, 32);
    let byte = |row: usize, i: usize| (row % 16 * 16 + (i + row / 16) % 16) as u8;
    let blocks: Vec<u8> = (0..rows * 16).map(|at| byte(at / 16, at % 16)).collect();
    let scales: Vec<u8> = (0..rows).map(|row| (row / 16) as u8).collect();
    let weights = Mxfp4Matrix::new(&blocks, &scales, rows, cols);
    let mut identity = vec![0.0; cols * cols];
    for col in 0..cols {
        identity[col * cols + col] = 1.0;
    }
    for isa in Isa::available() {
        // One at a time and all at once take different ways through the code.
        for num_tokens in [1, cols] {
            for (call, x) in identity.chunks_exact(num_tokens * cols).enumerate() {
                let mut out = vec![f32::NAN; num_tokens * rows];
                mxfp4_matmul(
                    isa,
                    x,
                    weights,
                    0..rows,
                    None,
                    &mut ColumnsMut::new(&mut out, num_tokens),
                );
                for (at, got) in out.into_iter().enumerate() {
                    let (row, col) = (at % rows, call * num_tokens + at / rows);
                    let exact = naive::mxfp4(weights, row, col);
                    // From 2^126 on, 4 and 6 are past f32, and infinity times the zeros of x is NaN.
                    let may_overflow = scales[row] >= 253;
                    let right = f64::from(got) == exact || may_overflow && !got.is_finite();
                    assert!(
                        right,
                        "{isa} scale {} col {col}: {got} is not {exact}",
                        scales[row]
                    );
                }
            }
        }
    }
}
