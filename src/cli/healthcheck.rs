//! `maas healthcheck`: asks a running server whether it is up, for orchestrators whose images have no curl.

use std::io;
use std::process::ExitCode;

use super::{Settings, ask, say};
use crate::config::Problems;

/// Asks once. Whatever keeps the answer from being 200, a wrong configuration too, is one line and exit code 1:
/// an orchestrator knows no other.
pub(super) fn run(settings: Settings, url: Option<String>) -> ExitCode {
    match check(settings, url) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(io::stderr(), &format!("maas healthcheck: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

fn check(settings: Settings, url: Option<String>) -> Result<(), String> {
    let url = match url {
        Some(url) => url,
        None => {
            let loaded = settings.load().map_err(|problems| first_of(&problems))?;
            format!("{}/health", ask::address_of(&loaded.config.server)?)
        }
    };
    match ask::get(&url)?.status {
        reqwest::StatusCode::OK => Ok(()),
        status => Err(format!("the server answered {status}")),
    }
}

/// A wrong configuration in one line.
fn first_of(problems: &Problems) -> String {
    let first = problems.0.first().map(ToString::to_string).unwrap_or_default();
    match problems.0.len() {
        0 | 1 => format!("wrong configuration: {first}"),
        count => format!("wrong configuration, {count} problems, the first: {first}"),
    }
}
