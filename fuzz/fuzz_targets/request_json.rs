//! See `crates/fuzzing/src/request_json.rs`.
#![no_main]

use gossamer_fuzzing::Target;
use std::sync::LazyLock;

static TARGET: LazyLock<Target> = LazyLock::new(|| gossamer_fuzzing::target("request_json"));

libfuzzer_sys::fuzz_target!(init: (TARGET.prepare)(), |bytes: &[u8]| (TARGET.check)(bytes));
