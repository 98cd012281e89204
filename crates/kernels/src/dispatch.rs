//! Which instruction set the kernels run on: detected once, passed to every call.
//!
//! Does not read the environment: the caller may force a choice by name with [`Isa::from_name`].
//! Invariant: an [`Isa`] value exists only if this machine can execute it, which is what makes the
//! safe functions of this crate sound.

use std::fmt;

/// An instruction set that this machine can execute.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    Scalar,
}

impl Isa {
    /// The fallback that every machine can execute.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The fastest instruction set of this machine.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }

    /// All instruction sets of this machine, fastest first; the last is [`Isa::SCALAR`].
    pub fn available() -> Vec<Isa> {
        vec![Isa::SCALAR]
    }

    /// The instruction set called `name` (see [`Isa::name`]), or `None` if there is no such name or
    /// this machine cannot execute it.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `"avx2"`, `"neon"` or `"scalar"`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
