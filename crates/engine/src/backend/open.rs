//! Which backend runs: what was asked for, what this build has, what this machine has.
//!
//! The only place that knows all backends by name. Invariant: what was asked for by name is what runs, or nothing does;
//! only `auto` may fall back to the CPU.

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::config::{DeviceChoice, EngineConfig};
use crate::error::LoadError;
use crate::model::ModelConfig;
use crate::weights::Origin;

#[cfg(any(feature = "metal", feature = "cuda"))]
use crate::backend::accelerated::Accelerated;

/// The accelerator that this build knows; one at most, since the kernel crates can be built for one only.
#[cfg(feature = "metal")]
const BUILT_FOR: Option<DeviceChoice> = Some(DeviceChoice::Metal);
#[cfg(feature = "cuda")]
const BUILT_FOR: Option<DeviceChoice> = Some(DeviceChoice::Cuda);
#[cfg(not(any(feature = "metal", feature = "cuda")))]
const BUILT_FOR: Option<DeviceChoice> = None;

#[cfg(all(feature = "metal", feature = "cuda"))]
compile_error!("the features metal and cuda exclude each other");

/// What is to be done with a backend, whichever it is.
pub trait OnBackend {
    /// What comes of it.
    type Out;
    /// Does it.
    ///
    /// # Errors
    /// Whatever it says.
    fn run<B: Backend>(self, backend: B) -> Result<Self::Out, LoadError>;
}

/// Opens the backend that `engine` asks for and hands it over; `origin` has the files that its weights will come from.
///
/// # Errors
/// [`LoadError::NoDevice`] when it is not in this build or not on this machine; those of the backend and of `then`.
pub fn open<T: OnBackend>(
    model: &ModelConfig,
    origin: Option<&Origin>,
    engine: &EngineConfig,
    then: T,
) -> Result<T::Out, LoadError> {
    let wanted = engine.device;
    if wanted != DeviceChoice::Auto && wanted != DeviceChoice::Cpu && BUILT_FOR != Some(wanted) {
        return Err(LoadError::NoDevice {
            wanted: wanted.name(),
            reason: not_built(wanted),
        });
    }
    #[cfg(any(feature = "metal", feature = "cuda"))]
    if wanted != DeviceChoice::Cpu {
        match Accelerated::open(model, engine) {
            Ok(backend) => return then.run(backend),
            Err(error) if wanted != DeviceChoice::Auto => {
                return Err(LoadError::NoDevice {
                    wanted: wanted.name(),
                    reason: format!("none was found on this machine, only the CPU ({error})"),
                });
            }
            Err(_) => {}
        }
    }
    let kernels = engine.kernels.as_deref();
    let cpu = Cpu::new(model, engine.threads, kernels, engine.weights)?;
    then.run(match (&engine.repack_cache, origin) {
        (Some(folder), Some(origin)) => cpu.with_repack_cache(folder, origin),
        _ => cpu,
    })
}

fn not_built(wanted: DeviceChoice) -> String {
    let name = wanted.name();
    let has = match BUILT_FOR {
        None => "for the CPU only".to_owned(),
        Some(other) => format!("for {} and the CPU", other.name()),
    };
    format!(
        "this binary was built {has}. `cargo build --release -p gossamer-gateway --features {name}` builds one for {name}"
    )
}
