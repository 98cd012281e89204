//! What a parser gave out, merged into one entry per run of the same kind.

use gossamer_harmony::{Delta, Parser, RepairKind, Token};

/// One run of deltas of the same kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// `reasoning`, `preamble`, `content` or `call NAME`.
    pub kind: String,
    pub text: String,
}

/// Everything that came out of one generation.
#[derive(Debug, Default)]
pub struct Outcome {
    pub heard: Vec<Heard>,
    /// Kinds of repairs, each as often as it was counted.
    pub repairs: Vec<RepairKind>,
}

impl Outcome {
    /// All text in order, names of calls included.
    pub fn all_text(&self) -> String {
        let name = |kind: &str| kind.strip_prefix("call ").unwrap_or_default().to_owned();
        self.heard.iter().map(|h| name(&h.kind) + &h.text).collect()
    }

    pub fn text_of(&self, kind: &str) -> String {
        let of_kind = self.heard.iter().filter(|h| h.kind == kind);
        of_kind.map(|h| h.text.as_str()).collect()
    }
}

/// Parses `tokens`, checking on the way what must hold of every delta.
pub fn parse(tokens: &[Token]) -> Outcome {
    let mut parser = Parser::new();
    let mut outcome = Outcome::default();
    let mut num_calls = 0;
    for &token in tokens {
        add(&mut outcome.heard, &mut num_calls, parser.push(token));
    }
    add(&mut outcome.heard, &mut num_calls, parser.finish());
    assert!(
        parser.finish().is_empty(),
        "a finished parser has nothing left"
    );
    for (kind, count) in parser.repairs().iter() {
        outcome.repairs.extend((0..count).map(|_| kind));
    }
    outcome
}

fn add(heard: &mut Vec<Heard>, num_calls: &mut usize, deltas: Vec<Delta>) {
    for delta in deltas {
        let (kind, text) = match delta {
            Delta::Reasoning(text) => ("reasoning".to_owned(), text),
            Delta::Preamble(text) => ("preamble".to_owned(), text),
            Delta::Content(text) => ("content".to_owned(), text),
            Delta::ToolCall { index, name } => {
                assert_eq!(index, *num_calls, "calls are numbered in order");
                assert!(!name.is_empty(), "a call has a name");
                *num_calls += 1;
                heard.push(Heard {
                    kind: format!("call {name}"),
                    text: String::new(),
                });
                continue;
            }
            Delta::Arguments { index, text } => {
                assert!(index < *num_calls, "arguments of a call that was opened");
                assert!(!text.is_empty(), "deltas are not empty");
                let mut calls = heard.iter_mut().filter(|h| h.kind.starts_with("call "));
                calls
                    .nth(index)
                    .expect("it was opened")
                    .text
                    .push_str(&text);
                continue;
            }
        };
        assert!(!text.is_empty(), "deltas are not empty");
        match heard.last_mut() {
            Some(last) if last.kind == kind => last.text.push_str(&text),
            _ => heard.push(Heard { kind, text }),
        }
    }
}
