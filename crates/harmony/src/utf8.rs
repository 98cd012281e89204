//! Bytes in pieces to valid UTF-8.
//!
//! Tokens cut characters anywhere, so the last bytes of a piece may be the beginning of a
//! character. They wait here until the rest arrives.
//! Invariant: the concatenation of all outputs equals `String::from_utf8_lossy` of the
//! concatenation of all inputs, however the input was cut.

/// Turns a stream of bytes into a stream of valid UTF-8.
///
/// A character that is not complete yet is held back (at most three bytes); bytes that can no
/// longer become a character are replaced by U+FFFD, one per maximal invalid part, as
/// `String::from_utf8_lossy` does.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    held: Vec<u8>,
    num_replaced: u64,
}

impl Utf8Stream {
    /// A stream that holds nothing back.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`, returns all text that is certain by now; may be empty.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut held_from = self.held.len();
        let mut at = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            at += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            at += invalid.len();
            if at == self.held.len() && is_incomplete(invalid) {
                held_from = at - invalid.len();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
                self.num_replaced += 1;
            }
        }
        self.held.drain(..held_from);
        text
    }

    /// Ends the stream: an incomplete character becomes U+FFFD. The stream can be used again.
    pub fn finish(&mut self) -> String {
        if self.held.is_empty() {
            return String::new();
        }
        // What is held is a single incomplete character.
        self.held.clear();
        self.num_replaced += 1;
        char::REPLACEMENT_CHARACTER.to_string()
    }

    /// How many times U+FFFD was put in the place of broken bytes.
    #[must_use]
    pub fn num_replaced(&self) -> u64 {
        self.num_replaced
    }

    /// Whether part of a character is held back.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        !self.held.is_empty()
    }
}

/// Whether `bytes`, an invalid part at the end of the input, may still become a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_over_several_pieces_comes_out_whole() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(&[b'a', 0xf0, 0x9f]), "a");
        assert!(stream.is_pending());
        assert_eq!(stream.push(&[0x98]), "");
        assert_eq!(stream.push(&[0x80, b'b']), "\u{1f600}b");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn an_incomplete_character_at_the_end_is_replaced() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(&[0xe2, 0x82]), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert!(!stream.is_pending());
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_equals_from_utf8_lossy(
            pieces in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![
                        any::<u8>(),
                        Just(0xf0u8), Just(0x9f), Just(0x98), Just(0x80), Just(0xe2), Just(0xed), Just(0xa0)
                    ],
                    0..6,
                ),
                0..12,
            )
        ) {
            let mut stream = Utf8Stream::new();
            let mut text = String::new();
            for piece in &pieces {
                text.push_str(&stream.push(piece));
                prop_assert!(stream.held.len() <= 3);
            }
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }
}
