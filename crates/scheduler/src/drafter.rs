//! What a sequence may say next, guessed from what it has said or was told before: prompt lookup.
//!
//! Follows the latest earlier place where the last tokens stood, for as long as the output repeats what stands there, and
//! counts how often that came true, whether or not anybody verified it. Knows one sequence, no plan and no cost.
//! Invariant: a token is taken in once, in constant time (amortized: the table doubles), and guessing reads as many tokens
//! as it guesses.
//!
//! The idea is prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding); the table of the
//! latest position by hash, overwritten without a chain, is that of fast LZ77 compressors.

use crate::request::TokenId;
use crate::sequence::Tokens;

/// Tokens that must stand before a place for it to be followed. Fewer are found more often and come true less often.
const GRAM: usize = 3;

/// How much the newest token counts in the rate.
const WEIGHT: f32 = 0.125;

/// The rate of a sequence of which nothing is known.
const FIRST_RATE: f32 = 0.5;

const SMALLEST_TABLE: usize = 256;

/// The place that a sequence repeats, if it repeats one.
///
/// ```text
/// tokens   a b c d e f g h ... x y a b c d
///                  ^ source              ^ newest: guessed to come next are e f g h ...
/// ```
#[derive(Debug)]
pub(crate) struct Drafter {
    /// By hash of [`GRAM`] tokens: the position after one that has it, the latest. 0: none. At least twice as long as there
    /// are tokens.
    after: Vec<u32>,
    /// Tokens taken in.
    len: usize,
    /// Where the token stands that is guessed to come next.
    source: Option<usize>,
    /// How often a guess came true, recently.
    rate: f32,
}

impl Default for Drafter {
    fn default() -> Self {
        Self {
            after: Vec::new(),
            len: 0,
            source: None,
            rate: FIRST_RATE,
        }
    }
}

impl Drafter {
    /// Takes in the tokens that came since the last call. They are only ever appended to.
    pub(crate) fn take_in(&mut self, tokens: &Tokens) {
        let prompt_len = tokens.prompt.len();
        if 2 * tokens.len() > self.after.len() {
            let len = (4 * tokens.len()).next_power_of_two();
            self.after = vec![0; len.max(SMALLEST_TABLE)];
            for end in GRAM..=self.len {
                let slot = self.slot(tokens, end);
                self.after[slot] = end as u32;
            }
        }
        for position in self.len..tokens.len() {
            let token = tokens.at(position);
            // That a prompt repeats itself does not say that the model repeats it.
            if position >= prompt_len
                && let Some(source) = self.source
            {
                let came_true = tokens.at(source) == token;
                self.rate += WEIGHT * (f32::from(came_true) - self.rate);
                self.source = came_true.then_some(source + 1);
            }
            let end = position + 1;
            if end < GRAM {
                continue;
            }
            let slot = self.slot(tokens, end);
            // Where the prompt is taken in, only its end is followed.
            if end >= prompt_len && self.source.is_none() {
                self.source = Some(self.after[slot] as usize)
                    .filter(|&found| found > 0 && same_gram(tokens, found, end));
            }
            self.after[slot] = end as u32;
        }
        self.len = tokens.len();
    }

    /// Guesses of what comes next: at most `most`, and only as many as are all true with a probability of more than
    /// `floor` by the rate of late.
    pub(crate) fn guess(&self, tokens: &Tokens, floor: f32, most: usize) -> Vec<TokenId> {
        let Some(source) = self.source else {
            return Vec::new();
        };
        let chances = std::iter::successors(Some(self.rate), |chance| Some(chance * self.rate));
        let worth = chances.take(most).take_while(|&chance| chance > floor);
        let mut guesses: Vec<TokenId> = Vec::new();
        for at in (source..).take(worth.count()) {
            // Behind the newest token comes what was guessed to come there.
            guesses.push(match at.checked_sub(tokens.len()) {
                None => tokens.at(at),
                Some(guessed) => guesses[guessed],
            });
        }
        guesses
    }

