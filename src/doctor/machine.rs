//! What the machine and the configuration alone tell, also before a service runs.

use super::{Check, Facts, Outcome, Severity, bytes, found};
use crate::limits::{HugePagePolicy, Overcommit};
use std::net::IpAddr;

pub(super) const CHECKS: &[Check] = &[
    ("memory-limit", memory_limit),
    ("overcommit", overcommit),
    ("swap", swap),
    ("huge-pages", huge_pages),
    ("open-files", open_files),
    ("mappings", mappings),
    ("exposed", exposed),
];

/// Files that are kept back from connections, as the configuration does it.
const RESERVED_FILES: u64 = 128;
/// Mappings that guard pages may take where the kernel has no markers for them: two for each of 16,384.
const GUARD_MAPPINGS: u64 = 32_768;
/// What everything else takes at most, with room to spare.
const OTHER_MAPPINGS: u64 = 4_096;

fn memory_limit(facts: &Facts) -> Outcome {
    let Some(limit) = &facts.machine.limits.memory else { return Outcome::Unknown };
    let (pool, inflight) = (facts.settings.pool_bytes, facts.settings.inflight_bytes);
    let records = facts.service.as_ref().map_or(0, |service| service.metadata_bytes_max);
    let whole = pool.saturating_add(inflight).saturating_add(records);
    let fix = format!(
        "Set memory.max_pool_size to \"auto\" (75 % of the limit, {}), or raise the limit.",
        bytes(limit.bytes / 4 * 3)
    );
    let limit_is = format!("the memory limit above the service is {} ({})", bytes(limit.bytes), limit.source);
    if whole > limit.bytes {
        let parts =
            format!("pool {}, bytes in flight {}, records {}", bytes(pool), bytes(inflight), bytes(records));
        let severity = if pool > limit.bytes { Severity::Problem } else { Severity::Warning };
        let summary = format!(
            "The service may come to {} ({parts}), but {limit_is}: the system may end it before the pool is full.",
            bytes(whole)
        );
        return found(severity, summary, fix);
    }
    if pool > limit.bytes / 4 * 3 {
        let summary = format!("The pool of {} is more than 75 % of what there is: {limit_is}.", bytes(pool));
        return found(Severity::Warning, summary, fix);
    }
    Outcome::Fine
}

fn overcommit(facts: &Facts) -> Outcome {
    match facts.machine.system.overcommit {
        None => Outcome::Unknown,
        Some(Overcommit::Heuristic | Overcommit::Always) => Outcome::Fine,
        Some(Overcommit::Never { limit_bytes, granted_bytes }) => {
            let left = limit_bytes.saturating_sub(granted_bytes);
            // What a running service has is granted already: how much of the pool that is cannot be told.
            let is_short = facts.service.is_none() && facts.settings.pool_bytes > left;
            let summary = format!(
                "vm.overcommit_memory is 2: the system grants {} in all, of which {} are left, and refuses pages beyond that \
                 (507 system-memory) although the pool of {} has room.",
                bytes(limit_bytes),
                bytes(left),
                bytes(facts.settings.pool_bytes)
            );
            let severity = if is_short { Severity::Problem } else { Severity::Warning };
            found(severity, summary, "Run \"sysctl vm.overcommit_memory=0\", or raise vm.overcommit_ratio.")
        }
    }
}

fn swap(facts: &Facts) -> Outcome {
    let system = &facts.machine.system;
    let Some(swap_bytes) = system.swap_bytes else { return Outcome::Unknown };
    let fix = "Run \"swapoff -a\", or give the service a group without swap (memory.swap.max=0).";
    match system.swapped_bytes.filter(|_| facts.service.is_some()) {
        Some(swapped) if swapped > 0 => {
            let summary =
                format!("{} of the service were swapped out: reading them waits for a disk.", bytes(swapped));
            found(Severity::Warning, summary, fix)
        }
        _ if swap_bytes > 0 => {
            let summary = format!(
                "{} of swap are on: blocks may be swapped out, and wait for a disk then.",
                bytes(swap_bytes)
            );
            found(Severity::Info, summary, fix)
        }
        _ => Outcome::Fine,
    }
}

