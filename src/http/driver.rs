//! One connection's task: polls the protocol, holds the client to its deadlines, and leaves when the server stops.
//!
//! There is one timer, and it is set as rarely as can be. After each poll the driver compares the deadline that the
//! connection's state asks for with the one that is set: only an *earlier* deadline sets the timer anew; a later one
//! waits until the timer rings, looks again, and is set then. So a request that comes whole and is answered within one
//! poll never touches the timer: the one that watches the idle connection stays as it is.

use super::connection::Connection;
use super::exchange::Arrival;
use super::protocol::Protocol;
use super::server::{Opened, Shared};
use super::signal::{Stage, Word};
use super::socket::Socket;
use super::traffic::TimeOut;
use crate::clock::Now;
use axum::body::Body;
use hyper::{Request, Response};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::futures::OwnedNotified;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

/// Time an HTTP/2 client without requests has to take leave when the server stops: one round trip suffices.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// The timer is not set.
const NEVER: Now = Now(u64::MAX);

/// What the timer is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The client has taken too long.
    TimedOut(TimeOut),
    /// The end has taken too long.
    Goodbye,
    /// HTTP/2: time to see whether the readers still read.
    Look,
}

/// What an HTTP/2 connection with running requests looked like when the driver last looked.
///
/// Its readers stall stream by stream, which no write to the socket shows. So the driver looks once in each grace
/// period: answers that waited to be taken both times, while the socket took less than the minimum rate, are stalled.
#[derive(Clone, Copy, Debug)]
struct Look {
    next: Now,
    answers_waited: bool,
    taken_bytes: u64,
}

/// The future that is one connection.
pub(super) struct Driver<S, F>
where
    S: Fn(Request<Body>, Arrival) -> F,
    F: Future<Output = Response<Body>> + 'static,
{
    connection: Arc<Connection>,
    protocol: Protocol<S, F>,
    timer: Pin<Box<Sleep>>,
    /// When the timer rings, or [`NEVER`].
    armed: Now,
    /// Held when last looked at: if it is not any more, idleness begins now.
    was_held: bool,
    look: Option<Look>,
    /// What was last heard and acted upon; `None` before the first poll.
    heard: Option<Word>,
    next_word: Pin<Box<OwnedNotified>>,
    /// Accepted while the server was stopping: it still gets an answer.
    newcomer: bool,
    /// Since when it is to end.
    leaving: Option<Now>,
    /// Whether the protocol was told.
    was_told: bool,
    /// Counts the connection while it is open; after `protocol`, so that the socket is closed first.
    _opened: Opened,
}

// Nothing in it is pinned in place: what must be is boxed.
impl<S, F> Unpin for Driver<S, F>
where
    S: Fn(Request<Body>, Arrival) -> F,
    F: Future<Output = Response<Body>> + 'static,
{
}