    /// Place in the table of the tokens before `end`.
    fn slot(&self, tokens: &Tokens, end: usize) -> usize {
        // FNV-1a's way to mix, by words (Fowler, Noll, Vo); the high bits know most of the tokens.
        let mixed = (end - GRAM..end).fold(0xCBF2_9CE4_8422_2325, |hash: u64, at| {
            (hash ^ u64::from(tokens.at(at))).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        (mixed >> 32) as usize & (self.after.len() - 1)
    }
}

fn same_gram(tokens: &Tokens, a: usize, b: usize) -> bool {
    (1..=GRAM).all(|back| tokens.at(a - back) == tokens.at(b - back))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(prompt: &[TokenId], output: &[TokenId]) -> Tokens {
        Tokens {
            prompt: prompt.into(),
            output: output.to_vec(),
        }
    }

    fn guessed(prompt: &[TokenId], output: &[TokenId], most: usize) -> Vec<TokenId> {
        let tokens = tokens(prompt, output);
        let mut drafter = Drafter::default();
        drafter.take_in(&tokens);
        drafter.guess(&tokens, 0.0, most)
    }

    #[test]
    fn what_followed_the_last_tokens_before_is_guessed() {
        let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(guessed(&prompt, &[0, 2, 3, 4], 3), [5, 6, 7]);
        // The latest of two places.
        assert_eq!(guessed(&[1, 2, 3, 4, 9, 2, 3, 4, 7], &[2, 3, 4], 1), [7]);
        // Prompt and output are one text.
        assert_eq!(guessed(&[1, 2, 3, 4, 2, 3], &[4], 2), [2, 3]);
        assert_eq!(guessed(&prompt, &[0, 3, 4], 3), []);
        assert_eq!(guessed(&[1], &[1], 3), []);
    }

    #[test]
    fn a_loop_is_guessed_beyond_the_newest_token() {
        assert_eq!(guessed(&[7], &[1, 2, 1, 2, 1], 5), [2, 1, 2, 1, 2]);
        assert_eq!(guessed(&[1, 1, 1], &[1], 4), [1; 4]);
    }

    #[test]
    fn a_place_is_followed_until_it_is_left() {
        let prompt: Vec<TokenId> = (10..40).collect();
        let mut drafter = Drafter::default();
        let mut text = tokens(&prompt, &[]);
        let mut rates = Vec::new();
        for token in [10, 11, 12, 13, 14, 15, 99, 20, 21, 22] {
            text.output.push(token);
            drafter.take_in(&text);
            let next = drafter.guess(&text, 0.0, 1).first().copied();
            rates.push(drafter.rate);
            let known = !matches!(token, 10 | 11 | 99 | 20 | 21);
            assert_eq!(next, known.then_some(token + 1), "after {token}");
        }
        assert_eq!(rates[2], FIRST_RATE);
        assert!(rates[5] > rates[3] && rates[3] > rates[2]);
        assert!(rates[6] < rates[5] && rates[6] == rates[9]);
    }

    #[test]
    fn guesses_get_longer_as_they_come_true() {
        let prompt: Vec<TokenId> = (0..1000).collect();
        let mut drafter = Drafter::default();
        let mut text = tokens(&prompt, &[]);
        let mut lens = Vec::new();
        for token in 0..40 {
            text.output.push(token);
            drafter.take_in(&text);
            lens.push(drafter.guess(&text, 0.6, 8).len());
        }
        assert_eq!((lens[0], lens[2], lens[39]), (0, 0, 8));
        assert!(lens.is_sorted());
    }

    /// The table is not exact: two grams with one place in it are the later one's. While it grows it must lose few.
    #[test]
    fn nearly_every_place_that_a_search_finds_is_found() {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 28
        };
        let mut text = tokens(&[0], &[]);
        let mut drafter = Drafter::default();
        let (mut searched, mut found) = (0, 0);
        for _ in 0..3000 {
            text.output.push(random());
            drafter.source = None;
            drafter.take_in(&text);
            let len = text.len();
            let latest = (GRAM..len).rev().find(|&end| same_gram(&text, end, len));
            searched += usize::from(latest.is_some());
            if drafter.source.is_some() {
                found += 1;
                assert_eq!(drafter.source, latest);
            }
        }
        assert!(
            searched > 500 && found * 10 > searched * 7,
            "{found} of {searched}"
        );
    }
}
