//! The random stream of a sequence: a pure function of seed, choice and position.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). There is no
//! state, so preemption, recomputation and the rest of the batch cannot shift a stream.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key between rounds: the golden ratio and sqrt(3) - 1, as in the paper.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// A number in [0, 1) with 53 random bits for token number `output_len` of choice `choice` of a request. Every `attempt` to
/// draw that token has its own, from 0.
pub fn uniform(seed: u64, choice: u32, output_len: usize, attempt: u32) -> f64 {
    let position = output_len as u64;
    let counter = [position as u32, (position >> 32) as u32, choice, attempt];
    let [a, b, ..] = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 * (1.0 / (1u64 << 53) as f64)
}

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let even = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let odd = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (odd >> 32) as u32 ^ counter[1] ^ key[0],
            odd as u32,
            (even >> 32) as u32 ^ counter[3] ^ key[1],
            even as u32,
        ];
        key = [
            key[0].wrapping_add(KEY_STEPS[0]),
            key[1].wrapping_add(KEY_STEPS[1]),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `philox4x32 10` of Random123's `tests/kat_vectors`.
    #[test]
    fn the_published_vectors_hold() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn numbers_fill_the_unit_interval_evenly() {
        let mut buckets = [0usize; 16];
        for position in 0..16_000 {
            let u = uniform(7, 1, position, 0);
            assert!((0.0..1.0).contains(&u));
            buckets[(u * 16.0) as usize] += 1;
        }
        let chi_square: f64 = buckets
            .iter()
            .map(|n| (*n as f64 - 1000.0).powi(2) / 1000.0)
            .sum();
        // 15 degrees of freedom: 37.7 is exceeded once in a thousand seeds.
        assert!(chi_square < 37.7, "{chi_square}");
    }

    #[test]
    fn seed_choice_position_and_attempt_each_change_the_number() {
        let base = uniform(1, 0, 0, 0);
        for other in [
            uniform(2, 0, 0, 0),
            uniform(1 << 32, 0, 0, 0),
            uniform(1, 1, 0, 0),
            uniform(1, 0, 1, 0),
            uniform(1, 0, 0, 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
