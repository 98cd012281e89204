//! What holds for any bytes: one function per property, for the fuzzer and for a test.
//!
//! `fuzz/` hands these functions to libFuzzer, which looks for bytes that make one panic; `tests/properties.rs` runs them
//! over the committed seeds and some thousand random inputs on a stable toolchain. Bytes are read as choices (`draws`),
//! so that most inputs get deep; some modes take them as they are.
//! Knows the crates under test by their public faces only. Invariant: same bytes, same run.

mod constraint_compile;
mod draws;
mod harmony_parser;
mod header_automaton;
mod jwt;
mod request_json;

pub(crate) use draws::Draws;

/// A property.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its program in `fuzz/fuzz_targets` and of its folder in `fuzz/seeds`.
    pub name: &'static str,
    /// Builds what every check needs, which takes seconds that no input is to blame for.
    pub prepare: fn(),
    /// Panics if the property does not hold for these bytes.
    pub check: fn(&[u8]),
}

/// Every property.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "harmony_parser",
        prepare: harmony_parser::prepare,
        check: harmony_parser::check,
    },
    Target {
        name: "header_automaton",
        prepare: header_automaton::prepare,
        check: header_automaton::check,
    },
    Target {
        name: "request_json",
        prepare: request_json::prepare,
        check: request_json::check,
    },
    Target {
        name: "jwt",
        prepare: jwt::prepare,
        check: jwt::check,
    },
    Target {
        name: "constraint_compile",
        prepare: constraint_compile::prepare,
        check: constraint_compile::check,
    },
];

/// The property of this name.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> Target {
    let target = TARGETS.iter().find(|target| target.name == name);
    *target.expect("a property of this name")
}
