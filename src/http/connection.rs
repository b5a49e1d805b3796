//! What one connection is doing, shared by the three that move it: its socket, its requests and its driver.
//!
//! ```text
//!            first bytes              head complete              last hold released
//!   Silent ──────────────▶ FirstHead ───────────────▶ (held) ───────────────▶ Idle ──▶ Head ──▶ (held) …
//! ```
//!
//! "Held" is no phase of its own: while a request runs, or what is left of its body is being discarded, somebody
//! holds the connection and no phase's deadline applies. HTTP/2 may have many holds at once and has no Head: its
//! frames are not ours to read.
//!
//! All fields are relaxed atomics. On HTTP/1 one task writes them all (except where a body is discarded); where
//! another task releases the last hold it wakes the driver, and that wake-up orders what it wrote before.

use super::server::Shared;
use super::traffic::TimeOut;
use crate::clock::Now;
use crate::pool::ReaderWatch;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

/// What a connection that nobody holds is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// No byte has ever come (HTTP/2: no request).
    Silent,
    /// The first request's head is under way.
    FirstHead,
    /// Between requests.
    Idle,
    /// A later request's head is under way.
    Head,
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Connection {
    /// What all connections share.
    pub(super) shared: Arc<Shared>,
    /// The client's address.
    pub(super) peer: SocketAddr,
    /// When it was accepted.
    opened: Now,
    /// A [`Phase`]; written by the socket (to a head) and the requests (to idle), read by the driver.
    phase: AtomicU8,
    /// When the phase began; the same writers, and the driver where idleness began after a wait.
    since: AtomicU64,
    /// Requests running and bodies being discarded.
    holds: AtomicU32,
    /// When the socket stopped taking our bytes; 0 while it takes them. Written by the socket.
    stalled_since: AtomicU64,
    /// Bytes the socket took since then.
    stalled_taken: AtomicU64,
    /// HTTP/2: answers whose last piece the protocol has not asked to follow up yet.
    waiting_answers: AtomicU32,
    /// HTTP/2: bytes the socket has taken in all.
    taken: AtomicU64,
    /// Set once, when the client turns out to speak HTTP/2.
    multiplexed: AtomicBool,
    /// Set when a reader is cut: what it did not take is thrown away with the socket.
    cut: AtomicBool,
    /// Reads of content that may not be through: their pieces can outlive the answer's body, in the protocol's own
    /// queue. A read is added by its request, and looked at by the driver when it is told that some are overdue.
    readers: Mutex<Vec<ReaderWatch>>,
    /// The driver's task, set at its first poll. A task's waker never changes.
    driver: OnceLock<Waker>,
}

