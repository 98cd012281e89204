//! A chat answer: harmony tokens to reasoning, content and tool calls.
//!
//! Preambles (commentary without a recipient) are meant for the user and become content. Where the model writes several
//! messages of one kind, an answer that is one text has a blank line between them: they are its paragraphs, to a client that
//! shows it. An answer that is a list of messages has each on its own.
//! Stop strings and log-probabilities concern content only: hidden reasoning and arguments are neither searched nor
//! scored.

use gossamer_harmony::{Channel, Delta, Parser, Tokenizer, special};
use gossamer_metrics::ApiMetrics;
use gossamer_scheduler::TokenLogprobs;

use super::answer::AnswerText;
use super::{Assembler, Piece, Speech, Update, logprobs};
use crate::kept::Keeper;
use crate::request_id::random_id;
use crate::wire::chat::FinishReason;

/// What becomes of several messages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Messages {
    /// One text, with blank lines.
    Joined,
    /// Each is announced by [`Piece::Begin`], and its text is as the model wrote it. A message without text is not announced.
    Apart,
}

/// See the file's header.
pub(crate) struct ChatAssembler {
    parser: Parser,
    answer: AnswerText,
    messages: Messages,
    /// What the last text belonged to, where messages are kept apart.
    speech: Option<Speech>,
    /// What the ids of calls begin with.
    call_prefix: &'static str,
    /// Functions were declared and may be called.
    tools_allowed: bool,
    /// Where what led to a call is kept, and what there is of it so far.
    keeper: Option<(Keeper, Vec<u32>)>,
    /// The id of the first call.
    first_call: Option<String>,
    called: bool,
    stopped: bool,
    reasoning_tokens: usize,
    /// The next text begins a message.
    at_beginning: bool,
    had_reasoning: bool,
    had_content: bool,
}

/// Between messages that become one text.
pub(crate) const SEPARATOR: &str = "\n\n";

impl ChatAssembler {
    /// For one choice. `call_prefix` is what the ids of calls begin with.
    pub fn new(stop_strings: &[String], tools_allowed: bool, call_prefix: &'static str) -> Self {
        Self {
            parser: Parser::new(),
            answer: AnswerText::new(stop_strings),
            messages: Messages::Joined,
            speech: None,
            call_prefix,
            tools_allowed,
            keeper: None,
            first_call: None,
            called: false,
            stopped: false,
            reasoning_tokens: 0,
            at_beginning: false,
            had_reasoning: false,
            had_content: false,
        }
    }

    /// Says what becomes of several messages of one kind; they are joined otherwise.
    pub fn with_messages(mut self, messages: Messages) -> Self {
        self.messages = messages;
        self
    }

    /// Keeps what leads to calls, for when their results come.
    pub fn keeping(mut self, keeper: Keeper) -> Self {
        self.keeper = (self.tools_allowed && keeper.is_on()).then(|| (keeper, Vec::new()));
        self
    }

    fn apply(&mut self, deltas: Vec<Delta>, update: &mut Update) {
        for delta in deltas {
            if self.stopped {
                return;
            }
            match delta {
                Delta::Reasoning(text) => {
                    let had_some = std::mem::replace(&mut self.had_reasoning, true);
                    let separator = self.begin(Speech::Reasoning, had_some, update);
                    push_text(update, Piece::Reasoning(format!("{separator}{text}")));
                }
                Delta::Preamble(text) => self.content(Speech::Preamble, &text, update),
                Delta::Content(text) => self.content(Speech::Answer, &text, update),
                // A client that declared no functions cannot do anything with a call. Its text is not lost: what
                // would be the arguments is shown as content.
                Delta::ToolCall { .. } if !self.tools_allowed => {}
                Delta::Arguments { text, .. } if !self.tools_allowed => {
                    self.content(Speech::Answer, &text, update);
                }
                Delta::ToolCall { index, name } => {
                    self.called = true;
                    self.speech = None;
                    let id = random_id(self.call_prefix);
                    self.first_call.get_or_insert_with(|| id.clone());
                    update.pieces.push(Piece::ToolCall { index, id, name });
                }
                Delta::Arguments { index, text } => {
                    push_text(update, Piece::Arguments { index, text });
                }
            }
        }
    }

    /// Announces the message that the next text belongs to, or says what stands before that text.
    fn begin(&mut self, speech: Speech, had_some: bool, update: &mut Update) -> &'static str {
        let begins = std::mem::take(&mut self.at_beginning);
        match self.messages {
            Messages::Joined if begins && had_some => SEPARATOR,
            Messages::Joined => "",
            Messages::Apart => {
                if begins || self.speech != Some(speech) {
                    self.speech = Some(speech);
                    update.pieces.push(Piece::Begin(speech));
                }
                ""
            }
        }
    }

    fn content(&mut self, speech: Speech, text: &str, update: &mut Update) {
        let had_some = std::mem::replace(&mut self.had_content, true);
        let separator = self.begin(speech, had_some, update);
        // The separator passes the search for stop strings too: what a client sees holds none. It goes in together with
        // the text, so that it does not count as the text of the token that was announced.
        let text = format!("{separator}{text}");
        let (released, hit) = self.answer.push(&text, &mut update.logprobs);
        push_text(update, Piece::Content(released));
        self.stopped |= hit;
    }
}

