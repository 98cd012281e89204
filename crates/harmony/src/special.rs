//! The control tokens of the harmony format, by id.
//!
//! Ids as in the table "Special Tokens" of openai/harmony `docs/format.md`.
//! Every id from [`FIRST_CONTROL`] up is a control token (most are reserved); every id below it is
//! a run of bytes.

use crate::Token;

/// The first id that is not a run of text bytes: `<|startoftext|>`.
pub const FIRST_CONTROL: Token = 199_998;
/// `<|endoftext|>`: ends a document; a model may emit it instead of [`RETURN`].
pub const END_OF_TEXT: Token = 199_999;
/// `<|return|>`: the model has finished its answer. A stop token.
pub const RETURN: Token = 200_002;
/// `<|constrain|>`: announces the content type inside a header.
pub const CONSTRAIN: Token = 200_003;
/// `<|channel|>`: announces the channel inside a header.
pub const CHANNEL: Token = 200_005;
/// `<|start|>`: opens a message header.
pub const START: Token = 200_006;
/// `<|end|>`: closes a message; generation goes on. Not a stop token.
pub const END: Token = 200_007;
/// `<|message|>`: separates a header from the message's body.
pub const MESSAGE: Token = 200_008;
/// `<|call|>`: closes a tool call. A stop token.
pub const CALL: Token = 200_012;
/// Number of ids; the model's embedding has this many rows.
pub const VOCAB_SIZE: usize = 201_088;
