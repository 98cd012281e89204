#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gossamer_fuzzing::check("header_automaton", bytes));