impl Assembler for ChatAssembler {
    fn push(&mut self, token: u32, raw: Option<Box<TokenLogprobs>>, update: &mut Update) -> bool {
        if let Some((_, tokens)) = &mut self.keeper {
            tokens.push(token);
        }
        let channel = self.parser.channel();
        self.at_beginning |= channel == Channel::Header;
        if !Tokenizer::get().is_control(token) {
            match (channel, raw) {
                (Channel::Reasoning, _) => self.reasoning_tokens += 1,
                (Channel::Content | Channel::Preamble, Some(raw)) => {
                    self.answer.token(logprobs::describe(token, *raw));
                }
                _ => {}
            }
        }
        let deltas = self.parser.push(token);
        self.apply(deltas, update);
        self.stopped
    }

    fn finish(&mut self, update: &mut Update) {
        let deltas = self.parser.finish();
        self.apply(deltas, update);
        if !self.stopped {
            let text = self.answer.finish(&mut update.logprobs);
            push_text(update, Piece::Content(text));
        }
        // A call that was cut is not one that a client answers.
        if let (Some((keeper, tokens)), Some(id)) = (self.keeper.take(), &self.first_call)
            && tokens.last() == Some(&special::CALL)
            && !self.stopped
        {
            keeper.keep(id, &tokens, self.parser.repairs().total() == 0);
        }
    }

    fn own_end(&self) -> FinishReason {
        if self.called && !self.stopped {
            FinishReason::ToolCalls
        } else {
            FinishReason::Stop
        }
    }

    fn stop_string(&self) -> Option<&str> {
        self.answer.stop_string()
    }

    fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    fn report(&self, metrics: &ApiMetrics) {
        for (kind, count) in self.parser.repairs().iter() {
            metrics.harmony_repairs(kind.as_str(), count);
        }
    }
}

fn push_text(update: &mut Update, piece: Piece) {
    let empty = match &piece {
        Piece::Reasoning(text) | Piece::Content(text) | Piece::Arguments { text, .. } => {
            text.is_empty()
        }
        Piece::Begin(_) | Piece::ToolCall { .. } => false,
    };
    if !empty {
        update.pieces.push(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Said {
        reasoning: String,
        content: String,
        arguments: String,
        stopped: bool,
    }

    fn run(tokens: &[u32], stops: &[String]) -> Said {
        let mut assembler = ChatAssembler::new(stops, true, "call_");
        let mut update = Update::default();
        let mut said = Said::default();
        for &token in tokens {
            if assembler.push(token, None, &mut update) {
                said.stopped = true;
                break;
            }
        }
        assembler.finish(&mut update);
        for piece in update.pieces {
            match piece {
                Piece::Reasoning(text) => said.reasoning.push_str(&text),
                Piece::Content(text) => said.content.push_str(&text),
                Piece::Arguments { text, .. } => said.arguments.push_str(&text),
                Piece::Begin(_) | Piece::ToolCall { .. } => {}
            }
        }
        said
    }

    /// Tokens that build and break harmony messages, and a few words.
    fn token() -> impl Strategy<Value = u32> {
        let words = [
            "a",
            "b",
            " ab",
            "final",
            "analysis",
            "commentary",
            " to=functions.f",
            "assistant",
        ];
        let words: Vec<u32> = (words.iter())
            .map(|word| Tokenizer::get().encode(word)[0])
            .collect();
        prop_oneof![
            4 => proptest::sample::select(words),
            2 => proptest::sample::select(vec![
                special::START, special::CHANNEL, special::MESSAGE, special::END, special::CALL, special::RETURN,
            ]),
            1 => 0..300_u32,
            1 => any::<u32>(),
        ]
    }

    proptest! {
        #[test]
        fn a_stop_string_cuts_the_content_at_its_first_place_and_nothing_else(
            tokens in proptest::collection::vec(token(), 0..40),
            stop in "[ab]{1,3}",
        ) {
            let free = run(&tokens, &[]);
            let stopped = run(&tokens, std::slice::from_ref(&stop));
            match free.content.find(&stop) {
                Some(at) => {
                    prop_assert_eq!(&stopped.content, &free.content[..at]);
                    prop_assert!(free.reasoning.starts_with(&stopped.reasoning));
                }
                None => prop_assert_eq!(stopped, free),
            }
        }
    }
}