fn huge_pages(facts: &Facts) -> Outcome {
    match facts.machine.system.huge_pages {
        None => Outcome::Unknown,
        Some(HugePagePolicy::Never) if facts.settings.huge_pages => found(
            Severity::Warning,
            "memory.huge_pages asks for huge pages, but the system makes none (transparent_hugepage is never).".to_owned(),
            "Run \"echo madvise > /sys/kernel/mm/transparent_hugepage/enabled\", or set memory.huge_pages to \"off\".",
        ),
        Some(HugePagePolicy::Always) if !facts.settings.huge_pages => found(
            Severity::Info,
            "Transparent huge pages are always on: blocks are exempt, but records about them become resident 2 MiB at a time."
                .to_owned(),
            "Run \"echo madvise > /sys/kernel/mm/transparent_hugepage/enabled\".",
        ),
        Some(_) => Outcome::Fine,
    }
}

fn open_files(facts: &Facts) -> Outcome {
    let Some(files) = facts.machine.limits.open_files else { return Outcome::Unknown };
    let connections = facts.settings.max_connections;
    if u64::from(connections) + RESERVED_FILES < files {
        return Outcome::Fine;
    }
    let summary =
        format!("{files} files may be open, which is what bounds connections: {connections} at once.");
    let fix = "Raise the hard limit (\"ulimit -Hn\", or LimitNOFILE= of systemd) and server.max_connections with it.";
    found(Severity::Warning, summary, fix)
}

fn mappings(facts: &Facts) -> Outcome {
    let system = &facts.machine.system;
    let Some(most) = system.mappings_max else { return Outcome::Unknown };
    let fix = "Run \"sysctl vm.max_map_count=262144\".";
    if let Some(has) = system.mappings.filter(|has| facts.service.is_some() && *has >= most / 5 * 4) {
        let summary =
            format!("The service has {has} of {most} mappings: beyond them the system refuses memory.");
        return found(Severity::Problem, summary, fix);
    }
    let needed = OTHER_MAPPINGS + if facts.settings.guard_pages { GUARD_MAPPINGS } else { 0 };
    if most < needed {
        let why = if facts.settings.guard_pages { ", most of them for guard pages" } else { "" };
        let summary = format!("A process may have {most} mappings, and the service may need {needed}{why}.");
        return found(Severity::Warning, summary, fix);
    }
    Outcome::Fine
}

fn exposed(facts: &Facts) -> Outcome {
    let host = &facts.settings.host;
    let is_local = host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback());
    if is_local {
        return Outcome::Fine;
    }
    let summary = format!(
        "The service listens on {host} and asks nobody who they are: who reaches it may read and free."
    );
    found(Severity::Info, summary, "Let a firewall or a network policy decide who reaches the port.")
}

#[cfg(test)]
mod tests {
    use super::super::Service;
    use super::*;

    /// What a rule says of facts that were healthy but for this.
    fn of(check: fn(&Facts) -> Outcome, change: impl FnOnce(&mut Facts)) -> Option<(Severity, String)> {
        let mut facts = Facts::healthy();
        change(&mut facts);
        match check(&facts) {
            Outcome::Found(severity, summary, fix) => Some((severity, format!("{summary} {fix}"))),
            Outcome::Fine => None,
            Outcome::Unknown => panic!("it knows enough"),
        }
    }

    fn severity(found: Option<(Severity, String)>) -> Option<Severity> {
        found.map(|(severity, _)| severity)
    }

    fn service(facts: &mut Facts) -> &mut Service {
        facts.service.as_mut().expect("there is one")
    }

