//! What is wrong with a configuration: every problem found, each with its key, its source and what would be right.

use std::fmt;

use super::origin::Origin;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, `server.port`; empty where a whole source could not be read.
    pub key: String,
    /// The value as it was written, where there is one; credentials are hidden.
    pub value: Option<String>,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

/// `server.port = 70000 (config.toml): expected a whole number from 0 to 65535`
impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, &self.value) {
            (key, _) if key.is_empty() => write!(out, "{}: {}", self.origin, self.what),
            (key, None) => write!(out, "{key} ({}): {}", self.origin, self.what),
            (key, Some(value)) => write!(out, "{key} = {value} ({}): {}", self.origin, self.what),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => out.write_str("the configuration has a problem:")?,
            count => write!(out, "the configuration has {count} problems:")?,
        }
        self.0.iter().try_for_each(|problem| write!(out, "\n  {problem}"))
    }
}
