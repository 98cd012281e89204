//! Log-probabilities with the text of their tokens.

use gossamer_harmony::Tokenizer;
use gossamer_scheduler::{PromptLogprobs, TokenLogprobs};

use crate::wire::chat::{PromptLogprob, PromptTokenLogprobs, TokenLogprob, TopLogprob};

/// Stands for minus infinity, which JSON cannot say (vLLM uses the same number).
const IMPOSSIBLE: f32 = -9999.0;

/// Puts text to ids.
pub(crate) fn describe(token: u32, raw: TokenLogprobs) -> TokenLogprob {
    let (text, bytes) = spell(token);
    TokenLogprob {
        token: text,
        logprob: finite(raw.logprob),
        bytes,
        top_logprobs: raw
            .top
            .into_iter()
            .map(|(token, logprob)| {
                let (text, bytes) = spell(token);
                TopLogprob {
                    token: text,
                    logprob: finite(logprob),
                    bytes,
                }
            })
            .collect(),
    }
}

/// What was asked about one token of a prompt: the token and at most `top` of the likeliest.
pub(crate) fn describe_prompt(
    token: u32,
    scored: &PromptLogprobs,
    top: usize,
) -> PromptTokenLogprobs {
    let entry = |token, logprob, rank| {
        let entry = PromptLogprob {
            logprob: finite(logprob),
            rank,
            decoded_token: spell(token).0,
        };
        (token, entry)
    };
    let likeliest = scored.logprobs.top.iter().zip(1..).take(top);
    let own = entry(token, scored.logprobs.logprob, scored.rank);
    likeliest
        .map(|(&(token, logprob), rank)| entry(token, logprob, rank))
        .chain([own])
        .collect()
}

/// A token of which nothing is known but its text.
pub(crate) fn spell(token: u32) -> (String, Vec<u8>) {
    let bytes = Tokenizer::get().token_bytes(token).unwrap_or_default();
    (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec())
}

/// A log-probability as JSON can say it.
pub fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() {
        IMPOSSIBLE
    } else {
        logprob.clamp(IMPOSSIBLE, 0.0)
    }
}
