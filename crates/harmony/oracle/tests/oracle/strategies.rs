//! Random texts, schemas and conversations.

use gossamer_harmony::{Conversation, ReasoningEffort, Tool, ToolCall, Turn};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Text as people write it, and as they should not: scripts, emoji, blanks, spelled-out control
/// tokens, parts of the format itself.
pub fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z']{1,8}",
        2 => Just(" ".to_owned()),
        1 => "[0-9]{1,5}",
        1 => "[ \t\r\n]{1,4}",
        1 => "\\PC{1,4}",
        1 => "[äßéñøЖдшこ漢字한글अआעש]{1,4}",
        1 => "[😀🎉👍🏽👨‍👩‍👧🇩🇪]{1,3}",
        1 => proptest::sample::select(vec![
            "<|start|>", "<|end|>", "<|message|>", "<|channel|>final", "<|return|>", "<|call|>",
            "<|endoftext|>", "<|constrain|>json", "assistant", " to=functions.x", "# Tools",
            "{\"a\": [1, 2]}", "// ", "\u{feff}", "\u{0}", "e\u{301}",
        ]).prop_map(str::to_owned),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z_][a-zA-Z0-9_-]{0,16}"
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-1e3..1e3f64).prop_map(Value::from),
        text().prop_map(Value::from),
        Just(json!(["a", 1])),
        Just(json!({"k": "v"})),
    ]
}

fn type_name() -> impl Strategy<Value = Value> {
    let one = proptest::sample::select(vec![
        "object", "string", "number", "integer", "boolean", "array", "null", "strange",
    ]);
    prop_oneof![
        8 => one.clone().prop_map(Value::from),
        1 => vec(one.prop_map(Value::from), 0..3).prop_map(Value::from),
        1 => scalar(),
    ]
}

/// Keywords beside the type, some of them of a wrong type.
fn annotations() -> impl Strategy<Value = Map<String, Value>> {
    let wrong_or = |right: BoxedStrategy<Value>| prop_oneof![9 => right, 1 => scalar().boxed()];
    let strings = || {
        vec(text().prop_map(Value::from), 0..3)
            .prop_map(Value::from)
            .boxed()
    };
    let pair = prop_oneof![
        3 => wrong_or(text().prop_map(Value::from).boxed()).prop_map(|v| ("description", v)),
        1 => wrong_or(text().prop_map(Value::from).boxed()).prop_map(|v| ("title", v)),
        2 => scalar().prop_map(|v| ("default", v)),
        2 => wrong_or(strings()).prop_map(|v| ("enum", v)),
        1 => vec(scalar(), 0..3).prop_map(|v| ("examples", Value::from(v))),
        1 => wrong_or(any::<bool>().prop_map(Value::from).boxed()).prop_map(|v| ("nullable", v)),
        1 => Just(("minimum", json!(3))),
        // Mostly no list, or a list of what is no schema.
        1 => scalar().prop_map(|v| ("oneOf", v)),
    ];
    vec(pair, 0..4).prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

/// A JSON schema, mostly sensible.
pub fn schema() -> impl Strategy<Value = Value> {
    let leaf = (option::weighted(0.9, type_name()), annotations()).prop_map(|(of, mut schema)| {
        if let Some(of) = of {
            schema.insert("type".to_owned(), of);
        }
        Value::Object(schema)
    });
    let leaf = prop_oneof![20 => leaf, 1 => scalar()];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let object = (
            annotations(),
            vec((name(), inner.clone(), any::<bool>()), 0..4),
            option::weighted(0.1, scalar()),
        )
            .prop_map(|(mut schema, properties, wrong_required)| {
                let required: Vec<_> = properties
                    .iter()
                    .filter(|(_, _, is_required)| *is_required)
                    .map(|(name, _, _)| name.clone())
                    .collect();
                let properties: Map<_, _> = properties
                    .into_iter()
                    .map(|(name, value, _)| (name, value))
                    .collect();
                schema.insert("type".to_owned(), json!("object"));
                schema.insert("properties".to_owned(), properties.into());
                let required = wrong_required.unwrap_or(json!(required));
                schema.insert("required".to_owned(), required);
                Value::Object(schema)
            });
        let array = (annotations(), option::weighted(0.9, inner.clone())).prop_map(
            |(mut schema, items)| {
                schema.insert("type".to_owned(), json!("array"));
                if let Some(items) = items {
                    schema.insert("items".to_owned(), items);
                }
                Value::Object(schema)
            },
        );
        let union = (annotations(), vec(inner, 0..3), any::<bool>()).prop_map(
            |(mut schema, mut variants, shares_description)| {
                // The layout has a rule of its own for a first variant that repeats the property.
                if shares_description
                    && let Some(Value::Object(first)) = variants.first_mut()
                    && let Some(description) = schema.get("description")
                {
                    first.insert("description".to_owned(), description.clone());
                }
                schema.insert("oneOf".to_owned(), variants.into());
                Value::Object(schema)
            },
        );
        prop_oneof![4 => object, 2 => array, 2 => union]
    })
}

fn tool() -> impl Strategy<Value = Tool> {
    (name(), option::of(text()), option::weighted(0.8, schema())).prop_map(
        |(name, description, parameters)| Tool {
            name,
            description,
            parameters,
        },
    )
}

fn turn() -> impl Strategy<Value = Turn> {
    let call = (name(), text()).prop_map(|(name, arguments)| ToolCall { name, arguments });
    prop_oneof![
        3 => (option::weighted(0.2, name()), text()).prop_map(|(name, text)| Turn::User { name, text }),
        1 => text().prop_map(Turn::Developer),
        4 => (option::of(text()), option::weighted(0.2, text()), option::of(text()), vec(call, 0..3))
            .prop_map(|(reasoning, preamble, content, tool_calls)| Turn::Assistant {
                reasoning,
                preamble,
                content,
                tool_calls,
            }),
        2 => (name(), text()).prop_map(|(name, content)| Turn::ToolResult { name, content }),
    ]
}

/// A conversation, of any order of turns.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    let effort = proptest::sample::select(vec![
        ReasoningEffort::Low,
        ReasoningEffort::Medium,
        ReasoningEffort::High,
    ]);
    (
        effort,
        option::of("20[0-9]{2}-[01][0-9]-[0-3][0-9]"),
        option::weighted(0.2, text()),
        option::weighted(0.2, "20[0-9]{2}-[01][0-9]"),
        option::of(text()),
        vec(tool(), 0..3),
        vec(turn(), 0..7),
    )
        .prop_map(
            |(effort, date, model_identity, knowledge_cutoff, instructions, tools, turns)| {
                Conversation {
                    effort,
                    date,
                    model_identity,
                    knowledge_cutoff,
                    instructions,
                    tools,
                    response_format: None,
                    turns,
                }
            },
        )
}
