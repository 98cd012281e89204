//! Reading a message header, well-formed or not.
//!
//! A header is gathered whole (it is short) and read when it is known how it ends, because that
//! decides what stray text in it means: before `<|message|>` it is noise beside a body that
//! follows; where `<|message|>` never comes, it is the body.
//!
//! ```text
//! <|start|> ROLE [to=RECIPIENT] <|channel|> CHANNEL [to=RECIPIENT] [[<|constrain|>] TYPE] <|message|>
//!           '------ role ----'            '------- channel ------'                '-type'     segments
//! ```
//!
//! *Header syntax* is: a role word, a channel name (misspelled ones where `<|message|>` follows),
//! `to=RECIPIENT`, a content type, `functions.NAME` in the place of the role before
//! `to=assistant`, and the blanks between these. Where a generation breaks off inside a header, the
//! first letters of these are, too. Everything else is text, and [`Header::read`] gives every byte
//! of it back.

use super::words::{
    self, CHANNELS, Named, ROLES, blank_len, ident_len, is_prefix_of_any, nearest_channel, word_len,
};
use super::{RepairKind, Repairs};

/// Tokens a header may have before it counts as one that lacks `<|message|>`.
///
/// The longest well-formed one names a function of 64 characters, at worst a token each; with role,
/// channel and type that is below 80.
pub(super) const MAX_TOKENS: usize = 96;

/// How a header came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// The prompt ended in `<|start|>assistant`.
    ByPrompt,
    /// `<|start|>`.
    ByStart,
    /// Anything else: `<|start|>` was left out.
    Implicitly,
}

/// What ended a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// `<|message|>`: as it should be.
    Message,
    /// `<|end|>` or `<|call|>`.
    End,
    /// A new `<|start|>`.
    Restart,
    /// `<|return|>`.
    Return,
    /// [`MAX_TOKENS`] were reached.
    Limit,
    /// Nothing: no more tokens will come.
    Truncated,
}

/// The part of a header a run of text stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Role,
    Channel,
    Type,
}

#[derive(Debug)]
pub(super) struct Header {
    opened: Opened,
    segments: Vec<(Part, Vec<u8>)>,
    num_tokens: usize,
}

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The channel, named rightly or nearly.
    pub(super) channel: Option<Named>,
    /// Whether `<|channel|>` occurred.
    pub(super) has_channel_part: bool,
    /// The word after `to=`, with its namespace.
    pub(super) recipient: Option<String>,
    /// Whether another than the assistant speaks.
    pub(super) is_foreign: bool,
    /// Text that is not header syntax, as bytes: a character may still be incomplete at the end.
    pub(super) text: Vec<u8>,
    has_role: bool,
    has_type: bool,
}

impl Reading {
    /// Whether the header says nothing about where its message belongs.
    pub(super) fn is_blank(&self) -> bool {
        self.channel.is_none() && self.recipient.is_none() && !self.has_role
    }
}

impl Header {
    pub(super) fn new(opened: Opened) -> Self {
        Self {
            opened,
            segments: vec![(Part::Role, Vec::new())],
            num_tokens: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.num_tokens >= MAX_TOKENS
    }

    /// Whether nothing was said since the header began.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.len() == 1 && self.segments[0].1.is_empty()
    }

    pub(super) fn opened(&self) -> Opened {
        self.opened
    }

    pub(super) fn push_text(&mut self, bytes: &[u8]) {
        self.num_tokens += 1;
        if let Some((_, text)) = self.segments.last_mut() {
            text.extend_from_slice(bytes);
        }
    }

    /// `<|channel|>`; returns whether it is not the first.
    pub(super) fn push_channel(&mut self) -> bool {
        self.num_tokens += 1;
        let again = self.segments.iter().any(|(part, _)| *part == Part::Channel);
        self.segments.push((Part::Channel, Vec::new()));
        again
    }

    /// `<|constrain|>`
    pub(super) fn push_constrain(&mut self) {
        self.num_tokens += 1;
        self.segments.push((Part::Type, Vec::new()));
    }

