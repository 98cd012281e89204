//! Function declarations: JSON schemas to the TypeScript-like text the model was trained on.
//!
//! The layout, down to blanks and the places of comments, is that of openai-harmony 0.0.8; models
//! know no other. What a schema says beyond it (`anyOf`, `$ref`, `minimum`, ...) is not declared.
//! Schemas come from clients: any JSON value gives some text, and work is bounded by
//! [`MAX_DEPTH`] times the schema's size.

use serde_json::{Map, Value};

use crate::Tool;

/// Schemas nested deeper than this are declared as `any`. JSON from the wire is no deeper
/// (`serde_json` refuses more than 128 levels); this holds the stack for values made otherwise.
const MAX_DEPTH: usize = 128;

/// The `# Tools` section that declares `tools` in the namespace `functions`.
pub(crate) fn declare_functions(tools: &[Tool]) -> String {
    let mut out = String::from("# Tools\n\n## functions\n\nnamespace functions {\n\n");
    for tool in tools {
        for line in tool.description.iter().flat_map(|text| text.lines()) {
            push_all(&mut out, &["// ", line, "\n"]);
        }
        push_all(&mut out, &["type ", &tool.name, " = ("]);
        if let Some(parameters) = &tool.parameters {
            out.push_str("_: ");
            Writer::new(&mut out).type_of(parameters, "");
        }
        out.push_str(") => any;\n\n");
    }
    out.push_str("} // namespace functions");
    out
}

fn push_all(out: &mut String, parts: &[&str]) {
    for part in parts {
        out.push_str(part);
    }
}

/// Whether a string default is written bare: for an `enum` its values are spelled out already.
fn has_enum(schema: &Value) -> bool {
    let values = schema.get("enum").and_then(Value::as_array);
    values.is_some_and(|values| !values.is_empty())
}

/// `default: ...`, if the schema has a default.
fn default_comment(schema: &Value) -> Option<String> {
    let default = schema.get("default")?;
    Some(match default.as_str() {
        Some(text) if has_enum(schema) => format!("default: {text}"),
        Some(text) => format!("default: \"{text}\""),
        None => format!("default: {default}"),
    })
}

fn text_of<'a>(schema: &'a Value, key: &str) -> Option<&'a str> {
    schema.get(key).and_then(Value::as_str)
}

fn list_of<'a>(schema: &'a Value, key: &str) -> Option<&'a [Value]> {
    schema.get(key).and_then(Value::as_array).map(Vec::as_slice)
}

