//! What passes through the server's sockets, counted.
//!
//! Counters are per slot, so that counting a request writes no cache line that another thread writes; they are summed
//! when somebody asks. A gauge is the difference of two counters: what began on one thread may end on another.

use crate::slot::PerSlot;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection, or a body, was given up for taking too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOut {
    /// The client connected and sent nothing.
    Silent,
    /// The client began a request head and did not end it.
    Head,
    /// The connection stood idle between requests.
    Idle,
    /// The client sent its body below the minimum rate.
    Body,
    /// The client took our answer below the minimum rate.
    Reader,
}

impl TimeOut {
    /// Every kind, in the order of [`Totals::timed_out`].
    pub const ALL: [TimeOut; 5] =
        [TimeOut::Silent, TimeOut::Head, TimeOut::Idle, TimeOut::Body, TimeOut::Reader];

    /// The kind as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            TimeOut::Silent => "silent",
            TimeOut::Head => "head",
            TimeOut::Idle => "idle",
            TimeOut::Body => "body",
            TimeOut::Reader => "reader",
        }
    }
}

/// Counters of connections, requests and bytes; shared by everything that touches a socket.
#[derive(Debug)]
pub struct Traffic(PerSlot<Counters>);

/// One slot's counters. Any thread of the slot adds, `totals` reads; all relaxed: they order nothing.
#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
    requests_started: AtomicU64,
    requests_ended: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    timed_out: [AtomicU64; TimeOut::ALL.len()],
    readers_cut: AtomicU64,
}

/// Sums over all slots at (nearly) one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections open now.
    pub connections: u64,
    /// Connections ever taken in.
    pub opened: u64,
    /// Connections answered with 503 and closed because there were too many.
    pub refused: u64,
    /// Requests running now: their answer is not wholly handed to the protocol.
    pub running: u64,
    /// Bytes read from sockets.
    pub received_bytes: u64,
    /// Bytes written to sockets.
    pub sent_bytes: u64,
    /// Connections and bodies given up, in the order of [`TimeOut::ALL`].
    pub timed_out: [u64; TimeOut::ALL.len()],
    /// Readers of freed or replaced content that were ended because their time was over.
    pub readers_cut: u64,
}

impl Totals {
    /// How often `kind` happened.
    pub fn timed_out(&self, kind: TimeOut) -> u64 {
        self.timed_out[kind as usize]
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic(PerSlot::new(|_| Counters::default()))
    }
}

impl Traffic {
    /// Sums the slots.
    pub fn totals(&self) -> Totals {
        let sum = |counter: fn(&Counters) -> &AtomicU64| {
            self.0.iter().map(|slot| counter(slot).load(Ordering::Relaxed)).sum::<u64>()
        };
        // The end is read before the beginning, so that a gauge never falls below zero by reading order; it
        // saturates because relaxed counters of two threads may still be seen in either order.
        let closed = sum(|slot| &slot.closed);
        let requests_ended = sum(|slot| &slot.requests_ended);
        let opened = sum(|slot| &slot.opened);
        let mut timed_out = [0; TimeOut::ALL.len()];
        for slot in self.0.iter() {
            for (total, counter) in timed_out.iter_mut().zip(&slot.timed_out) {
                *total += counter.load(Ordering::Relaxed);
            }
        }
        Totals {
            connections: opened.saturating_sub(closed),
            opened,
            refused: sum(|slot| &slot.refused),
            running: sum(|slot| &slot.requests_started).saturating_sub(requests_ended),
            received_bytes: sum(|slot| &slot.received_bytes),
            sent_bytes: sum(|slot| &slot.sent_bytes),
            timed_out,
            readers_cut: sum(|slot| &slot.readers_cut),
        }
    }

    pub(super) fn connection_opened(&self) {
        self.0.mine().opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_closed(&self) {
        self.0.mine().closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.0.mine().refused.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn request_started(&self) {
        self.0.mine().requests_started.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn request_ended(&self) {
        self.0.mine().requests_ended.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn received(&self, bytes: usize) {
        self.0.mine().received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        self.0.mine().sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn timed_out(&self, kind: TimeOut) {
        self.0.mine().timed_out[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reader_cut(&self) {
        self.0.mine().readers_cut.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_sum_what_all_threads_counted() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    traffic.connection_opened();
                    traffic.received(10);
                    traffic.timed_out(TimeOut::Reader);
                });
            }
        });
        traffic.connection_closed();
        let totals = traffic.totals();
        assert_eq!((totals.opened, totals.connections, totals.received_bytes), (4, 3, 40));
        assert_eq!((totals.timed_out(TimeOut::Reader), totals.timed_out(TimeOut::Idle)), (4, 0));
    }

    #[test]
    fn a_kind_stands_at_its_own_place_in_the_list() {
        for (index, kind) in TimeOut::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }
}
