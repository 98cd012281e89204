//! Events of a generation to OpenAI's and Anthropic's answers: whole, or chunk by chunk.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod messages;
pub(crate) mod prompts;
pub(crate) mod responses;

use crate::error::ApiError;
use crate::generation::{Event, Generation};
use crate::request_id::random_id;
use crate::state::{ApiConfig, unix_seconds};
use crate::validate::StreamOptions;
use crate::wire::usage::Usage;

/// What all chunks of an answer repeat.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub id: String,
    pub created: i64,
    pub model: String,
    pub system_fingerprint: Option<String>,
    /// Chat only.
    pub service_tier: Option<&'static str>,
}

/// Which token counts a stream carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownUsage {
    options: StreamOptions,
}

impl ShownUsage {
    /// As the request asks.
    pub fn new(stream: Option<StreamOptions>) -> Self {
        Self {
            options: stream.unwrap_or_default(),
        }
    }

    /// The `usage` of a chunk with text.
    fn of_chunk(self, so_far: Usage) -> Option<Option<Usage>> {
        match self.options {
            options if options.continuous_usage => Some(Some(so_far)),
            options => options.include_usage.then_some(None),
        }
    }

    /// Whether a last chunk carries the counts of everything.
    fn at_the_end(self) -> bool {
        self.options.include_usage
    }
}

impl Head {
    /// A new answer. Named after the served model, by whichever name it was asked for.
    pub fn new(id_prefix: &str, config: &ApiConfig) -> Self {
        Self {
            id: random_id(id_prefix),
            created: unix_seconds(),
            model: config.model.clone(),
            system_fingerprint: config.system_fingerprint.clone(),
            service_tier: None,
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