struct Writer<'a> {
    out: &'a mut String,
    depth: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut String) -> Self {
        Self { out, depth: 0 }
    }

    fn push(&mut self, parts: &[&str]) {
        push_all(self.out, parts);
    }

    /// Writes the type `schema` describes; lines after the first begin with `indent`.
    fn type_of(&mut self, schema: &Value, indent: &str) {
        if self.depth == MAX_DEPTH {
            self.push(&["any"]);
            return;
        }
        self.depth += 1;
        if let Some(variants) = list_of(schema, "oneOf") {
            self.variants(variants, indent);
        } else if let Some(names) = list_of(schema, "type") {
            self.union_of_names(names);
        } else {
            self.named_type(schema, indent);
        }
        self.depth -= 1;
    }

    fn named_type(&mut self, schema: &Value, indent: &str) {
        match text_of(schema, "type") {
            Some("object") => self.object(schema, indent),
            Some("string") => self.string(schema),
            Some("number" | "integer") => self.push(&["number"]),
            Some("boolean") => self.push(&["boolean"]),
            Some("array") => match schema.get("items") {
                Some(items) => {
                    self.type_of(items, indent);
                    self.push(&["[]"]);
                }
                None => self.push(&["Array<any>"]),
            },
            _ => self.push(&["any"]),
        }
    }

    /// `"type": ["integer", "null"]`
    fn union_of_names(&mut self, names: &[Value]) {
        let names: Vec<_> = names
            .iter()
            .filter_map(Value::as_str)
            .map(|name| if name == "integer" { "number" } else { name })
            .collect();
        if names.is_empty() {
            self.push(&["any"]);
        } else {
            self.push(&[&names.join(" | ")]);
        }
    }

    fn string(&mut self, schema: &Value) {
        let values: Vec<_> = list_of(schema, "enum")
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("\"{value}\""))
            .collect();
        if values.is_empty() {
            self.push(&["string"]);
        } else {
            self.push(&[&values.join(" | ")]);
        }
    }

    /// A `oneOf` that is not a property's own: each variant on its line, comments behind it.
    fn variants(&mut self, variants: &[Value], indent: &str) {
        for variant in variants {
            self.push(&["\n", indent, " | "]);
            self.nullable_type(variant, &format!("{indent}   "));
            // Here alone a string default of an enum is quoted.
            let default = variant
                .get("default")
                .map(|default| match default.as_str() {
                    Some(text) if !has_enum(variant) => format!("default: \"{text}\""),
                    _ => format!("default: {default}"),
                });
            self.comment_behind(text_of(variant, "description"), default);
        }
    }

    fn nullable_type(&mut self, schema: &Value, indent: &str) {
        let start = self.out.len();
        self.type_of(schema, indent);
        let is_nullable = schema.get("nullable").and_then(Value::as_bool) == Some(true);
        if is_nullable && !self.out[start..].contains("null") {
            self.push(&[" | null"]);
        }
    }

    fn comment_behind(&mut self, description: Option<&str>, default: Option<String>) {
        match (description, default) {
            (Some(text), Some(default)) => self.push(&[" // ", text, " ", &default]),
            (Some(text), None) => self.push(&[" // ", text]),
            (None, Some(default)) => self.push(&[" // ", &default]),
            (None, None) => {}
        }
    }

    fn object(&mut self, schema: &Value, indent: &str) {
        if let Some(text) = text_of(schema, "description") {
            self.push(&[indent, "// ", text, "\n"]);
        }
        self.push(&["{\n"]);
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            self.properties(properties, list_of(schema, "required"), indent);
        }
        self.push(&[indent, "}"]);
    }

    fn properties(
        &mut self,
        properties: &Map<String, Value>,
        required: Option<&[Value]>,
        indent: &str,
    ) {
        let required: std::collections::HashSet<&str> = required
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        for (name, schema) in properties {
            self.comments_above(schema, indent);
            let mark = if required.contains(name.as_str()) {
                ""
            } else {
                "?"
            };
            match list_of(schema, "oneOf") {
                Some(variants) => {
                    let is_described = self.union_comments(schema, variants, indent);
                    self.push(&[indent, name, mark, ":\n"]);
                    self.union_lines(schema, variants, is_described, indent);
                }
                None => {
                    self.push(&[indent, name, mark, ": "]);
                    self.nullable_type(schema, &format!("{indent}    "));
                    self.push(&[","]);
                    if schema.get("oneOf").is_none() {
                        self.comment_behind(None, default_comment(schema));
                    }
                    self.push(&["\n"]);
                }
            }
        }
    }

    /// Title, description and examples, on lines of their own.
    fn comments_above(&mut self, schema: &Value, indent: &str) {
        if let Some(title) = text_of(schema, "title") {
            self.push(&[indent, "// ", title, "\n", indent, "//\n"]);
        }
        if schema.get("oneOf").is_none()
            && let Some(text) = text_of(schema, "description")
        {
            self.push(&[indent, "// ", text, "\n"]);
        }
        let examples = list_of(schema, "examples").unwrap_or_default();
        if !examples.is_empty() {
            self.push(&[indent, "// Examples:\n"]);
        }
        for example in examples.iter().filter_map(Value::as_str) {
            self.push(&[indent, "// - \"", example, "\"\n"]);
        }
    }

    /// The comments above a property that is a `oneOf`; returns whether a description was written,
    /// which is not done where the first variant says the same.
    fn union_comments(&mut self, schema: &Value, variants: &[Value], indent: &str) -> bool {
        let of_first = variants.first().and_then(|v| text_of(v, "description"));
        let description = text_of(schema, "description").filter(|text| Some(*text) != of_first);
        if let Some(text) = description {
            self.push(&[indent, "// ", text, "\n"]);
        }
        if let Some(default) = default_comment(schema) {
            self.push(&[indent, "// ", &default, "\n"]);
        }
        description.is_some()
    }

    fn union_lines(
        &mut self,
        schema: &Value,
        variants: &[Value],
        is_described: bool,
        indent: &str,
    ) {
        for (at, variant) in variants.iter().enumerate() {
            self.push(&[indent, " | "]);
            self.nullable_type(variant, &format!("{indent}   "));
            let description = text_of(variant, "description")
                .filter(|text| Some(*text) != text_of(schema, "description"))
                .filter(|_| at > 0 || !is_described);
            self.comment_behind(description, default_comment(variant));
            self.push(&["\n"]);
        }
        self.push(&[indent, ",\n"]);
    }
}
