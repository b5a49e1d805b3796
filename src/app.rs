//! The composition root. TEMPORARY: it tells what would be started; the rooms are not wired yet.

use std::process::ExitCode;

use crate::config::Loaded;
use crate::units::ByteCount;

/// Starts the service that `loaded` describes, and returns when it has ended.
pub fn serve(loaded: Loaded) -> ExitCode {
    let config = &loaded.config;
    let pool = ByteCount(config.memory.max_pool_size);
    tracing::info!(host = config.server.host, port = config.server.port, %pool, "configuration loaded");
    ExitCode::SUCCESS
}
