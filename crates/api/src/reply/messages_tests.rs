//! Arguments of calls as objects. What any tokens lead to is tested over HTTP (`tests/integration/anthropic.rs`).

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
