//! Reads the fields of a JSON object one by one, and knows where it is.
//!
//! Every error names the field as a path (`messages[2].content`). `null` means absent, as in OpenAI's API: SDKs send it.
//! Invariant: a field that nobody took is an error ([`Fields::finish`]); nothing is ignored.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{ApiError, ErrorCode};

/// An object being read.
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// Starts to read `value`, which stands at `path` (empty for the body).
    pub fn new(value: Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other if path.is_empty() => Err(ApiError::new(
                ErrorCode::InvalidType,
                format!("The body must be an object, not {}.", type_name(&other)),
            )),
            other => Err(wrong_type(&path, "an object", &other)),
        }
    }

    /// The path of field `name`.
    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Takes a field; `None` if it is absent or null.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        // `swap_remove` would disturb the order of what is left, by which the first unknown field is named.
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Takes a string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&self.path_of(name), "a string", &other)),
        }
    }

    /// Takes a string that must be there.
    pub fn required_string(&mut self, name: &str) -> Result<String, ApiError> {
        self.string(name)?.ok_or_else(|| self.missing(name))
    }

    /// Takes a boolean.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path_of(name), "a boolean", &other)),
        }
    }

    /// Takes a boolean of which only one value is implemented.
    pub fn only_boolean(&mut self, name: &str, only: bool) -> Result<(), ApiError> {
        match self.boolean(name)? {
            Some(value) if value != only => Err(self.unsupported_value(name, &value.to_string())),
            _ => Ok(()),
        }
    }

    /// Takes a word of which only some values are implemented; `others` are those that the API has besides.
    pub fn word(
        &mut self,
        name: &str,
        implemented: &[&str],
        others: &[&str],
    ) -> Result<Option<String>, ApiError> {
        match self.string(name)? {
            Some(text) if implemented.contains(&text.as_str()) => Ok(Some(text)),
            Some(text) if others.contains(&text.as_str()) => {
                Err(self.unsupported_value(name, &quote(&text)))
            }
            Some(text) => Err(self.invalid(
                name,
                format!("must be {}, not {}", one_of(implemented), quote(&text)),
            )),
            None => Ok(None),
        }
    }

    /// Takes a string of at most this many characters.
    pub fn short_string(&mut self, name: &str, max: usize) -> Result<Option<String>, ApiError> {
        let text = self.string(name)?;
        if let Some(text) = &text {
            check_length(text, &self.path_of(name), max)?;
        }
        Ok(text)
    }

    /// Takes an integer.
    pub fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => integer(&value, &self.path_of(name), range).map(Some),
        }
    }

    /// Takes a number.
    pub fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => number(&value, &self.path_of(name), range).map(Some),
        }
    }

    /// Takes an array.
    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(&self.path_of(name), "an array", &other)),
        }
    }

    /// Takes an object.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let path = self.path_of(name);
        self.take(name)
            .map(|value| Fields::new(value, path))
            .transpose()
    }

    /// Ends the reading: whatever is left is an error, unless it is null. `unsupported` lists fields of the API that
    /// are not implemented here.
    pub fn finish(self, unsupported: &[&str]) -> Result<(), ApiError> {
        let Some((name, _)) = self.map.iter().find(|(_, value)| !value.is_null()) else {
            return Ok(());
        };
        let path = shorten(&self.path_of(name));
        if unsupported.contains(&name.as_str()) {
            Err(ApiError::field(
                ErrorCode::UnsupportedParameter,
                path.clone(),
                format!("'{path}' is not supported by this server yet."),
            ))
        } else {
            Err(ApiError::field(
                ErrorCode::UnknownParameter,
                path.clone(),
                format!("Unrecognized request argument supplied: {path}"),
            ))
        }
    }

    /// The error for a required field that is absent.
    pub fn missing(&self, name: &str) -> ApiError {
        let path = self.path_of(name);
        ApiError::field(
            ErrorCode::MissingParameter,
            path.clone(),
            format!("Missing required parameter: '{path}'."),
        )
    }

    /// The error for an impossible value: "'path' `complaint`."
    pub fn invalid(&self, name: &str, complaint: impl std::fmt::Display) -> ApiError {
        invalid(&self.path_of(name), complaint)
    }

    /// The error for a value that is not implemented here.
    pub fn unsupported_value(&self, name: &str, shown: &str) -> ApiError {
        unsupported_value(&self.path_of(name), shown)
    }
}

/// Reads an integer that stands at `path`.
pub(crate) fn integer(
    value: &Value,
    path: &str,
    range: RangeInclusive<i64>,
) -> Result<i64, ApiError> {
    // Above i64::MAX and still an integer: out of range, not of the wrong type.
    let number = match (value.as_i64(), value.as_u64()) {
        (Some(number), _) => number,
        (None, Some(_)) => i64::MAX,
        (None, None) => return Err(wrong_type(path, "an integer", value)),
    };
    let (min, max) = (*range.start(), *range.end());
    if number < min {
        Err(ApiError::field(
            ErrorCode::IntegerBelowMin,
            path,
            format!("'{path}' must be at least {min}, not {value}."),
        ))
    } else if number > max || value.as_i64().is_none() {
        Err(ApiError::field(
            ErrorCode::IntegerAboveMax,
            path,
            format!("'{path}' must be at most {max}, not {value}."),
        ))
    } else {
        Ok(number)
    }
}

/// Reads a number that stands at `path`.
pub(crate) fn number(
    value: &Value,
    path: &str,
    range: RangeInclusive<f64>,
) -> Result<f64, ApiError> {
    let Some(number) = value.as_f64() else {
        return Err(wrong_type(path, "a number", value));
    };
    let (min, max) = (*range.start(), *range.end());
    if number < min {
        Err(ApiError::field(
            ErrorCode::DecimalBelowMin,
            path,
            format!("'{path}' must be at least {min}, not {value}."),
        ))
    } else if number > max {
        Err(ApiError::field(
            ErrorCode::DecimalAboveMax,
            path,
            format!("'{path}' must be at most {max}, not {value}."),
        ))
    } else {
        Ok(number)
    }
}

/// The error for a value of the wrong JSON type.
pub(crate) fn wrong_type(path: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::field(
        ErrorCode::InvalidType,
        path,
        format!("'{path}' must be {expected}, not {}.", type_name(found)),
    )
}

/// The error for an impossible value: "'path' `complaint`."
pub(crate) fn invalid(path: &str, complaint: impl std::fmt::Display) -> ApiError {
    ApiError::field(
        ErrorCode::InvalidValue,
        path,
        format!("'{path}' {complaint}."),
    )
}

/// The error for a value that is not implemented here.
pub(crate) fn unsupported_value(path: &str, shown: &str) -> ApiError {
    ApiError::field(
        ErrorCode::UnsupportedValue,
        path,
        format!("The value {shown} of '{path}' is not supported by this server yet."),
    )
}

/// Checks a string's length, in characters.
pub(crate) fn check_length(text: &str, path: &str, max: usize) -> Result<(), ApiError> {
    match text.chars().count() {
        len if len > max => Err(ApiError::field(
            ErrorCode::StringAboveMaxLength,
            path,
            format!("'{path}' may have at most {max} characters, not {len}."),
        )),
        _ => Ok(()),
    }
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.as_slice() {
        [only] => only.clone(),
        several => format!("one of {}", several.join(", ")),
    }
}

/// A client's text in an error message: quoted and not longer than a line.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", shorten(text))
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
