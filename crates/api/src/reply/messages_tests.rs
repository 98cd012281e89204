//! Any tokens, as blocks: the order of events by a state machine of its own, and streamed against whole.

use super::*;

#[test]
fn arguments_are_an_object_whatever_the_model_wrote() {
    for (written, read) in [
        ("", "{}"),
        (" ", "{}"),
        (r#"{"b": 1, "a": 2}"#, r#"{"b":1,"a":2}"#),
        ("[1]", r#"{"raw_arguments":"[1]"}"#),
        (r#"{"a": "#, r#"{"raw_arguments":"{\"a\": "}"#),
    ] {
        assert_eq!(Value::Object(object(written.to_owned())).to_string(), read);
    }
}