impl<S, F> Driver<S, F>
where
    S: Fn(Request<Body>, Arrival) -> F,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    /// A connection just accepted from `peer`.
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        service: S,
        shared: Arc<Shared>,
        opened: Opened,
    ) -> Driver<S, F> {
        let newcomer = shared.stage() != Stage::Serving;
        let timer = Box::pin(tokio::time::sleep(shared.limits.header_timeout));
        let next_word = Box::pin(shared.signal.changed());
        let connection = Arc::new(Connection::new(shared, peer, Now::read()));
        let socket = Socket::new(stream, connection.clone());
        Driver {
            connection,
            protocol: Protocol::Opening { socket, seen: Vec::new(), service },
            timer,
            armed: NEVER,
            was_held: false,
            look: None,
            heard: None,
            next_word,
            newcomer,
            leaving: None,
            was_told: false,
            _opened: opened,
        }
    }

    /// All connections are told something (or this is the first poll): listens for the next word, and takes note of
    /// the server's stage. Ready where a reader has had its time.
    #[cold]
    fn hear(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let shared = self.connection.shared.clone();
        self.connection.driven_by(context.waker());
        // Listens before it looks, so that no change falls between.
        while pin!(unconstrained(self.next_word.as_mut())).poll(context).is_ready() {
            self.next_word.set(shared.signal.changed());
        }
        let word = shared.signal.word();
        let stage = word.stage();
        self.heard = Some(word);
        let must_leave = stage >= Stage::Finishing || (stage == Stage::Draining && !self.newcomer);
        if must_leave && self.leaving.is_none() {
            self.leaving = Some(Now::read());
        }
        if stage != Stage::Aborting && !self.connection.end_overdue_readers() {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Ends the connection as soon as that takes nothing away from the client. Ready when it has ended.
    #[cold]
    fn leave(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let speaks_http2 = self.connection.is_multiplexed();
        let is_closing = self.protocol.closing_deadline().is_some();
        if self.connection.is_quiet() && !speaks_http2 && !is_closing {
            return Poll::Ready(());
        }
        if self.was_told {
            return Poll::Pending;
        }
        self.was_told = true;
        self.protocol.shut_down_gracefully();
        self.protocol.poll(context, &self.connection)
    }

    /// What the connection's state asks the timer for.
    #[inline]
    fn due(&mut self) -> Option<(Now, Due)> {
        let connection = &*self.connection;
        let is_held = connection.is_held();
        if self.was_held && !is_held {
            connection.idle_since(Now::read());
            self.look = None;
        }
        self.was_held = is_held;
        if let Some(deadline) = connection.stall_deadline() {
            return Some((deadline, Due::TimedOut(TimeOut::Reader)));
        }
        if is_held {
            return if connection.is_multiplexed() { self.due_look() } else { None };
        }
        if let Some(until) = self.protocol.closing_deadline() {
            return Some((until, Due::Goodbye));
        }
        let (deadline, kind) = connection.phase_deadline();
        Some(match self.leaving.map(|since| since.after(GOODBYE_TIME)) {
            Some(goodbye) if goodbye < deadline => (goodbye, Due::Goodbye),
            _ => (deadline, Due::TimedOut(kind)),
        })
    }

    /// HTTP/2 with running requests: when to look at its readers next.
    fn due_look(&mut self) -> Option<(Now, Due)> {
        let limits = &self.connection.shared.limits;
        limits.allowance(0)?; // without a minimum rate nobody needs to look
        let (_, taken_bytes) = self.connection.progress();
        let look = self.look.get_or_insert_with(|| Look {
            next: Now::read().after(limits.header_timeout),
            answers_waited: false,
            taken_bytes,
        });
        Some((look.next, Due::Look))
    }

    /// Looks at HTTP/2's readers: false if they have stalled.
    #[cold]
    fn readers_go_on(&mut self, now: Now) -> bool {
        let limits = &self.connection.shared.limits;
        let (answers_wait, taken_bytes) = self.connection.progress();
        let next = now.after(limits.header_timeout);
        let Some(before) = self.look.replace(Look { next, answers_waited: answers_wait, taken_bytes }) else {
            return true;
        };
        let period_ms = u64::try_from(limits.header_timeout.as_millis()).unwrap_or(u64::MAX);
        let asked = limits.bytes_per_second_min.saturating_mul(period_ms) / 1000;
        !(before.answers_waited && answers_wait) || taken_bytes - before.taken_bytes >= asked
    }

    /// Sees that the timer rings in time. Ready when the client's time is over.
    #[inline]
    fn keep_time(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.armed != NEVER && self.timer.is_elapsed() {
            self.armed = NEVER;
        }
        match self.due() {
            Some((deadline, due)) if deadline < self.armed => self.set_timer(context, deadline, due),
            _ => Poll::Pending,
        }
    }

    #[cold]
    fn set_timer(&mut self, context: &mut Context<'_>, deadline: Now, due: Due) -> Poll<()> {
        let (mut deadline, mut due) = (deadline, due);
        loop {
            let now = Now::read();
            if now >= deadline {
                if due != Due::Look || !self.readers_go_on(now) {
                    self.give_up(due);
                    return Poll::Ready(());
                }
                match self.due() {
                    Some(next) => (deadline, due) = next,
                    None => return Poll::Pending,
                }
                continue;
            }
            self.timer.as_mut().reset(Instant::now() + deadline.since(now));
            // Not subject to the task's budget: a poll that only says "later" would leave the timer without a waker.
            if pin!(unconstrained(self.timer.as_mut())).poll(context).is_pending() {
                self.armed = deadline;
                return Poll::Pending;
            }
        }
    }

    #[cold]
    fn give_up(&self, due: Due) {
        let kind = match due {
            Due::TimedOut(kind) => kind,
            Due::Look => TimeOut::Reader,
            Due::Goodbye => return,
        };
        if kind == TimeOut::Reader {
            self.connection.cut();
        }
        self.connection.shared.traffic.timed_out(kind);
        tracing::debug!(peer = %self.connection.peer, kind = kind.name(), "connection timed out");
    }
}

impl<S, F> Future for Driver<S, F>
where
    S: Fn(Request<Body>, Arrival) -> F,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        if driver.heard != Some(driver.connection.shared.signal.word()) && driver.hear(context).is_ready() {
            return Poll::Ready(());
        }
        if driver.protocol.poll(context, &driver.connection).is_ready() {
            return Poll::Ready(());
        }
        if driver.leaving.is_some() && driver.leave(context).is_ready() {
            return Poll::Ready(());
        }
        driver.keep_time(context)
    }
}
