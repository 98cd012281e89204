//! See `crates/fuzzing/src/jwt.rs`.
#![no_main]

use gossamer_fuzzing::Target;
use std::sync::LazyLock;

static TARGET: LazyLock<Target> = LazyLock::new(|| gossamer_fuzzing::target("jwt"));

libfuzzer_sys::fuzz_target!(init: (TARGET.prepare)(), |bytes: &[u8]| (TARGET.check)(bytes));
