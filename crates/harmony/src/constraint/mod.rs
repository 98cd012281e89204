//! What an assistant's turn may be, token by token: headers that cannot go wrong, texts that follow a grammar.
//!
//! [`TurnRules`] are what a request asks for, [`TurnGuard`] is one turn being written under them. Where a turn stands is the
//! parser's word ([`Parser`]), so what is held to a grammar is what a client will be shown, to the letter.
//!
//! | where | what may come |
//! |---|---|
//! | between messages | `<|start|>` |
//! | header | the headers of `headers.rs`: real channels, declared functions, `<|message|>` where it must stand |
//! | reasoning, preamble | any text; `<|end|>` |
//! | answer | any text, or one of the grammar; `<|return|>`, where the grammar accepts |
//! | arguments of a call | any text, or one of the function's grammar; `<|call|>`, where the grammar accepts |
//!
//! So a turn ends in an answer or in a call, and in a call if it must. Whatever comes all the same (tokens are also put in
//! by others) is followed as far as possible.
//! Invariant: a turn of allowed tokens is parsed without a repair, but for bytes that form no character.

mod cache;
mod grammar;
mod headers;
mod vocabulary;

use std::sync::{Arc, LazyLock};

pub use cache::{Compiled, GrammarCache};
pub use grammar::{Grammar, GrammarError, GrammarSource, MAX_GRAMMAR_BYTES, prepare_grammars};

use self::grammar::GrammarState;
use self::headers::{Headers, Place};
use crate::{Channel, Delta, Parser, Token, special};

/// A function that a turn may call.
#[derive(Clone, Debug)]
pub struct Callable {
    /// Name without `functions.`.
    pub name: String,
    /// What its arguments must be; `None`: any text.
    pub arguments: Option<Arc<Grammar>>,
}

/// What a turn is held to.
#[derive(Clone, Debug, Default)]
pub struct TurnWishes {
    /// Functions that may be called, and no others.
    pub functions: Vec<Callable>,
    /// The turn must end in a call of one of them. Needs one, and headers that are held to their form.
    pub must_call: bool,
    /// What the answer must be; `None`: any text.
    pub answer: Option<Arc<Grammar>>,
    /// The answer is JSON, and its header may say so.
    pub json_answer: bool,
    /// Hold headers to their form.
    pub headers: bool,
}

/// What a turn is held to, made ready; shared by all turns of a request.
pub struct TurnRules {
    wishes: TurnWishes,
    headers: Option<Headers>,
}

impl TurnRules {
    /// Makes the rules ready.
    #[must_use]
    pub fn new(wishes: TurnWishes) -> Self {
        let must_call = wishes.must_call && !wishes.functions.is_empty();
        let headers = (wishes.headers || must_call).then(|| {
            let names = wishes.functions.iter().map(|function| &*function.name);
            Headers::new(names, !must_call, wishes.json_answer)
        });
        Self { wishes, headers }
    }

    /// Whether there is any rule.
    #[must_use]
    pub fn is_any(&self) -> bool {
        let arguments = |function: &Callable| function.arguments.is_some();
        self.headers.is_some()
            || self.wishes.answer.is_some()
            || self.wishes.functions.iter().any(arguments)
    }

    /// Where the turn must end in a call: the header of a message that makes it, from the role on, as far as it is known.
    #[must_use]
    pub fn forced_call(&self) -> Option<String> {
        match &self.wishes.functions[..] {
            _ if !self.wishes.must_call => None,
            // Then nobody can be called, and `new` asks for no call.
            [] => None,
            [only] => Some(format!(
                "assistant to=functions.{}<|channel|>commentary <|constrain|>json<|message|>",
                only.name
            )),
            _ => Some("assistant to=functions.".to_owned()),
        }
    }

    fn grammar(&self, channel: Channel, function: Option<&str>) -> Option<&Grammar> {
        match channel {
            Channel::Content => self.wishes.answer.as_deref(),
            Channel::ToolCall => {
                let mut functions = self.wishes.functions.iter();
                let called = functions.find(|known| Some(&*known.name) == function)?;
                called.arguments.as_deref()
            }
            Channel::Header | Channel::Reasoning | Channel::Preamble => None,
        }
    }
}

impl std::fmt::Debug for TurnRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.wishes.fmt(f)
    }
}

/// What a turn is about to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Anything: nothing is ruled out.
    Anything,
    /// A header, or `<|start|>`.
    Header,
    /// Text of a message, without a grammar.
    Text,
    /// Text of a grammar.
    Grammar,
}

