//! Refusals, peers, clients and clocks of a service that runs.

use super::{Check, Facts, Outcome, Peer, Service, Severity, counted, found, percent};
use crate::link::LinkState;

pub(super) const CHECKS: &[Check] = &[
    ("refusals", |facts| of(facts, refusals)),
    ("circuit-breaker", |facts| of(facts, circuit_breaker)),
    ("waiting", |facts| of(facts, waiting)),
    ("connections", connections),
    ("readers-cut", |facts| of(facts, readers_cut)),
    ("leases", |facts| of(facts, leases)),
    ("backend", |facts| of(facts, backend)),
    ("pushgateway", |facts| of(facts, pushgateway)),
];

/// Of the blocks that are asked for, one in a hundred is refused.
const REFUSED_WARNS: f64 = 0.01;
/// One in ten.
const REFUSED_ALARMS: f64 = 0.10;
/// A part of the leases that end too late from which their clock lags.
const LATE_WARNS: f64 = 0.01;

fn of(facts: &Facts, rule: fn(&Service) -> Outcome) -> Outcome {
    facts.service.as_ref().map_or(Outcome::Unknown, rule)
}

fn refusals(service: &Service) -> Outcome {
    let severity = match service.refused_ratio {
        ratio if ratio >= REFUSED_ALARMS => Severity::Problem,
        ratio if ratio >= REFUSED_WARNS => Severity::Warning,
        _ => return Outcome::Fine,
    };
    let summary = format!(
        "{:.1} % of the blocks asked for lately were refused for lack of room.",
        service.refused_ratio * 100.0
    );
    found(
        severity,
        summary,
        "See why (maas_refused_total{reason}), and raise memory.max_pool_size, or let requests wait (wait_ms).",
    )
}

fn circuit_breaker(service: &Service) -> Outcome {
    if !service.is_breaker_open {
        return Outcome::Fine;
    }
    let summary = "The circuit breaker is open: sizes that were refused are refused at once.".to_owned();
    found(
        Severity::Problem,
        summary,
        "It closes with the next free that makes room; free something, or raise memory.max_pool_size.",
    )
}

fn waiting(service: &Service) -> Outcome {
    if service.waiting_requests == 0 {
        return Outcome::Fine;
    }
    let summary = format!("Waiting for room: {}.", counted(service.waiting_requests, "request"));
    found(
        Severity::Info,
        summary,
        "They are served in order as room comes free; free something, or raise memory.max_pool_size.",
    )
}

fn connections(facts: &Facts) -> Outcome {
    let Some(service) = &facts.service else { return Outcome::Unknown };
    let (open, most) = (service.connections, u64::from(facts.settings.max_connections));
    if crate::units::ratio(open, most) < 0.9 {
        return Outcome::Fine;
    }
    let summary =
        format!("{open} of {most} connections are open: beyond them clients get 503 and are closed.");
    found(Severity::Warning, summary, "Raise server.max_connections, or let clients share connections.")
}

fn readers_cut(service: &Service) -> Outcome {
    if service.readers_cut == 0 {
        return Outcome::Fine;
    }
    let summary = format!(
        "Since the start {} of freed or replaced content took too long and ended with an error.",
        counted(service.readers_cut, "read")
    );
    found(Severity::Info, summary, "Read faster, free later, or raise memory.drain_seconds.")
}

fn leases(service: &Service) -> Outcome {
    let ratio = crate::units::ratio(service.leases_late, service.leases_ended);
    if ratio < LATE_WARNS {
        return Outcome::Fine;
    }
    let summary = format!(
        "{} of {} leases ({}) ended more than 250 ms after their time.",
        service.leases_late,
        service.leases_ended,
        percent(ratio)
    );
    found(
        Severity::Warning,
        summary,
        "The service gets too little CPU: give it more, or raise server.worker_threads.",
    )
}

fn backend(service: &Service) -> Outcome {
    peer(&service.backend, "backend", Severity::Problem, "backend.server_url")
}

fn pushgateway(service: &Service) -> Outcome {
    peer(&service.pushgateway, "Pushgateway", Severity::Warning, "prometheus.pushgateway_url")
}

