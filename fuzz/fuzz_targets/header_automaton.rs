//! See `crates/fuzzing/src/header_automaton.rs`.
#![no_main]

use gossamer_fuzzing::Target;
use std::sync::LazyLock;

static TARGET: LazyLock<Target> = LazyLock::new(|| gossamer_fuzzing::target("header_automaton"));

libfuzzer_sys::fuzz_target!(init: (TARGET.prepare)(), |bytes: &[u8]| (TARGET.check)(bytes));