impl Connection {
    /// A connection just accepted.
    pub(super) fn new(shared: Arc<Shared>, peer: SocketAddr, opened: Now) -> Connection {
        Connection {
            shared,
            peer,
            opened,
            phase: AtomicU8::new(Phase::Silent as u8),
            since: AtomicU64::new(opened.0),
            holds: AtomicU32::new(0),
            stalled_since: AtomicU64::new(0),
            stalled_taken: AtomicU64::new(0),
            waiting_answers: AtomicU32::new(0),
            taken: AtomicU64::new(0),
            multiplexed: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            readers: Mutex::default(),
            driver: OnceLock::new(),
        }
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Silent,
            1 => Phase::FirstHead,
            2 => Phase::Idle,
            _ => Phase::Head,
        }
    }

    /// The socket read `bytes`: where a head begins with them, notes the time.
    #[inline]
    pub(super) fn received(&self, bytes: usize) {
        self.shared.traffic.received(bytes);
        if self.holds.load(Relaxed) == 0 && !self.is_multiplexed() {
            let head = match self.phase() {
                Phase::Silent => Phase::FirstHead,
                Phase::Idle => Phase::Head,
                Phase::FirstHead | Phase::Head => return,
            };
            self.since.store(Now::read().0, Relaxed);
            self.phase.store(head as u8, Relaxed);
        }
    }

    /// The socket took `bytes` of ours.
    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        self.shared.traffic.sent(bytes);
        if self.stalled_since.load(Relaxed) != 0 {
            self.stalled_taken.fetch_add(bytes as u64, Relaxed);
        }
        if self.is_multiplexed() {
            self.taken.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// The socket would not take more.
    pub(super) fn stalled(&self) {
        if self.stalled_since.load(Relaxed) == 0 {
            self.stalled_taken.store(0, Relaxed);
            self.stalled_since.store(Now::read().0, Relaxed);
        }
    }

    /// All that was to be written is written.
    #[inline]
    pub(super) fn flushed(&self) {
        if self.stalled_since.load(Relaxed) != 0 {
            self.stalled_since.store(0, Relaxed);
        }
    }

    /// A request's head is complete: ends the phase, and says when the request arrived. The caller takes a [`Hold`].
    #[inline]
    pub(super) fn head_ended(&self) -> Now {
        let arrived = match self.phase() {
            Phase::FirstHead | Phase::Head => Now(self.since.load(Relaxed)),
            // A pipelined request, or HTTP/2: its first byte came while the connection was held.
            Phase::Silent | Phase::Idle => {
                let now = Now::read();
                self.since.store(now.0, Relaxed);
                now
            }
        };
        self.phase.store(Phase::Idle as u8, Relaxed);
        arrived
    }

    /// The connection speaks HTTP/2: until its first request it counts as silent.
    pub(super) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
        self.phase.store(Phase::Silent as u8, Relaxed);
    }

    #[inline]
    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.holds.load(Relaxed) != 0
    }

    /// Nothing runs and nothing waits to be written: closing now takes nothing away from the client.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_held() && self.stalled_since.load(Relaxed) == 0
    }

    /// Idleness began now, not when the last request arrived: it took longer than one poll.
    pub(super) fn idle_since(&self, now: Now) {
        if self.phase() == Phase::Idle {
            self.since.store(now.0, Relaxed);
        }
    }

    /// Until when the connection may go on as it is, unless it is held; and what it is guilty of then.
    pub(super) fn phase_deadline(&self) -> (Now, TimeOut) {
        let limits = &self.shared.limits;
        let since = Now(self.since.load(Relaxed));
        match self.phase() {
            Phase::Silent => (self.opened.after(limits.header_timeout), TimeOut::Silent),
            Phase::FirstHead => (self.opened.after(limits.header_timeout), TimeOut::Head),
            Phase::Head => (since.after(limits.header_timeout), TimeOut::Head),
            Phase::Idle => (since.after(limits.idle_timeout), TimeOut::Idle),
        }
    }

    /// Until when the socket must take more, if it has stopped taking our bytes.
    #[inline]
    pub(super) fn stall_deadline(&self) -> Option<Now> {
        let since = self.stalled_since.load(Relaxed);
        if since == 0 {
            return None;
        }
        let allowed = self.shared.limits.allowance(self.stalled_taken.load(Relaxed))?;
        Some(Now(since).after(allowed))
    }

    /// HTTP/2: an answer's piece was handed over, and the protocol has yet to ask for the next.
    pub(super) fn answer_waits(&self) {
        self.waiting_answers.fetch_add(1, Relaxed);
    }

    /// HTTP/2: the protocol asked for the next piece, or the answer ended.
    pub(super) fn answer_goes_on(&self) {
        self.waiting_answers.fetch_sub(1, Relaxed);
    }

    /// HTTP/2: whether answers wait to be taken, and the bytes the socket has taken in all.
    pub(super) fn progress(&self) -> (bool, u64) {
        (self.waiting_answers.load(Relaxed) != 0, self.taken.load(Relaxed))
    }

    /// Whatever the client did not take is not for it any more.
    pub(super) fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// An answer with content begins.
    pub(super) fn watch(&self, reader: ReaderWatch) {
        let mut readers = self.readers.lock();
        if readers.len() == readers.capacity() {
            readers.retain(ReaderWatch::is_alive); // so that the list is as long as what is under way
        }
        readers.push(reader);
    }

    /// One answer ends short of its length, because its reader has had its time.
    pub(super) fn end_reader(&self, reader: &ReaderWatch) {
        self.readers.lock().retain(|watched| !watched.is_of_same_read(reader));
        self.shared.traffic.reader_cut();
    }

    /// Cuts the connection if a reader has had its time and did not end by itself: it stands still, or what it has yet
    /// to take is the protocol's already. Whether it was cut.
    pub(super) fn end_overdue_readers(&self) -> bool {
        let (held, overdue) = {
            let readers = self.readers.lock();
            let held: Vec<_> = readers.iter().filter_map(ReaderWatch::hold).collect();
            let overdue = held.iter().filter(|read| read.is_overdue()).count();
            (held, overdue)
        };
        drop(held); // without the lock: where a read ended meanwhile, this scrubs what it read
        if overdue == 0 {
            return false;
        }
        self.cut();
        (0..overdue).for_each(|_| self.shared.traffic.reader_cut());
        tracing::debug!(peer = %self.peer, overdue, "readers of freed content cut");
        true
    }

    /// Remembers whom to wake when another task releases the last hold.
    pub(super) fn driven_by(&self, waker: &Waker) {
        self.driver.get_or_init(|| waker.clone());
    }
}

/// As long as this lives, the connection is busy.
#[derive(Debug)]
pub(super) struct Hold {
    connection: Arc<Connection>,
    /// Whether another task than the driver may release it.
    foreign: bool,
}

impl Hold {
    /// Holds a connection; `foreign` where another task than the driver may let go.
    #[inline]
    pub(super) fn new(connection: Arc<Connection>, foreign: bool) -> Hold {
        connection.holds.fetch_add(1, Relaxed);
        Hold { connection, foreign }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        let was_last = self.connection.holds.fetch_sub(1, Relaxed) == 1;
        if was_last
            && self.foreign
            && let Some(driver) = self.connection.driver.get()
        {
            driver.wake_by_ref(); // it slept without a deadline
        }
    }
}
