//! Log-probabilities with the text of their tokens.

use gossamer_harmony::Tokenizer;
use gossamer_scheduler::TokenLogprobs;

use crate::wire::chat::{TokenLogprob, TopLogprob};

/// Stands for minus infinity, which JSON cannot say (vLLM uses the same number).
const IMPOSSIBLE: f32 = -9999.0;

/// Puts text to ids.
pub(super) fn describe(token: u32, raw: TokenLogprobs) -> TokenLogprob {
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

fn spell(token: u32) -> (String, Vec<u8>) {
    let bytes = Tokenizer::get().token_bytes(token).unwrap_or_default();
    (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec())
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() {
        IMPOSSIBLE
    } else {
        logprob.clamp(IMPOSSIBLE, 0.0)
    }
}
