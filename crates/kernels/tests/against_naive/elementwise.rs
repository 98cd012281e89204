//! Normalization, positions, gating, routing and the reductions of sampling.

use gossamer_kernels::*;
use proptest::prelude::*;

use crate::support::*;

/// GPT-OSS's published values.
const YARN: YarnParams = YarnParams {
    head_dim: 64,
    theta: 150_000.0,
    factor: 32.0,
    beta_fast: 32.0,
    beta_slow: 1.0,
    original_context: 4096,
    truncate: false,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    #[test]
    fn rms_norm_is_the_formula(seed: u64, num_tokens in 0usize..4, width in 1usize..200, shift in 0usize..4) {
        let mut random = Random::new(seed);
        let x = random.numbers(num_tokens * width);
        let weight = random.bf16_bytes(width, shift);
        let weight = Bf16Slice::new(&weight[shift..]);
        let expect = naive::rms_norm(&x, weight, 1e-5);
        let scale: Vec<f64> = expect.iter().map(|x| x.abs()).collect();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; x.len()];
            rms_norm(isa, &x, weight, 1e-5, &mut out);
            assert_close(&format!("{isa}"), &out, &expect, &scale, 2e-6);
        }
    }

    #[test]
    fn swiglu_is_the_formula(seed: u64, len in 0usize..100, spread in 0.1f32..100.0) {
        let mut random = Random::new(seed);
        let gate_up: Vec<f32> = random.numbers(2 * len).iter().map(|x| x * spread).collect();
        let expect = naive::swiglu(&gate_up, 7.0);
        let scale: Vec<f64> = expect.iter().map(|x| x.abs()).collect();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; len];
            swiglu(isa, &gate_up, 7.0, &mut out);
            // Relative, but for gates so low that e^88 stands for more: there the result is next to nothing.
            for (i, (got, expect)) in out.iter().zip(&expect).enumerate() {
                let error = (f64::from(*got) - expect).abs();
                prop_assert!(error <= 1e-5 * scale[i] + 1e-34, "{} [{}]: {} is not {}", isa, i, got, expect);
            }
        }
    }

    #[test]
    fn rope_is_the_rotation(seed: u64, num_heads in 0usize..5, pairs in 1usize..40, position in 0usize..64) {
        let params = YarnParams { head_dim: 2 * pairs, ..YARN };
        let table = RopeTable::new(&params, 64);
        let (cos, sin) = table.at(position);
        let angles: Vec<f64> = params.inv_freq().iter().map(|f| f64::from(position as f32 * f)).collect();
        let heads = Random::new(seed).numbers(num_heads * 2 * pairs);
        let expect: Vec<f64> = heads.chunks_exact(2 * pairs)
            .flat_map(|head| naive::rope(head, &angles, f64::from(params.concentration())))
            .collect();
        for isa in Isa::available() {
            let mut rotated = heads.clone();
            rope(isa, &mut rotated, cos, sin);
            assert_close(&format!("{isa}"), &rotated, &expect, &vec![8.0; expect.len()], 1e-6);
        }
    }

    #[test]
    fn sums_and_widening_are_exact(seed: u64, len in 0usize..100, factor in -2.0f32..2.0, shift in 0usize..4) {
        let mut random = Random::new(seed);
        let (sum, x) = (random.numbers(len), random.numbers(len));
        let wide = random.bf16_bytes(len, shift);
        let wide = Bf16Slice::new(&wide[shift..]);
        for isa in Isa::available() {
            let mut added = sum.clone();
            add_assign(isa, &mut added, &x);
            let expect: Vec<f32> = sum.iter().zip(&x).map(|(a, b)| a + b).collect();
            prop_assert_eq!(bits(&added), bits(&expect));

            let mut added = sum.clone();
            add_scaled(isa, &mut added, factor, &x);
            let expect: Vec<f64> =
                sum.iter().zip(&x).map(|(a, b)| f64::from(*a) + f64::from(factor) * f64::from(*b)).collect();
            assert_close("add_scaled", &added, &expect, &vec![12.0; len], 2e-7);

            let mut out = vec![f32::NAN; len];
            widen_bf16(isa, wide, &mut out);
            prop_assert_eq!(out, (0..len).map(|i| wide.get(i)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn router_takes_the_largest(seed: u64, num_experts in 1usize..40, k in 1usize..8, distinct in 1u64..9) {
        let k = k.min(num_experts);
        let mut random = Random::new(seed);
        // Few distinct values: ties are the case to test.
        let logits: Vec<f32> = (0..num_experts).map(|_| (random.next() % distinct) as f32 / 2.0).collect();
        let (mut experts, mut weights) = (vec![0; k], vec![0.0; k]);
        router_topk(&logits, &mut experts, &mut weights);
        for (rank, (expert, weight)) in naive::router_topk(&logits, k).into_iter().enumerate() {
            prop_assert_eq!(experts[rank], expert);
            prop_assert!((f64::from(weights[rank]) - weight).abs() < 1e-6);
        }
    }

    #[test]
    fn reductions_agree_with_plain_loops(seed: u64, len in 1usize..3000, distinct in 1u64..2000, holes in 0u64..4) {
        let mut random = Random::new(seed);
        let x: Vec<f32> = (0..len).map(|_| match random.next() {
            n if n % 16 < holes => f32::NEG_INFINITY,
            n if n % 16 == 15 => f32::NAN,
            n => (n / 16 % distinct) as f32 / 64.0 - 9.0,
        }).collect();
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = x.iter().position(|x| *x == largest).unwrap_or(0);
        let threshold = largest - 1.0;
        let at_least: Vec<u32> = (0..len as u32).filter(|i| x[*i as usize] >= threshold).collect();
        for isa in Isa::available() {
            prop_assert_eq!(max(isa, &x), largest);
            prop_assert_eq!(argmax(isa, &x), first);
            let mut indices = vec![];
            collect_at_least(isa, &x, threshold, &mut indices);
            prop_assert_eq!(&indices, &at_least);
        }
    }

    #[test]
    fn sums_of_exponentials_agree_with_plain_loops(seed: u64, len in 0usize..3000, scale in 0.1f32..5.0) {
        let mut random = Random::new(seed);
        let x = random.numbers(len);
        let weights: Vec<f32> = (0..len).map(|_| (random.next() % 1000) as f32).collect();
        let shift = x.iter().copied().fold(0.0, f32::max);
        let power = |x: &f32| (f64::from((x - shift) * scale)).exp();
        let plain: f64 = x.iter().map(power).sum();
        let weighted: f64 = x.iter().zip(&weights).map(|(x, weight)| power(x) * f64::from(*weight)).sum();
        for isa in Isa::available() {
            let close = |got: f32, expect: f64| (f64::from(got) - expect).abs() <= 2e-5 * expect;
            prop_assert!(close(sum_exp(isa, &x, shift, scale), plain));
            prop_assert!(close(sum_exp_weighted(isa, &x, &weights, shift, scale), weighted));
        }
    }

    #[test]
    fn softmax_gives_probabilities(seed: u64, len in 1usize..3000, scale in 0.1f32..5.0, holes in 0u64..4) {
        let mut random = Random::new(seed);
        let mut x = random.numbers(len);
        for x in &mut x {
            if random.next() % 16 < holes {
                *x = f32::NEG_INFINITY;
            }
        }
        x[0] = 1.0;
        let expect = naive::softmax(&x, scale);
        for isa in Isa::available() {
            let mut probabilities = x.clone();
            softmax_in_place(isa, &mut probabilities, scale);
            assert_close(&format!("{isa}"), &probabilities, &expect, &expect, 2e-5);
            for (x, probability) in x.iter().zip(&probabilities) {
                prop_assert_eq!(*x == f32::NEG_INFINITY, *probability == 0.0);
            }
        }
    }
}

#[test]
fn softmax_of_nothing_above_minus_infinity_is_zero() {
    for isa in Isa::available() {
        let mut x = [f32::NEG_INFINITY, f32::NAN, f32::NEG_INFINITY];
        softmax_in_place(isa, &mut x, 1.0);
        assert_eq!(x, [0.0; 3]);
    }
}

#[test]
fn rotary_frequencies_are_those_of_the_yarn_paper() {
    let expect = naive::yarn_inv_freq(&YARN);
    for (got, expect) in YARN.inv_freq().iter().zip(&expect) {
        assert!(
            (f64::from(*got) / expect - 1.0).abs() < 1e-6,
            "{got} {expect}"
        );
    }
    assert_eq!(YARN.inv_freq()[0], 1.0);
    // The slowest pair is past the ramp: stretched by the whole factor.
    let last = 150_000f64.powf(-62.0 / 64.0) / 32.0;
    assert!((f64::from(YARN.inv_freq()[31]) / last - 1.0).abs() < 1e-6);
    assert!((YARN.concentration() - 1.346_573_6).abs() < 1e-6);
}

#[test]
fn without_stretch_positions_are_plain_rope() {
    let plain = YarnParams {
        factor: 1.0,
        ..YARN
    };
    assert_eq!(plain.concentration(), 1.0);
    for (i, got) in plain.inv_freq().iter().enumerate() {
        let expect = 150_000f64.powf(-(i as f64) / 32.0);
        assert!((f64::from(*got) / expect - 1.0).abs() < 1e-6, "pair {i}");
    }
}
