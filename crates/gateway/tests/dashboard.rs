//! The Grafana dashboard is valid JSON and asks only for metrics that the catalog has.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Words of an expression that can be names of metrics.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("gossamer_") || word.starts_with("process_"))
}

#[test]
fn every_metric_of_the_dashboard_is_in_the_catalog() {
    let catalog = read("crates/metrics/src/catalog.rs");
    let dashboard: Value = serde_json::from_str(&read("config/grafana/gossamer.json")).unwrap();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            asked.extend(names(target["expr"].as_str().unwrap()).map(str::to_owned));
        }
    }
    assert!(asked.len() > 15, "{asked:?}");
    for name in asked {
        let name = name.strip_suffix("_bucket").unwrap_or(&name);
        assert!(
            catalog.contains(&format!("\"{name}\"")),
            "{name} is not in the catalog"
        );
    }
}
