//! Every property over its committed seeds, and over random inputs that are the same at every run.
//!
//! The short form of `make fuzz`, on a stable toolchain. An input that a fuzzer found is a seed from then on.

use std::fs;
use std::path::Path;

/// A small generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 = (self.0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = usize::from(self.byte()) * max / 256;
        (0..=len).map(|_| self.byte()).collect()
    }
}

/// Checks a property over its seeds and `count` random inputs, half of which are seeds with something changed.
fn holds(name: &str, count: usize, max_len: usize) {
    let target = gossamer_fuzzing::target(name);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(name);
    let mut paths: Vec<_> = (fs::read_dir(&folder).expect("a folder of seeds"))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    assert!(
        paths.len() >= 5,
        "{} has {} seeds",
        folder.display(),
        paths.len()
    );
    let mut seeds = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).expect("a readable seed");
        println!("seed {}", path.display());
        (target.check)(&bytes);
        seeds.push(bytes);
    }
    let mut random = Random(name.len() as u64);
    for number in 0..count {
        let bytes = match number % 2 {
            0 => random.bytes(max_len),
            _ => {
                let mut bytes = seeds[number / 2 % seeds.len()].clone();
                for _ in 0..=random.byte() % 4 {
                    let at = usize::from(random.byte()) << 8 | usize::from(random.byte());
                    let at = at % (bytes.len() + 1);
                    match random.byte() % 3 {
                        0 => bytes.insert(at, random.byte()),
                        1 => bytes.truncate(at),
                        _ => bytes.splice(at..at, random.bytes(8)).for_each(drop),
                    }
                }
                bytes
            }
        };
        // Shown if it fails.
        println!("input {number}: {bytes:?}");
        (target.check)(&bytes);
    }
}

#[test]
fn harmony_parser() {
    holds("harmony_parser", 3000, 400);
}

#[test]
fn header_automaton() {
    holds("header_automaton", 1000, 300);
}

#[test]
fn request_json() {
    holds("request_json", 2000, 400);
}

#[test]
fn jwt() {
    holds("jwt", 1000, 120);
}

#[test]
fn constraint_compile() {
    holds("constraint_compile", 300, 150);
}
