//! What the parser repaired, counted by kind.
//!
//! A well-formed generation counts nothing. The kinds are a closed set, fit for a metrics label.

/// A way in which a generation was not well-formed harmony, and what the parser did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairKind {
    /// A message began without `<|start|>`; its header or body was read all the same.
    MissingStart,
    /// `<|start|>` was not followed by a role; the message counts as the assistant's.
    MissingRole,
    /// The header names another speaker than the assistant; the text goes to reasoning.
    ForeignRole,
    /// The header names no channel; without a recipient the text is the answer.
    MissingChannel,
    /// The channel is none of `analysis`, `commentary`, `final`; the nearest name decides, else
    /// the text is the answer.
    UnknownChannel,
    /// The header has no `<|message|>`; what is not header syntax in it is the body.
    MissingMessage,
    /// `<|start|>` or `<|channel|>` came a second time within one header; the last channel counts.
    DuplicateHeader,
    /// The header contains text that is not header syntax; it goes to reasoning.
    HeaderText,
    /// The recipient is no function: empty, a role or a channel. It is ignored.
    BadRecipient,
    /// The recipient lacks the `functions.` namespace; it is called by the name given.
    MissingNamespace,
    /// The recipient is one of the built-in tools (`python`, `browser.*`, `container.*`), which
    /// nobody declared; it is called by its full name.
    BuiltinRecipient,
    /// A body was cut by `<|start|>` or `<|channel|>` without `<|end|>`.
    MissingEnd,
    /// `<|message|>` or `<|constrain|>` inside a body; dropped.
    ControlInBody,
    /// `<|end|>`, `<|return|>` or `<|call|>` with no message open; dropped.
    StrayEnd,
    /// The model went on after `<|return|>` or `<|call|>`.
    AfterStop,
    /// The generation ended inside a header.
    TruncatedHeader,
    /// A reserved control token, or an id outside the vocabulary; dropped.
    UnknownToken,
    /// Bytes that form no character; replaced by U+FFFD.
    InvalidUtf8,
}

impl RepairKind {
    /// Every kind, in the order of the enum.
    pub const ALL: [RepairKind; 18] = [
        Self::MissingStart,
        Self::MissingRole,
        Self::ForeignRole,
        Self::MissingChannel,
        Self::UnknownChannel,
        Self::MissingMessage,
        Self::DuplicateHeader,
        Self::HeaderText,
        Self::BadRecipient,
        Self::MissingNamespace,
        Self::BuiltinRecipient,
        Self::MissingEnd,
        Self::ControlInBody,
        Self::StrayEnd,
        Self::AfterStop,
        Self::TruncatedHeader,
        Self::UnknownToken,
        Self::InvalidUtf8,
    ];

    /// The kind as a metrics label: snake case, stable.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingStart => "missing_start",
            Self::MissingRole => "missing_role",
            Self::ForeignRole => "foreign_role",
            Self::MissingChannel => "missing_channel",
            Self::UnknownChannel => "unknown_channel",
            Self::MissingMessage => "missing_message",
            Self::DuplicateHeader => "duplicate_header",
            Self::HeaderText => "header_text",
            Self::BadRecipient => "bad_recipient",
            Self::MissingNamespace => "missing_namespace",
            Self::BuiltinRecipient => "builtin_recipient",
            Self::MissingEnd => "missing_end",
            Self::ControlInBody => "control_in_body",
            Self::StrayEnd => "stray_end",
            Self::AfterStop => "after_stop",
            Self::TruncatedHeader => "truncated_header",
            Self::UnknownToken => "unknown_token",
            Self::InvalidUtf8 => "invalid_utf8",
        }
    }
}

/// Number of repairs of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repairs {
    counts: [u64; RepairKind::ALL.len()],
}

impl Repairs {
    /// How often `kind` was repaired.
    #[must_use]
    pub fn get(&self, kind: RepairKind) -> u64 {
        self.counts[kind as usize]
    }

    /// All repairs together; 0 for a well-formed generation.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every kind that occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (RepairKind, u64)> + '_ {
        RepairKind::ALL
            .into_iter()
            .map(|kind| (kind, self.get(kind)))
            .filter(|&(_, count)| count > 0)
    }

    pub(super) fn count(&mut self, kind: RepairKind) {
        self.add(kind, 1);
    }

    pub(super) fn add(&mut self, kind: RepairKind, times: u64) {
        self.counts[kind as usize] += times;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_kind_at_its_own_place_with_its_own_label() {
        let mut labels: Vec<_> = RepairKind::ALL.iter().map(|k| k.as_str()).collect();
        for (at, kind) in RepairKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), RepairKind::ALL.len());
    }
}
