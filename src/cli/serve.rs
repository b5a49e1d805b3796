//! `maas serve`: loads the configuration and starts the service.

use std::process::ExitCode;

use tracing::warn;

use super::{Settings, logs, refuse};

/// Runs until the service has ended.
pub(super) fn run(settings: Settings) -> ExitCode {
    logs::start();
    match settings.load() {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
            crate::app::serve(loaded)
        }
        Err(problems) => refuse(&problems),
    }
}