    /// Another control token, which means nothing here but counts against the limit.
    pub(super) fn push_unknown(&mut self) {
        self.num_tokens += 1;
    }

    /// Reads the header, counting what is wrong with it.
    pub(super) fn read(self, close: Close, repairs: &mut Repairs) -> Reading {
        let mut reading = Reading {
            has_channel_part: self.segments.iter().any(|(part, _)| *part == Part::Channel),
            has_role: self.opened == Opened::ByPrompt,
            ..Reading::default()
        };
        let last = self.segments.len() - 1;
        for (at, (part, text)) in self.segments.iter().enumerate() {
            let mut segment = Segment {
                part: *part,
                text,
                opened: self.opened,
                has_message: close == Close::Message,
                is_cut: close == Close::Truncated && at == last,
                has_syntax: false,
            };
            segment.read(&mut reading, repairs);
        }
        if close == Close::Message && !reading.text.is_empty() {
            repairs.count(RepairKind::HeaderText);
        }
        let is_given_up = matches!(close, Close::Truncated | Close::Restart);
        if self.opened == Opened::ByStart && !reading.has_role && !is_given_up {
            repairs.count(RepairKind::MissingRole);
        }
        reading
    }
}

/// One run of header text, being read.
struct Segment<'a> {
    part: Part,
    text: &'a [u8],
    opened: Opened,
    /// `<|message|>` follows the header: syntax is taken wherever it stands. Else only from the
    /// front, lest words of the body be taken for it.
    has_message: bool,
    /// The generation broke off right after this text: the last word may be half a word of syntax.
    is_cut: bool,
    has_syntax: bool,
}