/// Tokens that may come next.
#[derive(Debug)]
pub enum Next<'a> {
    /// All.
    Anything,
    /// All but these, ascending.
    AllBut(&'a [Token]),
    /// These, ascending.
    Only(&'a [Token]),
    /// Those whose bit is set: token `t` is bit `t % 32` of word `t / 32`.
    Mask(&'a [u32]),
}

enum At {
    /// Nothing is known about the next token, or nothing is ruled.
    Free,
    Between,
    Header(Place),
    Body {
        /// The only control token that may stand here.
        end: Token,
        grammar: Option<Box<GrammarState>>,
    },
    /// Behind `<|return|>` or `<|call|>`.
    Over,
}

/// A turn being written, from the state after a prompt that ended in `<|start|>assistant`.
pub struct TurnGuard {
    rules: Arc<TurnRules>,
    parser: Parser,
    at: At,
    /// The function called last.
    function: Option<String>,
    /// A buffer.
    next: Vec<Token>,
}

impl TurnGuard {
    /// A turn without a token.
    #[must_use]
    pub fn new(rules: Arc<TurnRules>) -> Self {
        let at = match &rules.headers {
            Some(headers) => At::Header(headers.behind_role()),
            None => At::Free,
        };
        Self {
            rules,
            parser: Parser::new(),
            at,
            function: None,
            next: Vec::new(),
        }
    }

    /// What is about to be written.
    #[must_use]
    pub fn writing(&self) -> Writing {
        match &self.at {
            At::Free | At::Over => Writing::Anything,
            At::Between | At::Header(_) => Writing::Header,
            At::Body { grammar: None, .. } => Writing::Text,
            At::Body {
                grammar: Some(_), ..
            } => Writing::Grammar,
        }
    }

    /// Whether `token` may come next.
    pub fn allows(&mut self, token: Token) -> bool {
        match &mut self.at {
            At::Free | At::Over => true,
            At::Between => token == special::START,
            At::Header(place) => {
                let headers = self.rules.headers.as_ref();
                headers.is_some_and(|headers| headers.step(*place, token).is_some())
            }
            At::Body { end, grammar } => match grammar {
                None => token < special::FIRST_CONTROL || token == *end,
                Some(grammar) if token == *end => grammar.is_complete(),
                Some(grammar) => grammar.allows(token),
            },
        }
    }

    /// All tokens that may come next.
    pub fn allowed(&mut self) -> Next<'_> {
        match &mut self.at {
            At::Free | At::Over => Next::Anything,
            At::Between => Next::Only(&[special::START]),
            At::Header(place) => {
                if let Some(headers) = &self.rules.headers {
                    headers.next(*place, &mut self.next);
                }
                Next::Only(&self.next)
            }
            At::Body { end, grammar: None } => Next::AllBut(other_controls(*end)),
            At::Body {
                end,
                grammar: Some(grammar),
            } => {
                let is_complete = grammar.is_complete();
                let mask = grammar.mask();
                mask[*end as usize / 32] |= u32::from(is_complete) << (*end % 32);
                Next::Mask(mask)
            }
        }
    }

    /// Why a grammar allows nothing any more: its text became too complex to follow, or was none of the grammar.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.at {
            At::Body {
                grammar: Some(grammar),
                ..
            } => grammar.trouble(),
            _ => None,
        }
    }

    /// The turn goes on with `token`, allowed or not.
    pub fn advance(&mut self, token: Token) {
        let was = self.parser.channel();
        let mut has_text = false;
        for delta in self.parser.push(token) {
            match delta {
                Delta::ToolCall { name, .. } => self.function = Some(name),
                Delta::Content(_) | Delta::Arguments { .. } => has_text = true,
                Delta::Reasoning(_) | Delta::Preamble(_) => {}
            }
        }
        let is = self.parser.channel();
        if matches!(
            token,
            special::RETURN | special::CALL | special::END_OF_TEXT
        ) {
            self.at = At::Over;
        } else if is == Channel::Header {
            self.at = self.in_header(token);
        } else if was == Channel::Header {
            self.at = self.in_body(is, has_text);
        } else if let At::Body {
            grammar: Some(grammar),
            ..
        } = &mut self.at
        {
            grammar.advance(token);
        }
    }

    /// Between messages or in a header, behind `token`.
    fn in_header(&self, token: Token) -> At {
        let Some(headers) = &self.rules.headers else {
            return At::Free;
        };
        match (token, &self.at) {
            (special::END, _) => At::Between,
            (special::START, _) => At::Header(headers.begin()),
            (_, At::Header(place)) => headers.step(*place, token).map_or(At::Free, At::Header),
            _ => At::Free,
        }
    }

    /// At the beginning of a body. `has_text`: some of it came with the header's end, which is no grammar's beginning.
    fn in_body(&self, channel: Channel, has_text: bool) -> At {
        let end = match channel {
            Channel::Content => special::RETURN,
            Channel::ToolCall => special::CALL,
            Channel::Header | Channel::Reasoning | Channel::Preamble => special::END,
        };
        let grammar = self.rules.grammar(channel, self.function.as_deref());
        let grammar = grammar
            .filter(|_| !has_text)
            .map(|grammar| Box::new(grammar.start()));
        if grammar.is_none() && self.rules.headers.is_none() {
            return At::Free;
        }
        At::Body { end, grammar }
    }
}

/// All control tokens but `end`.
fn other_controls(end: Token) -> &'static [Token] {
    static LISTS: LazyLock<[Vec<Token>; 3]> = LazyLock::new(|| {
        [special::RETURN, special::END, special::CALL].map(|end| {
            let controls = special::FIRST_CONTROL..special::VOCAB_SIZE as Token;
            controls.filter(|token| *token != end).collect()
        })
    });
    match end {
        special::RETURN => &LISTS[0],
        special::CALL => &LISTS[2],
        _ => &LISTS[1],
    }
}
