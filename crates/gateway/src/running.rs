//! The engine that answers, of whichever kind: what start and stop need of it.
//!
//! Knows how to ask it for a token and how it ends. Invariant: after [`Running::stop`] every request ends.

#[cfg(feature = "mistralrs")]
use std::sync::Arc;

use gossamer_api::text_engine::{Engine, TextStats};
#[cfg(feature = "mistralrs")]
use gossamer_mistralrs::MistralEngine;
use gossamer_scheduler::{SchedulerHandle, Worker};
use tokio::sync::oneshot;

use crate::health;

/// How often mistral.rs may fail to answer, one after the other, before it is given up.
#[cfg(feature = "mistralrs")]
const MOST_FAILURES: u32 = 5;

/// See the file's header.
pub enum Running {
    /// Ours; its worker's end arrives in `ended`.
    Local {
        scheduler: SchedulerHandle,
        ended: oneshot::Receiver<String>,
    },
    /// mistral.rs, which starts its thread again by itself.
    #[cfg(feature = "mistralrs")]
    Mistralrs(Arc<MistralEngine>),
}

impl Running {
    /// Ours, started.
    pub fn local(scheduler: SchedulerHandle, worker: Worker) -> Self {
        let ended = health::end_of(worker);
        Self::Local { scheduler, ended }
    }

    /// What the HTTP layer gets of it.
    pub fn engine(&self) -> Engine {
        match self {
            Self::Local { scheduler, .. } => Engine::Tokens(scheduler.clone()),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(engine) => Engine::Text(Arc::<MistralEngine>::clone(engine)),
        }
    }

    /// Draws one token through everything below HTTP.
    ///
    /// # Errors
    /// There was none, and why.
    pub async fn probe(&self) -> Result<(), String> {
        match self {
            Self::Local { scheduler, .. } => {
                (health::probe(scheduler).await).map_err(|error| error.to_string())
            }
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(engine) => (engine.probe().await).map_err(|error| error.to_string()),
        }
    }

    /// How busy it is.
    pub fn stats(&self) -> TextStats {
        self.engine().stats()
    }

    /// Resolves when it will never answer again, with what is known of the reason.
    pub async fn unusable(&mut self) -> String {
        match self {
            Self::Local { scheduler, ended } => tokio::select! {
                why = ended => why.unwrap_or_default(),
                why = health::unusable(scheduler) => why,
            },
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(engine) => silent(engine).await,
        }
    }

    /// Accepts nothing more. What runs and waits goes on.
    pub fn drain(&self) {
        match self {
            Self::Local { scheduler, .. } => scheduler.drain(),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(engine) => engine.drain(),
        }
    }

    /// Resolves when nothing runs or waits.
    pub async fn drained(&self) {
        match self {
            Self::Local { scheduler, .. } => scheduler.drained().await,
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(engine) => engine.drained().await,
        }
    }

    /// Accepts nothing more and fails what is left.
    pub fn stop(&self) {
        match self {
            Self::Local { scheduler, .. } => scheduler.stop(),
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(engine) => engine.stop(),
        }
    }

    /// Resolves when its thread is gone, where somebody waits for that.
    pub async fn ended(self) {
        match self {
            Self::Local { ended, .. } => {
                // Whoever has heard of its end must not ask again, and an error means that it ended before.
                if !ended.is_terminated() {
                    let _ = ended.await;
                }
            }
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs(engine) => drop(engine),
        }
    }
}

#[cfg(feature = "mistralrs")]
async fn silent(engine: &MistralEngine) -> String {
    use gossamer_api::text_engine::TextEngine;
    use gossamer_mistralrs::ProbeError;

    let mut failures = 0;
    loop {
        tokio::time::sleep(health::WATCH).await;
        // Whoever waits for it finds out; a probe would wait behind them, or be refused because of them.
        if engine.is_ready() || engine.is_draining() || engine.stats().waiting > 0 {
            failures = 0;
            continue;
        }
        match engine.probe().await {
            Ok(()) => tracing::info!("the engine answers again"),
            // Between the look at the queue and the probe others came.
            Err(ProbeError::Busy(_)) => {}
            Err(ProbeError::Failed(why)) => {
                failures += 1;
                tracing::warn!(error = why, "the engine does not answer");
                if failures == MOST_FAILURES {
                    return why;
                }
            }
        }
    }
}
