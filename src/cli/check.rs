//! `maas config --check FILE`: checks one file alone, whatever else is set on this machine.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::{refuse, say};
use crate::config;
use crate::limits::{Below, Limits, Look, Root};

/// Prints that the file is right, or everything that is wrong with it.
pub(super) fn run(file: &Path) -> ExitCode {
    // The file may be for a smaller machine: only what it says of this one is looked at.
    let look = |root: &Root| Look { below: Below::look(root), limits: Limits::default() };
    match config::check_file(file, look) {
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
