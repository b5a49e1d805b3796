//! `maas config --check FILE`: checks one file alone, whatever else is set on this machine.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::{refuse, say};
use crate::config;

/// Prints that the file is right, or everything that is wrong with it.
pub(super) fn run(file: &Path) -> ExitCode {
    match config::check_file(file) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                say(io::stderr(), &format!("maas: warning: {warning}\n"));
            }
            say(io::stdout(), &format!("{}: ok\n", file.display()));
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(&problems),
    }
}