/// A peer that does not answer; `at_last` is how bad it is when it was given up for now.
fn peer(peer: &Peer, name: &str, at_last: Severity, key: &str) -> Outcome {
    let (severity, what) = match peer.state {
        LinkState::Off | LinkState::Disconnected | LinkState::Connected => return Outcome::Fine,
        LinkState::Reconnecting => (Severity::Warning, "does not answer"),
        LinkState::NativeMetrics => (at_last, "does not answer, and metrics are only to be scraped here"),
    };
    let why = peer.last_error.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    let summary = format!(
        "The {name} {what}: {} failed in a row{why}, for {} now.",
        counted(u64::from(peer.attempts), "attempt"),
        counted(peer.since.as_secs(), "second")
    );
    found(severity, summary, format!("See that it runs and that {key} leads to it."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn said(code: &str, change: impl FnOnce(&mut Service)) -> Option<(Severity, String)> {
        let mut facts = Facts::healthy();
        change(facts.service.as_mut().expect("there is one"));
        let (_, check) = CHECKS.iter().find(|(name, _)| *name == code).expect("there is such a check");
        match check(&facts) {
            Outcome::Found(severity, summary, fix) => Some((severity, format!("{summary} {fix}"))),
            Outcome::Fine => None,
            Outcome::Unknown => panic!("it knows enough"),
        }
    }

    fn severity(code: &str, change: impl FnOnce(&mut Service)) -> Option<Severity> {
        said(code, change).map(|(severity, _)| severity)
    }

    #[test]
    fn refusals_are_told_by_how_many_they_are() {
        for (ratio, expected) in [
            (0.0, None),
            (0.009, None),
            (0.01, Some(Severity::Warning)),
            (0.099, Some(Severity::Warning)),
            (0.10, Some(Severity::Problem)),
        ] {
            assert_eq!(severity("refusals", |service| service.refused_ratio = ratio), expected, "{ratio}");
        }
        assert!(
            said("refusals", |service| service.refused_ratio = 0.025).expect("it is").1.contains("2.5 %")
        );
    }

    #[test]
    fn an_open_breaker_and_who_waits_are_told() {
        assert_eq!(severity("circuit-breaker", |_| ()), None);
        assert_eq!(
            severity("circuit-breaker", |service| service.is_breaker_open = true),
            Some(Severity::Problem)
        );
        assert_eq!(severity("waiting", |_| ()), None);
        let told = said("waiting", |service| service.waiting_requests = 7).expect("seven wait");
        assert!(
            told.0 == Severity::Info && told.1.starts_with("Waiting for room: 7 requests."),
            "{}",
            told.1
        );
    }

    #[test]
    fn connections_that_are_almost_all_open_are_told() {
        let open = |open| severity("connections", |service| service.connections = open);
        assert_eq!((open(8_999), open(9_000)), (None, Some(Severity::Warning)));
    }

    #[test]
    fn readers_that_were_cut_are_good_to_know() {
        assert_eq!(severity("readers-cut", |_| ()), None);
        assert_eq!(severity("readers-cut", |service| service.readers_cut = 1), Some(Severity::Info));
    }

    #[test]
    fn leases_that_end_late_are_told_where_they_are_many() {
        let late = |late, all| {
            severity("leases", |service| (service.leases_late, service.leases_ended) = (late, all))
        };
        assert_eq!((late(0, 0), late(9, 1000), late(10, 1000)), (None, None, Some(Severity::Warning)));
    }

    #[test]
    fn a_peer_that_does_not_answer_is_told_with_why() {
        let stands = |state| Peer {
            state,
            since: Duration::from_secs(40),
            attempts: 4,
            last_error: Some("timed out".to_owned()),
        };
        for (state, backend, pushgateway) in [
            (LinkState::Off, None, None),
            (LinkState::Disconnected, None, None),
            (LinkState::Connected, None, None),
            (LinkState::Reconnecting, Some(Severity::Warning), Some(Severity::Warning)),
            (LinkState::NativeMetrics, Some(Severity::Problem), Some(Severity::Warning)),
        ] {
            assert_eq!(severity("backend", |service| service.backend = stands(state)), backend, "{state:?}");
            assert_eq!(
                severity("pushgateway", |service| service.pushgateway = stands(state)),
                pushgateway,
                "{state:?}"
            );
        }
        let text =
            said("backend", |service| service.backend = stands(LinkState::Reconnecting)).expect("it fails").1;
        assert!(text.contains("4 attempts failed in a row (timed out), for 40 seconds"), "{text}");
        assert!(text.contains("backend.server_url"), "{text}");
    }
}
