//! Events of a generation to OpenAI's answers: whole, or chunk by chunk.

pub(crate) mod chat;
pub(crate) mod completions;

use crate::error::ApiError;
use crate::generation::{Event, Generation};
use crate::request_id::random_id;
use crate::state::{ApiConfig, unix_seconds};
use crate::wire::usage::Usage;

/// What all chunks of an answer repeat.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub id: String,
    pub created: i64,
    pub model: String,
    pub system_fingerprint: Option<String>,
}

impl Head {
    /// A new answer. Named after the served model, by whichever name it was asked for.
    pub fn new(id_prefix: &str, config: &ApiConfig) -> Self {
        Self {
            id: random_id(id_prefix),
            created: unix_seconds(),
            model: config.model.clone(),
            system_fingerprint: config.system_fingerprint.clone(),
        }
    }
}

/// Puts a whole answer together from its events.
pub(crate) trait Collect {
    /// Takes the text of an event.
    fn take(&mut self, event: Event);
}

/// Reads a generation to its end.
///
/// # Errors
/// It failed; what there was of it is dropped.
pub(crate) async fn collect(
    mut generation: Generation,
    answer: &mut impl Collect,
) -> Result<Usage, ApiError> {
    while let Some(event) = generation.next().await {
        match event {
            Event::Finished(usage) => return Ok(usage),
            Event::Failed(error) => return Err(error),
            event => answer.take(event),
        }
    }
    Err(ApiError::internal().with_internal("a generation ended without a terminal event"))
}
