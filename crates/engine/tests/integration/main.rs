//! The engine over models of random weights: against a slow reference, against itself under other batching, and
//! against broken folders. One binary, so that linking happens once.

mod batching;
mod device;
mod driver;
mod folder;
mod loading;
mod parity;
mod reference;
mod scheduled;
mod speculation;
mod widths;
mod windows;
