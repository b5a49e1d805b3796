//! Where a value comes from, said the way a user would look for it.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is what the program does by itself.
    Default,
    /// In the profile of this name.
    Profile(&'static str),
    /// In a TOML file, named as the user named it.
    File(PathBuf),
    /// In `.env`, under this name; an empty name is the file as a whole.
    DotEnv(String),
    /// In the environment variable of this name.
    Environment(String),
    /// In this flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::Profile(name) => write!(out, "profile {name}"),
            Origin::File(path) => write!(out, "{}", path.display()),
            Origin::DotEnv(name) if name.is_empty() => out.write_str(".env"),
            Origin::DotEnv(name) => write!(out, ".env {name}"),
            Origin::Environment(name) => write!(out, "environment {name}"),
            Origin::Flag(flag) => out.write_str(flag),
        }
    }
}
