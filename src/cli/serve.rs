//! `maas serve`: loads the configuration and starts the service.

use std::process::ExitCode;

use tracing::{error, warn};

use super::{Settings, WRONG_CONFIGURATION, logs, refuse};

/// Runs until the service has ended.
pub(super) fn run(settings: Settings) -> ExitCode {
    let is_json = logs::start();
    match settings.load() {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
            crate::app::serve(loaded)
        }
        // Whoever reads objects from standard error reads why there will be no more of them.
        Err(problems) if is_json => {
            problems.0.iter().for_each(|problem| error!(key = problem.key, "wrong configuration: {problem}"));
            ExitCode::from(WRONG_CONFIGURATION)
        }
        Err(problems) => refuse(&problems),
    }
}
