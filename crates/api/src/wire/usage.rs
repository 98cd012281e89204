//! Token counts, in OpenAI's shape.

use serde::Serialize;
use utoipa::ToSchema;

/// Tokens of one request, all choices together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, or of all prompts of a batch.
    pub prompt_tokens: usize,
    /// Tokens generated, control tokens included, up to where each choice ended.
    pub completion_tokens: usize,
    /// The sum.
    pub total_tokens: usize,
    /// Of the prompt's tokens.
    pub prompt_tokens_details: PromptTokensDetails,
    /// Of the generated tokens.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// Parts of `prompt_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Served by the prefix cache.
    pub cached_tokens: usize,
}

/// Parts of `completion_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Spent on reasoning.
    pub reasoning_tokens: usize,
}
