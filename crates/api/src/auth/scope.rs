//! What a credential may do: a small closed set of scopes, one per kind of route.
//!
//! Knows names, not routes: which route needs which scope stands in the table of `routes`.
//! Invariant: a [`Scopes`] holds nothing but scopes of [`Scope::ALL`].

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! scope_table {
    ($($(#[doc = $doc:literal])* $variant:ident = $bit:literal, $name:literal;)*) => {
        /// Permission for one kind of route.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Scope { $($(#[doc = $doc])* $variant = 1 << $bit,)* }

        impl Scope {
            /// Every scope.
            pub const ALL: &[Scope] = &[$(Scope::$variant,)*];

            /// The name, as in key files, tokens and errors.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

scope_table! {
    /// Everything that runs the model or its tokenizer.
    Inference = 0, "inference";
    /// The list of models.
    Models = 1, "models";
    /// What is loaded, how busy it is, whether it is ready.
    Status = 2, "status";
    /// The metrics for Prometheus.
    Metrics = 3, "metrics";
    /// The OpenAPI document and its page.
    Docs = 4, "docs";
}

impl Scope {
    /// The scope of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == name)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

/// A name that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope \"{given}\"; the scopes are {}", Scopes::ALL)]
pub struct UnknownScope {
    given: String,
}

impl Scopes {
    /// No scope.
    pub const NONE: Self = Self(0);
    /// Every scope.
    pub const ALL: Self = Self(0b1_1111);

    /// The set of these scopes.
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |set, scope| set | *scope as u8))
    }

    /// The set of the scopes with these names.
    ///
    /// # Errors
    /// A name that is no scope.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownScope> {
        let mut set = Self::NONE;
        for name in names {
            let scope = Scope::parse(name).ok_or_else(|| UnknownScope {
                given: name.chars().take(64).collect(),
            })?;
            set.0 |= scope as u8;
        }
        Ok(set)
    }

    /// As [`Scopes::parse`], but names that are no scopes are left out: a token also carries scopes for other services.
    pub fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let scopes: Vec<Scope> = names.into_iter().filter_map(Scope::parse).collect();
        Self::of(&scopes)
    }

    /// Whether the scope is in the set.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }

    /// The names, in the order of the table.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Scope::ALL
            .iter()
            .filter(move |scope| self.has(**scope))
            .map(|scope| scope.as_str())
    }
}

/// The names with commas: `inference, models`.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Self::parse(names.iter().map(String::as_str)).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_scope_and_every_name_reads_back() {
        assert_eq!(Scopes::of(Scope::ALL), Scopes::ALL);
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(*scope));
            assert!(Scopes::of(&[*scope]).has(*scope));
            assert_eq!(Scopes::of(&[*scope]).names().count(), 1);
        }
    }

    #[test]
    fn unknown_names_are_refused_in_files_and_left_out_of_tokens() {
        let error = Scopes::parse(["models", "admin"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no scope \"admin\"; the scopes are inference, models, status, metrics, docs"
        );
        let scopes = Scopes::known(["openid", "metrics", "Models", ""]);
        assert_eq!(scopes, Scopes::of(&[Scope::Metrics]));
    }
}
