//! Bytes as choices.
//!
//! Total: when the bytes are used up, every choice is the first one, so an input can be cut anywhere.

use arbitrary::Unstructured;

/// Choices that are made one after the other.
pub(crate) struct Draws<'a>(Unstructured<'a>);

impl<'a> Draws<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Unstructured::new(bytes))
    }

    /// Whether the bytes are used up.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let last = bound.saturating_sub(1);
        self.0.int_in_range(0..=last).unwrap_or(0)
    }

    /// True once in `n` times, about; never when the bytes are used up.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn word(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn long(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// At most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> &'a [u8] {
        let len = self.below(max + 1).min(self.0.len());
        self.0.bytes(len).unwrap_or_default()
    }

    /// A text of at most `max` bytes, before broken ones are replaced.
    pub fn text(&mut self, max: usize) -> String {
        String::from_utf8_lossy(self.bytes(max)).into_owned()
    }
}

/// A small generator for walks that are longer than the bytes: the bytes give its seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX constants.
        self.0 = (self.0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    /// A token that a mask allows, 32 tokens per word; `None` if it allows none.
    pub fn token_of(&mut self, mask: &[u32]) -> Option<u32> {
        // From a word on, so that all tokens come up.
        let from = self.below(mask.len());
        let at = (from..mask.len())
            .chain(0..from)
            .find(|at| mask[*at] != 0)?;
        let bits: Vec<u32> = (0..32).filter(|bit| mask[at] >> bit & 1 == 1).collect();
        Some(at as u32 * 32 + bits[self.below(bits.len())])
    }
}
