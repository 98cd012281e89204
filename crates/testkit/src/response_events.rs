//! Whether the events of a streamed response come in the order that OpenAI's API documents, and say the same as its end.
//!
//! A state machine of its own, over JSON: it shares nothing with the server's code. Source of order and fields: the event
//! types of OpenAI's SDKs, and what each says about itself. A violation panics: it is a failed test.

use std::collections::HashSet;

use serde_json::{Value, json};

/// Where a stream is.
#[derive(Debug, PartialEq)]
enum Place {
    Nowhere,
    Created,
    Queued,
    /// Between items.
    Running,
    /// An item was added.
    Item,
    /// Its part was added.
    Part,
    /// Its text is done.
    TextDone,
    /// Its part is done.
    PartDone,
    Ended,
}

/// Checks a whole stream, from its first event or from somewhere in the middle on; returns the response of its last event.
///
/// # Panics
/// The events are not as they should be.
pub fn check(events: &[Value]) -> Value {
    let mut checker = Checker {
        place: Place::Nowhere,
        id: Value::Null,
        items: Vec::new(),
        ids: HashSet::new(),
        item: Value::Null,
        text: String::new(),
        last: Value::Null,
    };
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
        checker.take(event);
    }
    assert_eq!(checker.place, Place::Ended, "no terminal event");
    checker.last
}

struct Checker {
    place: Place,
    id: Value,
    /// Those that are done.
    items: Vec<Value>,
    ids: HashSet<String>,
    /// The one that is open.
    item: Value,
    /// Its deltas.
    text: String,
    last: Value,
}

impl Checker {
    fn take(&mut self, event: &Value) {
        let kind = event["type"].as_str().expect("a type");
        self.place = match (kind, &self.place) {
            ("response.created", Place::Nowhere) => {
                self.id = event["response"]["id"].clone();
                self.whole(event, &["in_progress", "queued"]);
                Place::Created
            }
            ("response.queued", Place::Created) => {
                self.whole(event, &["queued"]);
                Place::Queued
            }
            ("response.in_progress", Place::Created | Place::Queued) => {
                self.whole(event, &["in_progress"]);
                Place::Running
            }
            ("response.output_item.added", Place::Running) => self.added(event),
            ("response.content_part.added", Place::Item) if self.has_parts() => {
                self.of_item(event);
                assert_eq!(event["content_index"], 0);
                assert_eq!(event["part"]["type"], self.part_type());
                assert_eq!(event["part"]["text"], "");
                Place::Part
            }
            ("response.reasoning_text.delta", Place::Part) if self.is("reasoning") => {
                self.delta(event)
            }
            ("response.output_text.delta", Place::Part) if self.is("message") => {
                assert!(event["logprobs"].is_array());
                self.delta(event)
            }
            ("response.function_call_arguments.delta", Place::Item) if self.is("function_call") => {
                self.delta(event);
                Place::Item
            }
            ("response.reasoning_text.done", Place::Part) if self.is("reasoning") => {
                self.text_done(event, "text")
            }
            ("response.output_text.done", Place::Part) if self.is("message") => {
                self.text_done(event, "text")
            }
            ("response.function_call_arguments.done", Place::Item) if self.is("function_call") => {
                self.text_done(event, "arguments");
                Place::PartDone
            }
            ("response.content_part.done", Place::TextDone) => {
                self.of_item(event);
                assert_eq!(event["part"]["type"], self.part_type());
                assert_eq!(event["part"]["text"], self.text);
                Place::PartDone
            }
            ("response.output_item.done", Place::PartDone) => self.done(event),
            ("response.completed", Place::Running) => self.end(event, &["completed"]),
            // A response that is cancelled before it was started was never in progress.
            ("response.incomplete", Place::Running | Place::Queued) => {
                self.end(event, &["incomplete", "cancelled"])
            }
            ("response.failed", Place::Running | Place::Queued) => self.end(event, &["failed"]),
            (_, place) => panic!("{event} in {place:?}"),
        };
    }

    fn whole(&self, event: &Value, statuses: &[&str]) {
        let response = &event["response"];
        assert_eq!(response["id"], self.id);
        assert_eq!(response["object"], "response");
        let status = response["status"].as_str().expect("a status");
        assert!(statuses.contains(&status), "{event}");
    }

    fn added(&mut self, event: &Value) -> Place {
        assert_eq!(event["output_index"], self.items.len(), "{event}");
        self.item = event["item"].clone();
        self.text.clear();
        assert_eq!(self.item["status"], "in_progress");
        let id = self.item["id"].as_str().expect("an id").to_owned();
        assert!(self.ids.insert(id), "an id twice: {event}");
        if self.has_parts() {
            assert_eq!(self.item["content"], json!([]), "{event}");
        } else {
            assert_eq!(self.item["arguments"], "", "{event}");
            let call_id = self.item["call_id"].as_str().expect("an id of the call");
            assert!(call_id.starts_with("call_"));
            assert!(
                self.item["name"]
                    .as_str()
                    .is_some_and(|name| !name.is_empty())
            );
        }
        Place::Item
    }

    fn delta(&mut self, event: &Value) -> Place {
        self.of_item(event);
        let delta = event["delta"].as_str().expect("a delta");
        assert!(!delta.is_empty(), "{event}");
        self.text.push_str(delta);
        Place::Part
    }

    fn text_done(&mut self, event: &Value, field: &str) -> Place {
        self.of_item(event);
        assert_eq!(event[field], self.text, "{event}");
        Place::TextDone
    }

    fn done(&mut self, event: &Value) -> Place {
        let item = &event["item"];
        assert_eq!(event["output_index"], self.items.len());
        for field in [
            "id",
            "type",
            "role",
            "phase",
            "call_id",
            "name",
            "namespace",
            "summary",
        ] {
            assert_eq!(item[field], self.item[field], "{field} of {event}");
        }
        let text = if self.has_parts() {
            assert_eq!(item["content"].as_array().map(Vec::len), Some(1));
            &item["content"][0]["text"]
        } else {
            &item["arguments"]
        };
        assert_eq!(text, &Value::from(self.text.as_str()), "{event}");
        assert!(
            ["completed", "incomplete"]
                .map(Value::from)
                .contains(&item["status"])
        );
        self.items.push(item.clone());
        Place::Running
    }

    fn end(&mut self, event: &Value, statuses: &[&str]) -> Place {
        self.whole(event, statuses);
        let response = &event["response"];
        assert_eq!(response["output"], Value::from(self.items.clone()));
        let failed = response["status"] == "failed";
        assert_eq!(response["error"].is_object(), failed);
        let incomplete = response["status"] == "incomplete";
        assert_eq!(response["incomplete_details"].is_object(), incomplete);
        assert_eq!(response["usage"].is_object(), !failed);
        self.last = response.clone();
        Place::Ended
    }

    fn of_item(&self, event: &Value) {
        assert_eq!(event["item_id"], self.item["id"], "{event}");
        assert_eq!(event["output_index"], self.items.len(), "{event}");
    }

    fn is(&self, kind: &str) -> bool {
        self.item["type"] == kind
    }

    fn has_parts(&self) -> bool {
        !self.is("function_call")
    }

    fn part_type(&self) -> &'static str {
        if self.is("reasoning") {
            "reasoning_text"
        } else {
            "output_text"
        }
    }
}
