//! The whole configuration: one struct for each room, filled from every source there is.
//!
//! Defaults < profile < `config.toml` < `.env` < the environment < flags, each key for itself. What can be set is one table
//! (`keys.rs`); what the sources say is looked up in it (`names.rs`, `sources.rs`, `profile.rs`), read by kind (`values.rs`,
//! `checks.rs`), held against the rules between keys and fitted to the machine (`fit.rs`), and printed with the
//! origin of each value (`report.rs`). Nothing stops at the first problem: all are told together.
//!
//! The environment, the directory and a look at the machine are arguments; only the command line asks the process for
//! them. The look is a function: which root it is taken below is a key itself (`pressure.cgroup_root`).

mod checks;
mod fit;
mod keys;
mod names;
mod origin;
mod problem;
mod profile;
mod report;
mod sources;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::limits::{Limits, Look, Root};
use crate::{doctor, http, memory, pool, pressure, tasks};

pub use checks::{SIZE_BYTES_MAX, SLAB_SIZES_MAX};
pub use keys::{KEYS, Key};
pub use origin::Origin;
pub use problem::{Problem, Problems};
pub use profile::{ClassProfile, PROFILES, Profile};
pub use sources::{Flag, Sources};
pub use values::hide_credentials;

use keys::Access;
use names::Of;
use sources::{Findings, Setting};

/// What can be set, room by room. Every value is right by itself and fits to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The profile that all else began with. Default: none.
    pub profile: Option<&'static str>,
    /// The HTTP server.
    pub server: http::Config,
    /// Threads that serve requests. Default: 0, which is one for each CPU.
    pub worker_threads: u32,
    /// The memory below the pool.
    pub memory: memory::Config,
    /// The pool.
    pub pool: pool::Config,
    /// How full memory is, and what is done about it.
    pub pressure: pressure::Config,
    /// The look for leaks.
    pub leaks: tasks::LeaksConfig,
    /// The backend that is probed and pushed to.
    pub backend: tasks::BackendConfig,
    /// The Pushgateway.
    pub prometheus: tasks::PrometheusConfig,
}

impl Config {
    /// The directory that the machine is read below.
    pub fn system_root(&self) -> Root {
        self.pressure.cgroup_root.as_ref().map_or_else(Root::default, Root::new)
    }

    /// What the doctor looks at of it.
    pub fn examined(&self) -> doctor::Settings {
        doctor::Settings {
            host: self.server.host.clone(),
            max_connections: self.server.max_connections,
            pool_bytes: self.memory.max_pool_size,
            inflight_bytes: self.pool.max_inflight_bytes,
            guard_pages: self.memory.guard_pages,
            huge_pages: self.memory.huge_pages.slab_multiple_bytes().is_some(),
        }
    }
}

/// A configuration, and how it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// What works but is not what was asked for, or will not go well; one sentence each.
    pub warnings: Vec<String>,
    /// The TOML file that was read, as the user would name it.
    pub file: Option<PathBuf>,
    /// The limits of the machine that the configuration was fitted to.
    pub limits: Limits,
    /// Where each key was set, by dotted name; the others have their defaults.
    origins: BTreeMap<String, Origin>,
    /// What the report adds to a key, by dotted name: how a value came out of the machine's limits.
    notes: BTreeMap<String, String>,
}

/// Reads every source, and fits the result to the machine, at which `look` takes a look below the root that they name.
///
/// # Errors
/// Everything that is wrong in any source.
pub fn load(sources: &Sources, look: impl FnOnce(&Root) -> Look) -> Result<Loaded, Problems> {
    settle(Findings::read(sources), look)
}

/// Reads one file alone, on top of the defaults. It is fitted to no machine but that which `look` tells of.
///
/// # Errors
/// Everything that is wrong in it.
pub fn check_file(path: &Path, look: impl FnOnce(&Root) -> Look) -> Result<Loaded, Problems> {
    let mut findings = Findings::default();
    findings.read_file(path, path, true);
    settle(findings, look)
}

