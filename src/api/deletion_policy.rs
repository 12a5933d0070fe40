use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of mail on disk that nobody has any more.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeletionPolicy {
    /// It stays where it is.
    #[default]
    Retain,
    /// It is moved below `.archive/`.
    Archive,
    /// It is moved below `.trash/`, and erased from there some days later.
    Delete,
}

impl fmt::Display for DeletionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retain => "Retain",
            Self::Archive => "Archive",
            Self::Delete => "Delete",
        })
    }
}

impl FromStr for DeletionPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Retain, Self::Archive, Self::Delete]
            .into_iter()
            .find(|policy| policy.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of Retain, Archive, Delete"))
    }
}
