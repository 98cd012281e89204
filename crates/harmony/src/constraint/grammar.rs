//! Grammars that a text can be held to: JSON schemas, regular expressions, choices, Lark.
//!
//! `llguidance` compiles them and computes which tokens may follow; this file owns the vocabulary that it works on, the
//! limits, and what a client may write. Knows no message and no request.
//! Invariants: no grammar allows a control token; a state whose grammar became too complex allows nothing.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::{Token, Tokenizer, special};

/// Bytes that a grammar may have, as the client wrote it.
pub const MAX_GRAMMAR_BYTES: usize = 256 * 1024;

/// Most white space between two parts of a JSON text. More is never needed, and a model that falls into a loop of line
/// breaks would otherwise stay there until its tokens are used up.
const JSON_BLANKS: &str = r"[ \n\r\t]{1,32}";

/// What each grammar may cost. In llguidance's own figures: 50 units of the first are a microsecond, 14 of the second and
/// 20 of the third; a lexer state takes one or two KiB.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        // A number of a `multipleOf` of 100,000 takes 250,000.
        step_lexer_fuel: 300_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

static FACTORY: LazyLock<Result<ParserFactory, String>> = LazyLock::new(|| {
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie()));
    // No fast-forward: a token that the grammar forces is still drawn, so any spelling of a text in tokens is allowed, and
    // what is allowed does not depend on a tokenizer.
    let mut factory = ParserFactory::new(
        &env,
        InferenceCapabilities::default(),
        &llguidance::earley::SlicedBiasComputer::general_slices(),
    )
    .map_err(|error| error.to_string())?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(factory)
});

/// The vocabulary as a tree of bytes. Control tokens are marked as such: no text matches them.
fn trie() -> TokTrie {
    let tokenizer = Tokenizer::get();
    let words: Vec<Vec<u8>> = (0..special::VOCAB_SIZE as Token)
        .map(|token| {
            let bytes = tokenizer.token_bytes(token).unwrap_or_default();
            match tokenizer.is_control(token) {
                true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                false => bytes.to_vec(),
            }
        })
        .collect();
    TokTrie::from(&TokRxInfo::new(words.len() as u32, special::RETURN), &words)
}

/// Builds what every grammar needs, which takes a moment; call it at start.
pub fn prepare_grammars() {
    let _ = &*FACTORY;
}

/// What a text is to be held to.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSource {
    /// A JSON text that is valid by this schema.
    JsonSchema(Value),
    /// A JSON object.
    JsonObject,
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

impl GrammarSource {
    /// The source as a text, the same for equal sources and for no others.
    pub(super) fn key(&self) -> String {
        match self {
            Self::JsonSchema(schema) => format!("schema {schema}"),
            Self::JsonObject => "object".to_owned(),
            Self::Regex(regex) => format!("regex {regex}"),
            Self::Choice(texts) => format!("choice {}", Value::from(texts.as_slice())),
            Self::Lark(grammar) => format!("lark {grammar}"),
        }
    }

    fn grammar(&self) -> TopLevelGrammar {
        match self {
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_options(schema)),
            Self::JsonObject => {
                let schema = serde_json::json!({"type": "object"});
                TopLevelGrammar::from_json_schema(with_options(&schema))
            }
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Choice(texts) => {
                let texts: Vec<_> = texts
                    .iter()
                    .map(|text| Value::from(&**text).to_string())
                    .collect();
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        }
    }
}

/// The schema with our choice of white space. Options that the client put in are not read: they are llguidance's affair,
/// and could switch off what the schema says.
fn with_options(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        let options = serde_json::json!({
            "whitespace_pattern": JSON_BLANKS,
            "json_allow_general_unicode_escapes": true,
        });
        fields.insert("x-guidance".to_owned(), options);
    }
    schema
}

/// The largest `multipleOf`, without its decimal point. Each remainder is a state of its own; with a million of them the
/// text would become too complex in the midst of a number, and from 429,496,730 on derivre's arithmetic overflows.
const MAX_MULTIPLE: u64 = 100_000;
/// Digits of `multipleOf` behind the point; with ten the same arithmetic overflows.
const MAX_DECIMALS: usize = 8;

/// A `multipleOf` somewhere in a schema that is beyond these bounds.
fn unenforceable_multiple(schema: &Value) -> Option<&serde_json::Number> {
    match schema {
        Value::Array(items) => items.iter().find_map(unenforceable_multiple),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| match value {
            Value::Number(number) if name == "multipleOf" && !can_be_enforced(number) => {
                Some(number)
            }
            value => unenforceable_multiple(value),
        }),
        _ => None,
    }
}

fn can_be_enforced(multiple: &serde_json::Number) -> bool {
    let text = multiple.to_string();
    // An exponent stands where there are many digits.
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
    let decimals = decimals.trim_end_matches('0');
    // What is no positive number is refused for that.
    let digits = format!("{whole}{decimals}");
    decimals.len() <= MAX_DECIMALS
        && !text.contains('e')
        && (digits.starts_with('-') || digits.parse().is_ok_and(|n: u64| n <= MAX_MULTIPLE))
}

