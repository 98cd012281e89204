//! GPT-OSS on an accelerator: tensors of candle, kernels of mistral.rs, steps of our scheduler.
//!
//! One implementation for Metal and CUDA: what differs between them is in `device.rs` alone. Activations are bf16, router
//! and logits f32. Keys and values lie in blocks as `mistralrs_paged_attn` wants them (`kv.rs`), so a block table of the
//! scheduler is the page table that the kernels read. Everything but the kernels themselves also runs on candle's CPU
//! device with slow stand-ins for them (`reference.rs`), in tests, against the CPU backend.
//! Not here: plans, layer order, what a token means.

mod coarse;
mod paging;
#[cfg(test)]
#[cfg_attr(
    not(feature = "candle"),
    expect(
        dead_code,
        reason = "parity.rs runs what is planned, paging.rs looks at plans only"
    )
)]
mod plans;

/// With a device, or with stand-ins for one in tests.
macro_rules! on_candle {
    ($($item:item)*) => {
        $(
            #[cfg(any(feature = "metal", feature = "cuda", all(test, feature = "candle")))]
            $item
        )*
    };
}

on_candle! {
    mod attention;
    mod backend;
    mod device;
    mod head;
    mod kv;
    mod linear;
    mod moe;

    pub use backend::Accelerated;
}

#[cfg(all(test, feature = "candle"))]
mod parity;
#[cfg(all(test, feature = "candle"))]
mod reference;
