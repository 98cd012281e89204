//! Stop strings, found in text that arrives in pieces.
//!
//! ```text
//! text so far    T h e   a n s w e r :  E N          stop = "END"
//!                |----- released ----|  |held|
//! ```
//! A piece is released as soon as it cannot be the beginning of a stop string any more, and not before.
//! Invariants: what was released holds no stop string, and no beginning of the one that ended the text; where the text
//! was cut makes no difference; without a hit, everything comes out.

/// Looks for stop strings in a stream of text.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFinder {
    patterns: Vec<Pattern>,
    /// Text that may be the beginning of a stop string. Always as long as the longest partial match.
    held: String,
    /// The stop string that ended the text.
    hit: Option<String>,
}

/// Knuth-Morris-Pratt over bytes. UTF-8 is self-synchronizing: a match of whole characters begins and ends between
/// characters, so bytes are enough.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `border[i]`: length of the longest proper prefix of `bytes[..=i]` that also ends it.
    border: Vec<usize>,
    /// How many bytes of the pattern the text ends with.
    matched: usize,
}

/// What a piece of text led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Text that may go out.
    pub released: String,
    /// A stop string was completed: the text ends here.
    pub hit: bool,
}

impl StopFinder {
    /// Looks for these strings, none of which is empty.
    pub fn new(stops: &[String]) -> Self {
        Self {
            patterns: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .map(|stop| Pattern::new(stop))
                .collect(),
            held: String::new(),
            hit: None,
        }
    }

    /// Takes the next piece. After a hit, nothing more comes out. Of several stop strings, the first to be complete
    /// counts; of those complete at the same place, the longest.
    pub fn push(&mut self, text: &str) -> Found {
        if self.hit.is_some() {
            return Found::default();
        }
        if self.patterns.is_empty() {
            return Found {
                released: text.to_owned(),
                hit: false,
            };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            let longest = self
                .patterns
                .iter_mut()
                .filter_map(|pattern| pattern.advance(byte).then_some(pattern.bytes.len()))
                .max();
            if let Some(len) = longest {
                let start = before + i + 1 - len;
                let mut stop = self.held.split_off(start);
                stop.truncate(len);
                self.hit = Some(stop);
                return Found {
                    released: std::mem::take(&mut self.held),
                    hit: true,
                };
            }
        }
        let partial = self.patterns.iter().map(|pattern| pattern.matched).max();
        let keep_from = self.held.len() - partial.unwrap_or(0);
        let kept = self.held.split_off(keep_from);
        Found {
            released: std::mem::replace(&mut self.held, kept),
            hit: false,
        }
    }

    /// The stop string that ended the text, if one did.
    pub fn hit(&self) -> Option<&str> {
        self.hit.as_deref()
    }

    /// The text ends without a stop string: what was held comes out.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut border = vec![0; bytes.len()];
        let mut len = 0;
        for i in 1..bytes.len() {
            while len > 0 && bytes[i] != bytes[len] {
                len = border[len - 1];
            }
            if bytes[i] == bytes[len] {
                len += 1;
            }
            border[i] = len;
        }
        Self {
            bytes,
            border,
            matched: 0,
        }
    }

    /// Takes one byte; true if it completes the pattern.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.border[self.matched - 1];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        if self.matched < self.bytes.len() {
            return false;
        }
        self.matched = self.border[self.matched - 1];
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut finder = StopFinder::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            let found = finder.push(piece);
            out.push(found.released);
            if found.hit {
                return (out, true);
            }
        }
        out.push(finder.finish());
        (out, false)
    }

    #[test]
    fn a_stop_string_over_several_pieces_never_leaks_a_part() {
        let (out, hit) = run(&["END"], &["the ", "E", "N", "D", " more"]);
        assert!(hit);
        assert_eq!(out, ["the ", "", "", ""]);
    }

    #[test]
    fn a_false_alarm_is_released_as_soon_as_it_is_one() {
        let (out, hit) = run(&["END"], &["E", "N", "ENX", "!"]);
        assert!(!hit);
        assert_eq!(out, ["", "", "ENENX", "!", ""]);
    }

    #[test]
    fn a_partial_match_at_the_end_comes_out() {
        assert_eq!(
            run(&["END"], &["x EN"]),
            (vec!["x ".into(), "EN".into()], false)
        );
    }

    #[test]
    fn of_two_stop_strings_that_end_together_the_longer_one_is_cut() {
        let (out, hit) = run(&["b", "ab"], &["xab"]);
        assert!(hit);
        assert_eq!(out, ["x"]);
    }

    #[test]
    fn characters_of_several_bytes() {
        let (out, hit) = run(&["\u{1f600}!"], &["é\u{1f600}", "\u{1f600}", "! tail"]);
        assert!(hit);
        assert_eq!(out.concat(), "é\u{1f600}");
    }

    /// The slow obvious version: the shortest prefix of the text that ends with a stop string, minus the longest such.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for (end, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
            let longest = stops
                .iter()
                .filter(|stop| text[..end].ends_with(stop.as_str()))
                .map(String::len)
                .max();
            if let Some(len) = longest {
                return (text[..end - len].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_version_however_the_text_is_cut(
            stops in proptest::collection::vec("[abé]{1,4}", 1..4),
            pieces in proptest::collection::vec("[abé]{0,4}", 0..8),
        ) {
            let mut finder = StopFinder::new(&stops);
            let mut out = String::new();
            let mut hit = false;
            for piece in &pieces {
                let found = finder.push(piece);
                out.push_str(&found.released);
                if found.hit {
                    hit = true;
                    break;
                }
                let held = &finder.held;
                prop_assert!(
                    held.is_empty() || stops.iter().any(|stop| stop.starts_with(held.as_str())),
                    "holds back {held:?} for no stop string"
                );
            }
            if !hit {
                out.push_str(&finder.finish());
            }
            if let Some(stop) = finder.hit() {
                prop_assert!(stops.iter().any(|known| known == stop));
                let cut = [out.as_str(), stop].concat();
                prop_assert!(pieces.concat().starts_with(&cut));
            }
            prop_assert_eq!(finder.hit().is_some(), hit);
            prop_assert_eq!((out, hit), naive(&stops, &pieces.concat()));
        }
    }
}
