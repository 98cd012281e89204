//! OpenAI's error object.

use serde::Serialize;
use utoipa::ToSchema;

/// The body of every error answer, and the last event of a stream that fails.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorObject {
    /// For people.
    #[schema(example = "Missing required parameter: 'messages'.")]
    pub message: String,
    /// The kind of error: who has to act.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: String,
    /// The field that is wrong, as a path.
    #[schema(required, example = "messages")]
    pub param: Option<String>,
    /// For programs.
    #[schema(required, example = "missing_required_parameter")]
    pub code: Option<String>,
}
