//! What can be set about pressure.

use super::Watermarks;
use std::path::PathBuf;
use std::time::Duration;

/// Configuration of levels and of the monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From which fullness on a level begins.
    pub watermarks: Watermarks,
    /// Between two looks of the monitor, each of which makes a forecast and an event. Default: 5 s.
    pub interval: Duration,
    /// Time that the monitor leaves between two reclaims, unless more must be done than last time. Default: 10 s.
    pub cooldown: Duration,
    /// Whether stalls for lack of memory (PSI) raise the level by one step. Default: true.
    pub psi: bool,
    /// The directory that stands for `/` when control groups and PSI are read. Default: none, which is `/`.
    pub cgroup_root: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            watermarks: Watermarks::default(),
            interval: Duration::from_secs(5),
            cooldown: Duration::from_secs(10),
            psi: true,
            cgroup_root: None,
        }
    }
}
