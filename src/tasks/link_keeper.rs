//! The writing side of a link: takes the outcome of each attempt, publishes it, logs a change of state once, and says
//! how long to wait. Backend and Pushgateway have one each.

use crate::clock::Now;
use crate::link::{Link, LinkState};
use crate::tasks::connection::{Connection, RetryPolicy, Transition};
use std::sync::Arc;
use std::time::Duration;

/// No attempt follows another sooner than this, whatever is configured: an interval of zero must not become a busy loop.
const WAIT_MIN: Duration = Duration::from_millis(10);

/// Keeps one link up to date.
#[derive(Debug)]
pub(super) struct LinkKeeper {
    /// Who the peer is, for the log.
    name: &'static str,
    /// Where the peer is, for the log; without userinfo.
    url: String,
    push_interval: Duration,
    connection: Connection,
    link: Arc<Link>,
}

impl LinkKeeper {
    /// Starts with a link that was not tried yet, and publishes that.
    pub(super) fn new(
        name: &'static str,
        url: String,
        push_interval: Duration,
        policy: RetryPolicy,
        link: Arc<Link>,
    ) -> LinkKeeper {
        let connection = Connection::new(policy, Now::read());
        link.publish(connection.status().clone());
        LinkKeeper { name, url, push_interval, connection, link }
    }

    /// Whether the last attempt succeeded.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().state == LinkState::Connected
    }

    /// Counts one push that ended.
    pub(super) fn count_push(&self, ok: bool) {
        self.link.count_push(ok);
    }

    /// Takes note of an attempt that began at `started` and has just ended; returns the wait before the next.
    pub(super) fn ended(&mut self, started: Now, outcome: Result<(), String>) -> Duration {
        let now = Now::read();
        let transition = match outcome {
            Ok(()) => self.connection.succeeded(now),
            Err(error) => self.connection.failed(now, error, fastrand::f64() * 2.0 - 1.0),
        };
        self.link.publish(self.connection.status().clone());
        let wait = wait(&self.connection, self.push_interval, started, now);
        self.log(transition, wait);
        wait
    }

    fn log(&self, transition: Option<Transition>, wait: Duration) {
        let (peer, url, status) = (self.name, self.url.as_str(), self.connection.status());
        let error = status.last_error.as_deref().unwrap_or_default();
        let (attempts, retry_seconds) = (status.attempts, wait.as_secs_f64());
        match transition {
            Some(Transition { from, to: LinkState::Connected }) => {
                tracing::info!(peer, url, from = from.name(), to = LinkState::Connected.name(), "link is up");
            }
            Some(Transition { from, to }) => {
                let (from, to) = (from.name(), to.name());
                tracing::warn!(peer, url, from, to, attempts, error, retry_seconds, "link is failing");
            }
            None if attempts > 0 => {
                tracing::debug!(peer, url, attempts, error, retry_seconds, "link still fails");
            }
            None => {}
        }
    }
}

/// The time until the next attempt: the state machine's while failing, else the rest of the interval. An attempt that
/// took longer than the interval skips a beat, so that a slow peer is not pushed to without a pause.
fn wait(connection: &Connection, push_interval: Duration, started: Now, now: Now) -> Duration {
    let due = connection.status().next_retry.unwrap_or_else(|| {
        let beat = started.after(push_interval);
        if beat > now { beat } else { now.after(push_interval) }
    });
    due.since(now).max(WAIT_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Now {
        Now(seconds * 1_000_000_000)
    }

    fn connection_policy() -> RetryPolicy {
        let retry = Duration::from_secs(30);
        RetryPolicy { interval: retry, interval_max: retry, native_after: 3 }
    }

    fn connection() -> Connection {
        Connection::new(connection_policy(), at(0))
    }

    #[test]
    fn after_a_success_the_next_push_keeps_the_beat() {
        let mut connection = connection();
        connection.succeeded(at(3));
        assert_eq!(wait(&connection, INTERVAL, at(0), at(3)), Duration::from_secs(7));
    }

    #[test]
    fn a_push_slower_than_the_interval_skips_a_beat() {
        let mut connection = connection();
        connection.succeeded(at(12));
        assert_eq!(wait(&connection, INTERVAL, at(0), at(12)), INTERVAL);
    }

    #[test]
    fn after_a_failure_the_state_machine_sets_the_wait() {
        let mut connection = connection();
        connection.failed(at(4), "refused".to_owned(), 0.0);
        assert_eq!(wait(&connection, INTERVAL, at(0), at(4)), Duration::from_secs(30));
    }

    #[test]
    fn an_interval_of_zero_is_no_busy_loop() {
        let mut connection = connection();
        connection.succeeded(at(1));
        assert_eq!(wait(&connection, Duration::ZERO, at(1), at(1)), WAIT_MIN);
    }

    /// A log that can be read back.
    #[derive(Clone, Default)]
    struct Log(Arc<parking_lot::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_change_of_state_is_one_log_line_and_nothing_else_is() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        let link = Arc::new(Link::new(LinkState::Disconnected, at(0)));
        tracing::subscriber::with_default(subscriber, || {
            let policy = connection_policy();
            let mut keeper =
                LinkKeeper::new("backend", "http://host".to_owned(), INTERVAL, policy, link.clone());
            for ok in [true, true, false, false, false, false, true, true] {
                let outcome = if ok { Ok(()) } else { Err("push answered 500".to_owned()) };
                keeper.ended(Now::read(), outcome);
            }
        });
        let text = String::from_utf8(log.0.lock().clone()).expect("a log is text");
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        let expected = [
            ("INFO", r#"from="disconnected" to="connected""#),
            ("WARN", r#"from="connected" to="reconnecting" attempts=1 error="push answered 500""#),
            ("WARN", r#"from="reconnecting" to="native_metrics" attempts=3 error="push answered 500""#),
            ("INFO", r#"from="native_metrics" to="connected""#),
        ];
        assert_eq!(lines.len(), expected.len(), "{text}");
        for (line, (level, fields)) in lines.iter().zip(expected) {
            assert!(line.starts_with(level) && line.contains(fields), "{line}");
            assert!(line.contains(r#"peer="backend" url="http://host""#), "{line}");
        }
        assert_eq!(link.status().state, LinkState::Connected);
    }
}
