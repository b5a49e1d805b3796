//! `maas config`: prints the configuration in effect, and where each value comes from; or what one profile sets.

use std::io;
use std::process::ExitCode;

use super::{Settings, refuse, say};
use crate::config;

/// Prints the table; warnings go to standard error, so that the table alone can be kept.
pub(super) fn run(settings: Settings) -> ExitCode {
    match settings.load() {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                say(io::stderr(), &format!("maas: warning: {warning}\n"));
            }
            say(io::stdout(), &loaded.report());
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(&problems),
    }
}

/// Prints what the profile of this name sets.
pub(super) fn profile(name: &str) -> ExitCode {
    match config::profile_report(name) {
        Ok(report) => {
            say(io::stdout(), &report);
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(&problems),
    }
}
