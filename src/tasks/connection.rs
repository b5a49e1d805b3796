//! The connection manager's mind: which state a link is in, and when it is tried next.
//!
//! A pure state machine. It never reads a clock, draws a random number or touches a socket: `now` and the jitter are
//! arguments. The driver reports how each attempt ended and waits as long as it is told.
//!
//! ```text
//!                        success                              failures in a row ≥ native_after
//! off    disconnected ────────────▶ connected ──failure──▶ reconnecting ─────────▶ native_metrics
//!             │                        ▲                     ▲  │                       │
//!             └──────────failure───────┼─────────────────────┘  │                       │
//!                                      └───────success──────────┴───────success─────────┘
//! ```
//!
//! So the state is a function of the failures in a row, and of whether any attempt has ended at all.

use crate::clock::Now;
use crate::link::{LinkState, LinkStatus};
use crate::tasks::BackendConfig;
use std::time::Duration;

/// A wait is stretched or shrunk by at most this part of it, so that many services that lost one peer together
/// do not return to it together.
const JITTER_PART: f64 = 0.1;

/// How failures are spaced, and when there were too many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Wait after the first failure; doubles with each further one.
    pub interval: Duration,
    /// The doubling stops here.
    pub interval_max: Duration,
    /// Failures in a row from which the state is [`LinkState::NativeMetrics`].
    pub native_after: u32,
}

impl RetryPolicy {
    /// The wait after so many failures in a row, before jitter.
    fn wait(&self, failures: u32) -> Duration {
        // Past 31 doublings any interval the driver could wait for has met its maximum.
        let doublings = failures.saturating_sub(1).min(31);
        self.interval.saturating_mul(1 << doublings).min(self.interval_max)
    }
}

impl From<&BackendConfig> for RetryPolicy {
    fn from(config: &BackendConfig) -> RetryPolicy {
        RetryPolicy {
            interval: config.retry_interval,
            interval_max: config.retry_interval_max,
            native_after: config.native_after,
        }
    }
}

/// A change of state: the one occasion on which the driver logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state that was left.
    pub from: LinkState,
    /// The state that was entered.
    pub to: LinkState,
}

/// The state of one link, changed by how attempts end.
#[derive(Clone, Debug)]
pub struct Connection {
    policy: RetryPolicy,
    status: LinkStatus,
}

impl Connection {
    /// A link that is configured and was not tried yet: disconnected.
    pub fn new(policy: RetryPolicy, now: Now) -> Connection {
        Connection { policy, status: LinkStatus::new(LinkState::Disconnected, now) }
    }

    /// Takes note of an attempt that succeeded: connected, whatever was before.
    pub fn succeeded(&mut self, now: Now) -> Option<Transition> {
        self.status.attempts = 0;
        self.status.last_error = None;
        self.status.next_retry = None;
        self.enter(LinkState::Connected, now)
    }

    /// Takes note of an attempt that failed for the reason `error`, and sets the time of the next one.
    /// `jitter` lies in −1 to 1 and moves that time by up to a tenth of the wait; what lies outside is clamped.
    pub fn failed(&mut self, now: Now, error: String, jitter: f64) -> Option<Transition> {
        self.status.attempts = self.status.attempts.saturating_add(1);
        self.status.last_error = Some(error);
        self.status.next_retry = Some(now.after(jittered(self.policy.wait(self.status.attempts), jitter)));
        let too_many = self.status.attempts >= self.policy.native_after;
        self.enter(if too_many { LinkState::NativeMetrics } else { LinkState::Reconnecting }, now)
    }

    /// Where the link stands, as `/health` tells it.
    pub fn status(&self) -> &LinkStatus {
        &self.status
    }

    fn enter(&mut self, to: LinkState, now: Now) -> Option<Transition> {
        let from = self.status.state;
        if from == to {
            return None;
        }
        self.status.state = to;
        self.status.since = now;
        Some(Transition { from, to })
    }
}

