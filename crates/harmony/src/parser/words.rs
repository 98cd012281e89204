//! The words of a header: where they begin and end, which of them mean something.
//!
//! Works on bytes, because a header may be cut inside a character; all syntax is ASCII.

/// The roles a header may name.
pub(super) const ROLES: [&str; 5] = ["assistant", "user", "system", "developer", "tool"];
/// The channels a header may name.
pub(super) const CHANNELS: [&str; 3] = ["analysis", "commentary", "final"];

/// A channel by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Analysis,
    Commentary,
    Final,
}

impl Named {
    const ALL: [Named; 3] = [Self::Analysis, Self::Commentary, Self::Final];

    fn as_str(self) -> &'static str {
        CHANNELS[self as usize]
    }

    pub(super) fn from_word(word: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|named| word.eq_ignore_ascii_case(named.as_str().as_bytes()))
    }
}

/// The channel whose name `word` begins with, and the name's length. `finalThe` is `final` followed
/// by text, `finally` is not, `commentaryto=` lacks a blank only.
pub(super) fn leading_channel(word: &[u8]) -> Option<(Named, usize)> {
    Named::ALL.into_iter().find_map(|named| {
        let len = named.as_str().len();
        let name = word.get(..len)?;
        let behind = &word[len..];
        let ends =
            behind.starts_with(b"to=") || !behind.first().is_some_and(u8::is_ascii_lowercase);
        (ends && Named::from_word(name).is_some_and(|n| n == named)).then_some((named, len))
    })
}

/// The channel that an unknown name most likely means: one it contains, or one it shares the first
/// four letters with.
pub(super) fn nearest_channel(word: &[u8]) -> Option<Named> {
    let word = word.to_ascii_lowercase();
    Named::ALL.into_iter().find(|named| {
        let name = named.as_str().as_bytes();
        word.starts_with(&name[..4]) || word.windows(name.len()).any(|part| part == name)
    })
}

/// Content types that are recognized without `<|constrain|>` before them.
pub(super) fn is_content_type(word: &[u8]) -> bool {
    ["json", "code", "text"]
        .iter()
        .any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether `text`, blanks aside, begins like a JSON object or array.
pub(super) fn begins_json(text: &[u8]) -> bool {
    matches!(text.get(blank_len(text)), Some(b'{' | b'['))
}

/// Whether `word` is one of `names` or the beginning of one.
pub(super) fn is_prefix_of_any(word: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| name.as_bytes().starts_with(word))
}

/// Length of the blanks at the front of `text`.
pub(super) fn blank_len(text: &[u8]) -> usize {
    leading(text, |b| b.is_ascii_whitespace())
}

/// Length of the word at the front of `text`: up to the next blank.
pub(super) fn word_len(text: &[u8]) -> usize {
    leading(text, |b| !b.is_ascii_whitespace())
}

/// Length of the identifier at the front of `text`, as content types are.
pub(super) fn ident_len(text: &[u8]) -> usize {
    leading(text, |b| b.is_ascii_alphanumeric() || b"_-./+".contains(b))
}

/// Length of the recipient at the front of `text`: up to a blank or a character that no function
/// name has, but arguments and spelled-out markers begin with.
pub(super) fn recipient_len(text: &[u8]) -> usize {
    leading(text, |b| {
        !b.is_ascii_whitespace() && !b.is_ascii_control() && !b"<>|{}[]()\"'`,;=".contains(b)
    })
}

fn leading(text: &[u8], belongs: impl Fn(&u8) -> bool) -> usize {
    text.iter().position(|b| !belongs(b)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_name_ends_where_no_lower_case_letter_follows() {
        assert_eq!(leading_channel(b"final"), Some((Named::Final, 5)));
        assert_eq!(leading_channel(b"finalThe"), Some((Named::Final, 5)));
        assert_eq!(
            leading_channel(b"final__HANDOFF__"),
            Some((Named::Final, 5))
        );
        assert_eq!(
            leading_channel(b"commentaryto=f"),
            Some((Named::Commentary, 10))
        );
        assert_eq!(leading_channel(b"Analysis"), Some((Named::Analysis, 8)));
        assert_eq!(leading_channel(b"finally"), None);
        assert_eq!(leading_channel(b"fin"), None);
        assert_eq!(leading_channel(b""), None);
    }

    #[test]
    fn an_unknown_channel_is_the_one_it_resembles() {
        assert_eq!(
            nearest_channel("––commentary".as_bytes()),
            Some(Named::Commentary)
        );
        assert_eq!(nearest_channel(b"comment"), Some(Named::Commentary));
        assert_eq!(nearest_channel(b"analys"), Some(Named::Analysis));
        assert_eq!(nearest_channel(b"thought"), None);
    }

    #[test]
    fn a_recipient_ends_before_arguments_and_spelled_out_markers() {
        assert_eq!(recipient_len(b"functions.get_weather{\"a\":1}"), 21);
        assert_eq!(recipient_len(b"functions.f<|channel|>commentary"), 11);
        assert_eq!(recipient_len(b" x"), 0);
    }
}