impl Segment<'_> {
    fn read(&mut self, reading: &mut Reading, repairs: &mut Repairs) {
        let mut at = 0;
        let mut is_first_word = true;
        loop {
            let word_at = at + blank_len(&self.text[at..]);
            if word_at == self.text.len() {
                return;
            }
            let taken = self.take(word_at, is_first_word, reading, repairs);
            is_first_word = false;
            if taken > 0 {
                self.has_syntax = true;
                at = word_at + taken;
                continue;
            }
            let from = if self.has_syntax && reading.text.is_empty() {
                word_at
            } else {
                at
            };
            let to = if self.has_message {
                word_at + word_len(&self.text[word_at..])
            } else {
                self.text.len()
            };
            reading.text.extend_from_slice(&self.text[from..to]);
            at = to;
        }
    }

    /// Takes syntax that stands at `at`; returns its length, 0 if there is none.
    fn take(
        &self,
        at: usize,
        is_first_word: bool,
        reading: &mut Reading,
        repairs: &mut Repairs,
    ) -> usize {
        let rest = &self.text[at..];
        let word = &rest[..word_len(rest)];
        if let Some(len) = take_recipient(rest, reading, repairs) {
            return len;
        }
        let taken = match self.part {
            Part::Role if is_first_word => self.take_role(rest, word, reading),
            Part::Channel if is_first_word => self.take_channel(word, reading, repairs),
            Part::Type if is_first_word => self.take_type(rest),
            _ => 0,
        };
        if taken > 0 {
            return taken;
        }
        if self.part == Part::Role && self.has_message && !reading.has_channel_part {
            // "final<|message|>": only the marker before the name is missing.
            if let Some(named) = Named::from_word(word) {
                reading.channel = Some(named);
                return word.len();
            }
        }
        if self.part == Part::Channel && !reading.has_type {
            let len = self.take_bare_type(rest);
            if len > 0 {
                reading.has_type = true;
                return len;
            }
        }
        if self.is_cut
            && word.len() == rest.len()
            && self.may_become_syntax(at, word, is_first_word)
        {
            return word.len();
        }
        0
    }

    fn take_role(&self, rest: &[u8], word: &[u8], reading: &mut Reading) -> usize {
        // After anything but <|start|> a lone "user" is more likely the first word of a body.
        let is_header =
            self.opened == Opened::ByStart || self.has_message || reading.has_channel_part;
        let role = ROLES.iter().find(|role| word == role.as_bytes());
        if let Some(&role) = role.filter(|_| is_header) {
            // The prompt has named the assistant; nothing here can make it another.
            if role == "assistant" || self.opened != Opened::ByPrompt {
                reading.has_role = true;
                reading.is_foreign |= role != "assistant";
                return word.len();
            }
        }
        // A tool's message: its name in the place of the role, "to=assistant" behind it.
        let behind = &rest[word.len()..];
        let is_addressed = behind[blank_len(behind)..].starts_with(b"to=assistant");
        let is_function = word.starts_with(b"functions.");
        if is_header && is_addressed && (is_function || self.opened != Opened::ByPrompt) {
            reading.has_role = true;
            reading.is_foreign = true;
            return if is_function { word.len() } else { 0 };
        }
        0
    }

    fn take_channel(&self, word: &[u8], reading: &mut Reading, repairs: &mut Repairs) -> usize {
        if let Some((named, len)) = words::leading_channel(word) {
            reading.channel = Some(named);
            return len;
        }
        if !self.has_message {
            return 0;
        }
        repairs.count(RepairKind::UnknownChannel);
        let nearest = nearest_channel(word);
        reading.channel = nearest.or(reading.channel);
        // A misspelled name is syntax still, anything else is text beside what it hints at.
        let is_misspelled = nearest.is_some() && word.iter().all(u8::is_ascii_alphabetic);
        if is_misspelled { word.len() } else { 0 }
    }

    /// The content type after `<|constrain|>`. Where the body follows without `<|message|>`, any
    /// word but a known type could be the body's first.
    fn take_type(&self, rest: &[u8]) -> usize {
        let len = ident_len(rest);
        let is_type = self.has_message
            || words::is_content_type(&rest[..len])
            || words::begins_json(&rest[len..])
            || (self.is_cut && len == rest.len());
        if is_type { len } else { 0 }
    }

    /// A content type that `<|constrain|>` does not announce: `json` before `<|message|>`, or
    /// before what looks like JSON.
    fn take_bare_type(&self, rest: &[u8]) -> usize {
        let len = ident_len(rest);
        let is_whole_word = len == word_len(rest);
        let is_last = len + blank_len(&rest[len..]) == rest.len();
        let is_type = words::is_content_type(&rest[..len])
            && (words::begins_json(&rest[len..])
                || (is_whole_word && self.has_message)
                || (is_last && self.is_cut));
        if is_type { len } else { 0 }
    }

    fn may_become_syntax(&self, at: usize, word: &[u8], is_first_word: bool) -> bool {
        // The prompt's own "assistant" is followed by a blank or a control token, never by letters.
        let is_apart = at > 0 || self.part != Part::Role || self.opened != Opened::ByPrompt;
        let may_be_recipient = is_apart && b"to=".starts_with(word);
        let may_be_name = is_first_word
            && match self.part {
                Part::Role => self.opened == Opened::ByStart && is_prefix_of_any(word, &ROLES),
                Part::Channel => is_prefix_of_any(word, &CHANNELS),
                Part::Type => false,
            };
        let may_be_type =
            self.part == Part::Channel && self.has_syntax && b"json".starts_with(word);
        may_be_recipient || may_be_name || may_be_type
    }
}

/// Takes `to=RECIPIENT` from the front of `rest`; the first recipient of a header counts.
fn take_recipient(rest: &[u8], reading: &mut Reading, repairs: &mut Repairs) -> Option<usize> {
    let name = rest.strip_prefix(b"to=")?;
    let len = words::recipient_len(name);
    let name = String::from_utf8_lossy(&name[..len]);
    match &reading.recipient {
        None => reading.recipient = Some(name.into_owned()),
        Some(first) if *first == name => {}
        Some(_) => repairs.count(RepairKind::BadRecipient),
    }
    Some("to=".len() + len)
}
