//! The doctor: facts about a machine, a configuration and a service go in, and what is wrong comes out, in plain words, each
//! with what to do about it.
//!
//! ```text
//!   facts.rs    what is known: of the machine, of what was configured, of a service that runs
//!   machine.rs  what the machine and the configuration alone tell
//!   usage.rs    how full memory is, whose it is, and how it is used
//!   service.rs  refusals, peers, clients and clocks
//! ```
//!
//! A rule is a function of the facts. One that lacks a fact did not run, and is not among those that were checked.

mod facts;
mod machine;
mod service;
mod usage;

pub use facts::{Arenas, Facts, LeakFacts, Machine, Peer, Service, Settings, TagUse};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// It may become a problem, or costs something.
    Warning,
    /// Something does not work, or is about to stop.
    Problem,
}

impl Severity {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check that found it.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is: one sentence, with the numbers.
    pub summary: String,
    /// What to do: one sentence, or a command.
    pub fix: String,
}

/// What became of an examination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Every check that ran.
    pub checked: Vec<&'static str>,
}

impl Diagnosis {
    /// `ok`, `warnings` or `problems`: the worst there is; what is only good to know is ok.
    pub fn status(&self) -> &'static str {
        match self.findings.first().map(|finding| finding.severity) {
            Some(Severity::Problem) => "problems",
            Some(Severity::Warning) => "warnings",
            Some(Severity::Info) | None => "ok",
        }
    }
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It lacks a fact.
    Unknown,
    Fine,
    Found(Severity, String, String),
}

/// A finding, of a rule.
fn found(severity: Severity, summary: String, fix: impl Into<String>) -> Outcome {
    Outcome::Found(severity, summary, fix.into())
}

/// A rule and the code of what it finds.
type Check = (&'static str, fn(&Facts) -> Outcome);

/// Examines: every rule, in the order of its table.
pub fn examine(facts: &Facts) -> Diagnosis {
    let mut diagnosis = Diagnosis { findings: Vec::new(), checked: Vec::new() };
    for (code, check) in [machine::CHECKS, usage::CHECKS, service::CHECKS].into_iter().flatten() {
        let outcome = check(facts);
        if outcome != Outcome::Unknown {
            diagnosis.checked.push(*code);
        }
        if let Outcome::Found(severity, summary, fix) = outcome {
            diagnosis.findings.push(Finding { code, severity, summary, fix });
        }
    }
    diagnosis.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity)); // stable
    diagnosis
}

/// `37 %`, of a ratio.
fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

/// `1 slab`, `2 slabs`.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Bytes in the unit in which they are read best.
fn bytes(bytes: u64) -> String {
    crate::units::ByteCount(bytes).in_binary_unit().unwrap_or_else(|| format!("{bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_service_without_a_fault_is_ok_and_every_check_ran() {
        let diagnosis = examine(&Facts::healthy());
        assert_eq!((diagnosis.findings.as_slice(), diagnosis.status()), (&[][..], "ok"));
        let all: usize =
            [machine::CHECKS, usage::CHECKS, service::CHECKS].iter().map(|part| part.len()).sum();
        assert_eq!(diagnosis.checked.len(), all);
        let distinct: BTreeSet<&str> = diagnosis.checked.iter().copied().collect();
        assert_eq!(distinct.len(), all, "no two checks share a code");
        let is_kebab = |code: &&str| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(distinct.iter().all(is_kebab));
    }

    #[test]
    fn every_check_is_documented() {
        let page = include_str!("../docs/doctor.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let documented: Vec<&str> =
            rows.map(|(code, _)| code).filter(|code| *code != "not-running").collect();
        assert_eq!(documented, examine(&Facts::healthy()).checked);
    }

    #[test]
    fn without_a_service_only_the_machine_and_the_configuration_are_checked() {
        let diagnosis = examine(&Facts { service: None, ..Facts::healthy() });
        let of_machine: Vec<&str> = machine::CHECKS.iter().map(|(code, _)| *code).collect();
        assert_eq!(diagnosis.checked, of_machine);
        let nothing = Facts { service: None, machine: Machine::default(), ..Facts::healthy() };
        assert!(examine(&nothing).checked.len() < of_machine.len(), "what is not known is not checked");
    }

    #[test]
    fn the_worst_comes_first_and_says_how_it_is_with_all() {
        let mut facts = Facts::healthy();
        facts.machine.system.swap_bytes = Some(1 << 30);
        assert_eq!(examine(&facts).status(), "ok", "good to know is no fault");
        facts.settings.pool_bytes = 7 << 30;
        assert_eq!(examine(&facts).status(), "warnings");
        facts.service.as_mut().expect("there is one").guard_violations = 1;
        let diagnosis = examine(&facts);
        assert_eq!(diagnosis.status(), "problems");
        let codes: Vec<&str> = diagnosis.findings.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["damaged-slabs", "memory-limit", "swap"]);
        for finding in &diagnosis.findings {
            assert!(finding.summary.ends_with('.') && finding.fix.ends_with('.'), "{finding:?}");
        }
    }
}
