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
    /// Tiles of bf16, AVX-512 VBMI and BF16, beside all of `Avx512`.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 F, BW, VL and VNNI, beside all of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-VNNI, beside all of `Avx2`.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON and its dot products.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    NeonDot,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon,
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
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            if std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512vnni")
            {
                if std::is_x86_feature_detected!("avx512vbmi")
                    && std::is_x86_feature_detected!("avx512bf16")
                    && crate::packed::tiles_are_permitted()
                {
                    available.push(Isa(Kind::Amx));
                }
                available.push(Isa(Kind::Avx512));
            }
            if std::is_x86_feature_detected!("avxvnni") {
                available.push(Isa(Kind::AvxVnni));
            }
            available.push(Isa(Kind::Avx2));
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if std::arch::is_aarch64_feature_detected!("neon") {
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                available.push(Isa(Kind::NeonDot));
            }
            available.push(Isa(Kind::Neon));
        }
        available.push(Isa::SCALAR);
        available
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// Whether products go through AMX, which has an order of weights and a form of activations of its own.
    #[inline(always)]
    pub(crate) fn is_amx(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Kind::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// The instruction set called `name` (see [`Isa::name`]), or `None` if there is no such name or
    /// this machine cannot execute it.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `"amx-bf16"`, `"avx512-vnni"`, `"avx-vnni"`, `"avx2"`, `"neon-dotprod"`, `"neon"` or `"scalar"`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx-bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Kind::NeonDot => "neon-dotprod",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Kind::Neon => "neon",
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

/// Defines a function that runs a loop generic over `Vector` compiled for a given `Isa`.
///
/// `fn name = generic(arg: Type, ...) -> Result` defines `unsafe fn name(isa: Isa, arg: Type, ...) -> Result`.
/// `generic` and all it calls must be `#[inline(always)]`: what is not inlined into the function that
/// carries the `target_feature` is compiled for the base instruction set, with every vector in memory.
///
/// # Safety
/// That of `generic`, less the instruction set, which `Isa` vouches for.
macro_rules! dispatch {
    ($visibility:vis fn $name:ident = $generic:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {
        $visibility unsafe fn $name(isa: crate::Isa, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $type),*) $(-> $result)? {
                // SAFETY: compiled for what `Avx2` needs; the rest is the caller's contract.
                unsafe { $generic::<crate::arch::avx2::Avx2>($($arg),*) }
            }
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            #[target_feature(enable = "neon")]
            unsafe fn neon($($arg: $type),*) $(-> $result)? {
                // SAFETY: compiled for what `Neon` needs; the rest is the caller's contract.
                unsafe { $generic::<crate::arch::neon::Neon>($($arg),*) }
            }
            match isa.kind() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: these `Isa`s exist only where AVX2 and FMA were detected.
                crate::dispatch::Kind::Amx | crate::dispatch::Kind::Avx512 | crate::dispatch::Kind::AvxVnni | crate::dispatch::Kind::Avx2 => unsafe {
                    avx2($($arg),*)
                },
                #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
                // SAFETY: these `Isa`s exist only where NEON was detected.
                crate::dispatch::Kind::NeonDot | crate::dispatch::Kind::Neon => unsafe { neon($($arg),*) },
                // SAFETY: `Scalar` needs no instruction set.
                crate::dispatch::Kind::Scalar => unsafe { $generic::<crate::arch::scalar::Scalar>($($arg),*) },
            }
        }
    };
}