/// A grammar that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

impl GrammarError {
    fn new(error: impl fmt::Display) -> Self {
        const SHOWN: usize = 300;
        let text = error.to_string();
        // What follows is about llguidance's state.
        let text = text.split("\n<").next().unwrap_or_default().trim();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self(match line.char_indices().nth(SHOWN) {
            None => line,
            Some((end, _)) => format!("{}...", &line[..end]),
        })
    }
}

/// A compiled grammar. Texts that are held to it share what is learnt about it on the way.
pub struct Grammar {
    start: Mutex<Matcher>,
    /// Bytes of memory, about, when it was compiled.
    pub(super) size: usize,
}

impl Grammar {
    /// Compiles `source`. Takes milliseconds, for large ones a tenth of a second.
    ///
    /// # Errors
    /// The source is malformed, says something that cannot be enforced, allows no text, or is too large or too complex.
    pub fn compile(source: &GrammarSource) -> Result<Self, GrammarError> {
        let bytes = source.key().len();
        if bytes > MAX_GRAMMAR_BYTES {
            let message = format!("it has {bytes} bytes, more than {MAX_GRAMMAR_BYTES}");
            return Err(GrammarError(message));
        }
        if let GrammarSource::JsonSchema(schema) = source
            && let Some(number) = unenforceable_multiple(schema)
        {
            let message = format!(
                "multipleOf {number} has more digits than can be enforced: without its point at most {MAX_MULTIPLE}, \
                 and {MAX_DECIMALS} behind the point"
            );
            return Err(GrammarError(message));
        }
        let factory = FACTORY.as_ref().map_err(GrammarError::new)?;
        let parser = factory
            .create_parser(source.grammar())
            .map_err(GrammarError::new)?;
        let size = bytes + parser.parser.lexer_stats().num_bytes;
        let mut start = Matcher::new(Ok(parser));
        // The first mask is the dearest, and shows whether there is anything to say at all.
        let mut text = GrammarState {
            matcher: start.clone(),
            mask: Vec::new(),
            complete: None,
        };
        let is_empty = text.mask().iter().all(|word| *word == 0) && !text.is_complete();
        if let Some(error) = text.matcher.get_error() {
            return Err(GrammarError::new(error));
        }
        if is_empty || start.is_error() {
            return Err(GrammarError("it allows no text".to_owned()));
        }
        let _ = start.is_accepting();
        Ok(Self {
            start: Mutex::new(start),
            size,
        })
    }

    /// The beginning of a text.
    pub(super) fn start(&self) -> GrammarState {
        let matcher = match self.start.lock() {
            Ok(start) => start.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
        GrammarState {
            matcher,
            mask: Vec::new(),
            complete: None,
        }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grammar({} bytes)", self.size)
    }
}

/// A text so far.
pub(super) struct GrammarState {
    matcher: Matcher,
    mask: Vec<u32>,
    /// Whether the text may end here, once that was asked: what is asked later may be too complex to answer, and then the
    /// matcher knows nothing any more.
    complete: Option<bool>,
}

impl GrammarState {
    /// Whether the text may go on with `token`, a text token.
    pub(super) fn allows(&mut self, token: Token) -> bool {
        token < special::FIRST_CONTROL
            && matches!(self.matcher.validate_tokens(&[token]), Ok(valid) if valid == 1)
    }

    /// Whether the text is one of the grammar as it stands.
    pub(super) fn is_complete(&mut self) -> bool {
        let ask = || self.matcher.is_accepting().unwrap_or(false);
        *self.complete.get_or_insert_with(ask)
    }

    /// The tokens with which the text may go on, one bit each; the caller may set further ones.
    pub(super) fn mask(&mut self) -> &mut [u32] {
        self.mask.clear();
        // A matcher that stopped is complete, or broken: nothing follows.
        if !self.matcher.is_stopped()
            && let Ok(mask) = self.matcher.compute_mask()
        {
            self.mask.extend_from_slice(mask.as_slice());
        }
        self.mask.resize(special::VOCAB_SIZE.div_ceil(32), 0);
        clear_from(&mut self.mask, special::FIRST_CONTROL);
        &mut self.mask
    }

    /// Why nothing can be said of the text any more.
    pub(super) fn trouble(&self) -> Option<String> {
        let error = self.matcher.get_error()?;
        Some(GrammarError::new(error).to_string())
    }

    /// The text goes on with `token`, which was allowed; another one ends what can be said of it.
    pub(super) fn advance(&mut self, token: Token) {
        // The error is kept by the matcher, which then allows nothing.
        let _ = self.matcher.consume_token(token);
        self.complete = None;
    }
}

/// Clears the bits of `first` and all tokens behind it.
fn clear_from(mask: &mut [u32], first: Token) {
    let word = first as usize / 32;
    mask[word] &= (1 << (first % 32)) - 1;
    mask[word + 1..].fill(0);
}