/// What the profile of this name sets, by itself and on no machine in particular.
///
/// # Errors
/// Where there is no such profile.
pub fn profile_report(name: &str) -> Result<String, Problems> {
    /// In a section the dotted keys would be that section's.
    const WHERE: &str =
        "# In config.toml these lines stand above the first [section], in place of the same keys below.\n";
    let mut findings = Findings::default();
    findings.read_flags(&[Flag {
        flag: "--profile".to_owned(),
        key: profile::KEY.to_owned(),
        value: name.to_owned(),
    }]);
    let loaded = settle(findings, |_| Look::default())?;
    let purpose = loaded.config.profile.and_then(Profile::named).map_or_else(
        || "# No profile: nothing is set.\n".to_owned(),
        |profile| format!("# {}: {}\n{WHERE}", profile.name, profile.purpose),
    );
    let is_its_own = |origin: &Origin| matches!(origin, Origin::Profile(_));
    Ok(purpose + &report::table(&loaded, is_its_own))
}

impl Loaded {
    /// Where the value of the key with this dotted name comes from.
    pub fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }

    /// Every key, its value and its origin as a table that is valid TOML, credentials hidden.
    pub fn report(&self) -> String {
        report::table(self, |_| true)
    }
}

/// A configuration on its way: values so far, and what went wrong.
#[derive(Default)]
struct Draft {
    config: Config,
    pool_size: PoolSize,
    origins: BTreeMap<String, Origin>,
    /// Keys some source of which was wrong. A rule that looks at one of them would blame the others for it.
    wrong: BTreeSet<String>,
    problems: Vec<Problem>,
}

/// How the size of the pool was asked for; the machine decides what becomes of it.
#[derive(Clone, Copy, Default)]
enum PoolSize {
    #[default]
    Unset,
    Auto,
    Bytes(u64),
}

impl Draft {
    fn apply(&mut self, Setting { name, raw, origin }: Setting) {
        let dotted = name.dotted();
        let outcome = match (&name.key.access, name.of) {
            (Access::Single { set, .. }, _) => set(self, &raw),
            (Access::Class { set, .. }, Of::Class(size)) => {
                set(self.config.memory.classes.entry(size).or_default(), &raw)
            }
            (Access::Tag { set, .. }, Of::Tag(tag)) => {
                set(&raw).map(|bytes| _ = self.config.pool.budgets.insert(tag, bytes))
            }
            (Access::Class { .. } | Access::Tag { .. }, _) => {
                Err("expected the size of a class, or a tag, in the name".to_owned())
            }
        };
        match outcome {
            Ok(()) => {
                self.origins.insert(dotted, origin);
            }
            Err(what) => {
                self.wrong.insert(dotted.clone());
                self.problems.push(Problem { key: dotted, value: Some(raw.to_string()), origin, what });
            }
        }
    }

    /// Adds a problem of the key `name` with others. It is told at the key's own origin.
    fn blame(&mut self, name: &str, value: Option<String>, what: String) {
        let origin = self.origins.get(name).cloned().unwrap_or(Origin::Default);
        self.problems.push(Problem { key: name.to_owned(), value, origin, what });
    }
}

/// Applies what was found to the defaults, weakest first, and judges the whole.
fn settle(findings: Findings, look: impl FnOnce(&Root) -> Look) -> Result<Loaded, Problems> {
    let mut draft = Draft { problems: findings.problems, ..Draft::default() };
    let profile = Profile::chosen_by(&findings.settings);
    let weakest = profile.map(Profile::settings).unwrap_or_default();
    weakest.into_iter().chain(findings.settings).for_each(|setting| draft.apply(setting));
    fit::profile_to_the_classes(&mut draft);
    let Look { below, limits } = look(&draft.config.system_root());
    let mut fitted = fit::to_the_machine(&mut draft, &limits);
    fit::root_to_the_machine(&mut draft, below, &mut fitted);
    if let Some(profile) = profile {
        fit::budgets_to_the_pool(&mut draft, profile, &mut fitted);
    }
    fit::keys_to_each_other(&mut draft);
    if !draft.problems.is_empty() {
        return Err(Problems(draft.problems));
    }
    let Draft { config, origins, .. } = draft;
    let fit::Fitted { mut warnings, notes } = fitted;
    warnings.extend(fit::doubts(&config));
    Ok(Loaded { config, warnings, file: findings.file, limits, origins, notes })
}
