//! Seeded inputs for the property tests, and how many cases they run.

/// Number of cases per property: a tenth under Miri, which is a thousand times slower.
pub fn cases(cases: u32) -> u32 {
    if cfg!(miri) { 2 } else { cases }
}

/// The bits of each number: equality that tells 0 from -0 and finds NaN equal to itself.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Asserts that every number is within `tolerance * scale[i]` of what is expected.
pub fn assert_close(what: &str, got: &[f32], expect: &[f64], scale: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expect.len(), "{what}");
    for (i, (got, expect)) in got.iter().zip(expect).enumerate() {
        let error = (f64::from(*got) - expect).abs();
        assert!(
            error <= tolerance * scale[i] + 1e-30,
            "{what} [{i}]: {got} is not {expect}"
        );
    }
}

/// SplitMix64: enough randomness for inputs, and a failing case is one seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -4..4.
    pub fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 21) as f32 - 4.0
    }

    pub fn numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.number()).collect()
    }

    /// `shift` bytes that must not be read, then `len` bf16 numbers in -4..4.
    pub fn bf16_bytes(&mut self, len: usize, shift: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; shift];
        for _ in 0..len {
            bytes.extend_from_slice(&self.number().to_bits().to_le_bytes()[2..]);
        }
        bytes
    }

    /// Blocks and scales of a matrix, each after `shift` bytes that must not be read.
    pub fn mxfp4(&mut self, rows: usize, cols: usize, shift: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut blocks, mut scales) = (vec![0xff; shift], vec![0xff; shift]);
        blocks.extend((0..rows * cols / 2).map(|_| self.next() as u8));
        scales.extend((0..rows * cols / 32).map(|_| 121 + (self.next() % 9) as u8));
        (blocks, scales)
    }
}
