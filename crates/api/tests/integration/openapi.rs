//! `openapi/openapi.json` is what the code says.

use std::path::Path;

use serde_json::Value;

#[test]
fn the_committed_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/openapi.json");
    let mut generated = gossamer_api::openapi()
        .to_pretty_json()
        .expect("the document is JSON");
    generated.push('\n');
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).expect("the document can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "openapi/openapi.json is not what the code says; run: UPDATE=1 cargo test -p gossamer-api openapi"
    );
}

#[test]
fn every_reference_resolves() {
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    let mut references = 0;
    visit(&document, &mut |value| {
        if let Some(reference) = value["$ref"].as_str() {
            references += 1;
            let pointer = reference.strip_prefix('#').expect("a local reference");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    });
    assert!(references > 30, "{references}");
}

fn visit(value: &Value, check: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(map) => {
            check(value);
            map.values().for_each(|value| visit(value, check));
        }
        Value::Array(items) => items.iter().for_each(|value| visit(value, check)),
        _ => {}
    }
}