fn jittered(wait: Duration, jitter: f64) -> Duration {
    let seconds = wait.as_secs_f64() * (1.0 + JITTER_PART * jitter.clamp(-1.0, 1.0));
    // Only a wait near the end of time, or a jitter that is no number, cannot be expressed: then it goes without.
    Duration::try_from_secs_f64(seconds).unwrap_or(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RetryPolicy = RetryPolicy {
        interval: Duration::from_secs(30),
        interval_max: Duration::from_secs(300),
        native_after: 3,
    };

    fn at(seconds: u64) -> Now {
        Now(seconds * 1_000_000_000)
    }

    fn change(from: LinkState, to: LinkState) -> Option<Transition> {
        Some(Transition { from, to })
    }

    fn fail(connection: &mut Connection, now: Now) -> Option<Transition> {
        connection.failed(now, "probe timed out after 10s".to_owned(), 0.0)
    }

    #[test]
    fn a_configured_link_starts_disconnected_with_nothing_to_report() {
        let connection = Connection::new(POLICY, at(7));
        assert_eq!(*connection.status(), LinkStatus::new(LinkState::Disconnected, at(7)));
    }

    #[test]
    fn the_first_success_connects() {
        let mut connection = Connection::new(POLICY, at(0));
        assert_eq!(connection.succeeded(at(1)), change(LinkState::Disconnected, LinkState::Connected));
        assert_eq!(*connection.status(), LinkStatus::new(LinkState::Connected, at(1)));
    }

    #[test]
    fn a_success_while_connected_is_no_transition_and_keeps_since() {
        let mut connection = Connection::new(POLICY, at(0));
        connection.succeeded(at(1));
        assert_eq!(connection.succeeded(at(11)), None);
        assert_eq!(connection.status().since, at(1));
    }

    #[test]
    fn the_first_failure_from_connected_is_reconnecting() {
        let mut connection = Connection::new(POLICY, at(0));
        connection.succeeded(at(1));
        assert_eq!(fail(&mut connection, at(5)), change(LinkState::Connected, LinkState::Reconnecting));
        let expected = LinkStatus {
            state: LinkState::Reconnecting,
            since: at(5),
            attempts: 1,
            last_error: Some("probe timed out after 10s".to_owned()),
            next_retry: Some(at(35)),
        };
        assert_eq!(*connection.status(), expected);
    }

    #[test]
    fn the_first_failure_from_disconnected_is_reconnecting_too() {
        let mut connection = Connection::new(POLICY, at(0));
        assert_eq!(fail(&mut connection, at(2)), change(LinkState::Disconnected, LinkState::Reconnecting));
    }

    #[test]
    fn a_further_failure_below_native_after_is_no_transition_and_keeps_since() {
        let mut connection = Connection::new(POLICY, at(0));
        fail(&mut connection, at(1));
        assert_eq!(fail(&mut connection, at(31)), None);
        assert_eq!((connection.status().since, connection.status().attempts), (at(1), 2));
    }

    #[test]
    fn native_after_failures_in_a_row_are_native_metrics_and_stay_so() {
        let mut connection = Connection::new(POLICY, at(0));
        fail(&mut connection, at(1));
        fail(&mut connection, at(31));
        let entered = fail(&mut connection, at(91));
        assert_eq!(entered, change(LinkState::Reconnecting, LinkState::NativeMetrics));
        assert_eq!(fail(&mut connection, at(211)), None);
        assert_eq!((connection.status().since, connection.status().attempts), (at(91), 4));
        assert!(connection.status().next_retry.is_some(), "retries go on");
    }

    #[test]
    fn with_native_after_one_the_first_failure_is_native_metrics() {
        let mut connection = Connection::new(RetryPolicy { native_after: 1, ..POLICY }, at(0));
        assert_eq!(fail(&mut connection, at(1)), change(LinkState::Disconnected, LinkState::NativeMetrics));
    }

    #[test]
    fn a_success_ends_native_metrics_and_forgets_the_failures() {
        let mut connection = Connection::new(POLICY, at(0));
        for second in 1..=5 {
            fail(&mut connection, at(second));
        }
        assert_eq!(connection.succeeded(at(9)), change(LinkState::NativeMetrics, LinkState::Connected));
        assert_eq!(*connection.status(), LinkStatus::new(LinkState::Connected, at(9)));
        fail(&mut connection, at(10));
        assert_eq!((connection.status().state, connection.status().attempts), (LinkState::Reconnecting, 1));
        assert_eq!(connection.status().next_retry, Some(at(40)), "the doubling starts over");
    }

    #[test]
    fn a_success_ends_reconnecting() {
        let mut connection = Connection::new(POLICY, at(0));
        fail(&mut connection, at(1));
        assert_eq!(connection.succeeded(at(2)), change(LinkState::Reconnecting, LinkState::Connected));
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let mut connection = Connection::new(POLICY, at(0));
        let waits: Vec<u64> = (0..7)
            .map(|_| {
                fail(&mut connection, at(0));
                connection
                    .status()
                    .next_retry
                    .expect("a failure sets the next attempt")
                    .since(at(0))
                    .as_secs()
            })
            .collect();
        assert_eq!(waits, [30, 60, 120, 240, 300, 300, 300]);
    }

    #[test]
    fn jitter_moves_the_wait_by_a_tenth_at_most() {
        for (jitter, wait) in [(-1.0, 27), (1.0, 33), (-7.0, 27), (7.0, 33), (f64::NAN, 30)] {
            let mut connection = Connection::new(POLICY, at(0));
            connection.failed(at(0), "refused".to_owned(), jitter);
            assert_eq!(connection.status().next_retry, Some(at(wait)), "jitter {jitter}");
        }
    }

    #[test]
    fn absurd_intervals_saturate_instead_of_overflowing() {
        let policy =
            RetryPolicy { interval: Duration::MAX, interval_max: Duration::MAX, native_after: u32::MAX };
        let mut connection = Connection::new(policy, at(1));
        for _ in 0..100 {
            connection.failed(at(1), "refused".to_owned(), 1.0);
        }
        assert_eq!(connection.status().next_retry, Some(Now(u64::MAX)));
    }

    proptest! {
        #[test]
        fn any_sequence_of_outcomes_follows_the_naive_twin(
            outcomes in prop::collection::vec((any::<bool>(), -1.0..=1.0f64, 0..10_000u64), 0..60),
            interval_ms in 1..5_000u64,
            maximum_ms in 1..50_000u64,
            native_after in 1..6u32,
        ) {
            let interval_max = Duration::from_millis(maximum_ms);
            let policy = RetryPolicy { interval: Duration::from_millis(interval_ms), interval_max, native_after };
            let mut connection = Connection::new(policy, at(0));
            let (mut now, mut since, mut state, mut failures) = (at(0), at(0), LinkState::Disconnected, 0);
            for (index, (ok, jitter, passed_ms)) in outcomes.into_iter().enumerate() {
                now = now.after(Duration::from_millis(passed_ms));
                let error = format!("failure {index}");
                let transition = if ok {
                    connection.succeeded(now)
                } else {
                    connection.failed(now, error.clone(), jitter)
                };

                failures = if ok { 0 } else { failures + 1 };
                let expected = match failures {
                    0 => LinkState::Connected,
                    few if few < native_after => LinkState::Reconnecting,
                    _ => LinkState::NativeMetrics,
                };
                let changed = (expected != state).then_some(Transition { from: state, to: expected });
                if changed.is_some() {
                    since = now;
                }
                state = expected;

                let status = connection.status();
                prop_assert_eq!(transition, changed);
                prop_assert_eq!((status.state, status.since, status.attempts), (state, since, failures));
                prop_assert_eq!(status.last_error.clone(), (!ok).then_some(error));
                prop_assert_eq!(status.next_retry.is_some(), !ok);
                if let Some(next) = status.next_retry {
                    let mut wait = Duration::from_millis(interval_ms);
                    for _ in 1..failures {
                        wait = (wait * 2).min(interval_max);
                    }
                    let wait = wait.min(interval_max).as_secs_f64();
                    let actual = next.since(now).as_secs_f64();
                    // A nanosecond on either side: the wait passes through a float.
                    prop_assert!(actual >= wait * 0.9 - 1e-9 && actual <= wait * 1.1 + 1e-9);
                }
            }
        }
    }
}