    #[test]
    fn a_pool_beside_its_records_and_bodies_must_fit_under_the_limit() {
        assert_eq!(of(memory_limit, |facts| facts.settings.pool_bytes = 6 << 30), None);
        assert_eq!(
            severity(of(memory_limit, |facts| facts.settings.pool_bytes = (6 << 30) + 1)),
            Some(Severity::Warning)
        );
        let (severity_of, text) = of(memory_limit, |facts| {
            facts.settings.pool_bytes = 6 << 30;
            service(facts).metadata_bytes_max = 2 << 30;
        })
        .expect("it is too much");
        assert_eq!(severity_of, Severity::Warning);
        assert!(text.contains("may come to 8.06 GiB") && text.contains("8 GiB (RAM)"), "{text}");
        assert_eq!(
            severity(of(memory_limit, |facts| facts.settings.pool_bytes = 9 << 30)),
            Some(Severity::Problem)
        );
    }

    #[test]
    fn address_space_that_is_counted_is_told_with_what_is_left_of_it() {
        assert_eq!(of(overcommit, |facts| facts.machine.system.overcommit = Some(Overcommit::Always)), None);
        let never = Some(Overcommit::Never { limit_bytes: 4 << 30, granted_bytes: (7 << 30) / 2 });
        let (severity_of, text) =
            of(overcommit, |facts| facts.machine.system.overcommit = never).expect("it is");
        assert!(severity_of == Severity::Warning && text.contains("512 MiB are left"), "{text}");
        let before = of(overcommit, |facts| {
            facts.machine.system.overcommit = never;
            facts.service = None;
        });
        assert_eq!(severity(before), Some(Severity::Problem), "the pool cannot be had");
    }

    #[test]
    fn swap_is_good_to_know_until_something_of_us_is_in_it() {
        assert_eq!(of(swap, |_| ()), None);
        assert_eq!(
            severity(of(swap, |facts| facts.machine.system.swap_bytes = Some(1))),
            Some(Severity::Info)
        );
        let out = of(swap, |facts| facts.machine.system.swapped_bytes = Some(4 << 20));
        assert!(out.is_some_and(|(severity, text)| severity == Severity::Warning && text.contains("4 MiB")));
    }

    #[test]
    fn huge_pages_are_told_where_the_system_differs_from_what_is_asked_for() {
        let on = |policy, asked| {
            severity(of(huge_pages, |facts| {
                facts.machine.system.huge_pages = Some(policy);
                facts.settings.huge_pages = asked;
            }))
        };
        assert_eq!(on(HugePagePolicy::Always, false), Some(Severity::Info));
        assert_eq!(on(HugePagePolicy::Always, true), None);
        assert_eq!(on(HugePagePolicy::Advised, true), None);
        assert_eq!(on(HugePagePolicy::Never, true), Some(Severity::Warning));
        assert_eq!(on(HugePagePolicy::Never, false), None);
    }

    #[test]
    fn connections_that_the_limit_of_files_bounds_are_told() {
        let files = |files| of(open_files, |facts| facts.machine.limits.open_files = Some(files));
        assert_eq!(files(10_129), None);
        let (severity, text) = files(10_128).expect("the limit decides");
        assert!(severity == Severity::Warning && text.contains("10128") && text.contains("10000"), "{text}");
    }

    #[test]
    fn mappings_are_told_where_they_run_out_or_may() {
        let most = |most, guarded| {
            severity(of(mappings, |facts| {
                facts.machine.system.mappings_max = Some(most);
                facts.settings.guard_pages = guarded;
            }))
        };
        assert_eq!(most(4096, false), None);
        assert_eq!(most(4095, false), Some(Severity::Warning));
        assert_eq!(most(36_863, true), Some(Severity::Warning));
        assert_eq!(most(36_864, true), None);
        let has = |has| severity(of(mappings, |facts| facts.machine.system.mappings = Some(has)));
        assert_eq!((has(52_423), has(52_424)), (None, Some(Severity::Problem)));
    }

    #[test]
    fn an_address_that_others_reach_is_good_to_know() {
        let host = |host: &str| severity(of(exposed, |facts| facts.settings.host = host.to_owned()));
        for local in ["127.0.0.1", "::1", "localhost", "127.8.8.8"] {
            assert_eq!(host(local), None, "{local}");
        }
        for open in ["0.0.0.0", "::", "10.1.2.3", "maas.internal"] {
            assert_eq!(host(open), Some(Severity::Info), "{open}");
        }
    }
}
