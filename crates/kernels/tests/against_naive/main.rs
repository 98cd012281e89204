//! Every kernel on every instruction set of this machine against the oracle, and batch invariance as
//! exact equality.
//!
//! Shapes are odd, slices start at odd addresses, and tolerances are relative to the sum of the magnitudes
//! that were added: a dot product that cancels is allowed no more error than its terms explain.

mod attention;
mod elementwise;
mod matmul;
mod packed;
mod support;
