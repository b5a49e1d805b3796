//! The queue of requests that wait for room.
//!
//! Whoever frees something offers it around: to each waiter in the order in which they came, as far as it fits. A
//! request that does not wait is served at once where it fits, waiters or not. A waiter that does not fit is passed
//! over at most [`PASSES_MAX`] times; then freed room is set aside for it, until it has enough or its time is over. That
//! room is in use meanwhile. One waiter at a time has room set aside.
//!
//! A waiter that goes away, for whatever reason, leaves the queue by being dropped, and what it was granted or had set
//! aside is offered to the others.

use super::local::Local;
use super::tags::TagShare;
use crate::sync::{AtomicU64, Ordering, fence};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Times that a waiter is passed over before room is set aside for it.
pub(super) const PASSES_MAX: u64 = 64;

/// What a request takes from the pool, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    /// At actual size.
    pub(super) bytes: u64,
    /// Entries of the table.
    pub(super) entries: u32,
    /// Of tags, sorted, one for each.
    pub(super) shares: Vec<TagShare>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) bell: Bell,
    state: Mutex<State>,
}

/// Tells those who free room whether anybody waits for it, without a lock.
///
/// A waiter enters, then looks for room; others free room, then look for waiters. So one of the two sees the other.
#[derive(Debug, Default)]
pub(super) struct Bell {
    waiting: AtomicU64,
    /// Requests that were served at once while others waited.
    newcomers: AtomicU64,
}

impl Bell {
    fn enter(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // before the waiter looks for room; pairs with the fence in `is_wanted`
    }

    fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether anybody waits for what was just freed.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        fence(Ordering::SeqCst); // after the room was freed; pairs with the fence in `enter`
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A request was served at once.
    #[inline]
    pub(super) fn newcomer(&self) {
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.newcomers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    /// By ticket, so in the order in which they came.
    waiters: BTreeMap<u64, Waiter>,
    /// Those that may be offered room, by what they need: of those that need the same only the first can be next.
    groups: BTreeMap<Need, BTreeSet<u64>>,
    set_aside: Option<SetAside>,
}

#[derive(Debug)]
struct Waiter {
    need: Need,
    /// Wants to look again whenever anything was freed, besides waiting for its need.
    looks: bool,
    stage: Stage,
    /// Times that one who came later was granted room.
    passed: u64,
    /// `Bell::newcomers` when it came.
    newcomers_before: u64,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waits,
    /// Something was freed, and it wants to look.
    MayLook,
    /// Its need was taken from the pool for it.
    Granted,
    /// It has that in its hands, or is leaving.
    Served,
}

#[derive(Debug)]
struct SetAside {
    ticket: u64,
    bytes: u64,
}

/// Why a waiter was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its need was taken from the pool, and is its own now.
    Granted,
    /// Something was freed that may be what it wants.
    Look,
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Place<'a> {
    local: &'a Local,
    ticket: u64,
}

impl Queue {
    /// Bytes set aside for a waiter.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.state.lock().set_aside.as_ref().map_or(0, |aside| aside.bytes)
    }

    /// Whether anybody waits for more memory than there is.
    pub(super) fn waits_for_memory(&self, free_bytes: u64) -> bool {
        let needs = |waiter: &Waiter| {
            matches!(waiter.stage, Stage::Waits | Stage::MayLook) && waiter.need.bytes > free_bytes
        };
        self.bell.waiting() != 0 && self.state.lock().waiters.values().any(needs)
    }

    /// Offers what there is to those who wait.
    #[cold]
    pub(super) fn offer(&self, local: &Local) {
        let mut wakers = Vec::new();
        self.state.lock().offer(local, &self.bell, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn offer(&mut self, local: &Local, bell: &Bell, wakers: &mut Vec<Waker>) {
        for waiter in self.waiters.values_mut().filter(|waiter| waiter.looks && waiter.stage == Stage::Waits)
        {
            waiter.stage = Stage::MayLook;
            wakers.extend(waiter.waker.take());
        }
        let mut entries = local.entries_free();
        self.add_to_set_aside(local, entries, wakers);
        // Groups whose first did not fit in this round.
        let mut unfit: BTreeSet<u64> = BTreeSet::new();
        loop {
            let free = local.heap().free_bytes();
            let fits = |need: &Need| u64::from(need.entries) <= entries;
            let next = self
                .groups
                .iter()
                .take_while(|(need, _)| need.bytes <= free)
                .filter(|(need, _)| fits(need))
                .filter_map(|(_, tickets)| tickets.first().copied())
                .filter(|ticket| !unfit.contains(ticket))
                .min();
            let Some(ticket) = next else { break };
            let need = self.waiters[&ticket].need.clone();
            if local.claim(&need).is_ok() {
                entries -= u64::from(need.entries);
                self.grant(ticket, wakers);
            } else {
                unfit.insert(ticket);
            }
        }
        self.begin_to_set_aside(local, bell, entries, wakers);
    }

    /// The need of this waiter was taken for it.
    fn grant(&mut self, ticket: u64, wakers: &mut Vec<Waker>) {
        self.leave_group(ticket);
        self.waiters.range_mut(..ticket).for_each(|(_, passed_over)| passed_over.passed += 1);
        let waiter = self.waiters.get_mut(&ticket).expect("it was just looked up");
        waiter.stage = Stage::Granted;
        wakers.extend(waiter.waker.take());
    }

    fn leave_group(&mut self, ticket: u64) {
        let need = &self.waiters[&ticket].need;
        if let Some(tickets) = self.groups.get_mut(need) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.groups.remove(need);
            }
        }
    }

    /// The first in order that was passed over too often gets what is freed from now on, unless it is its tag's budget
    /// that it waits for.
    fn begin_to_set_aside(&mut self, local: &Local, bell: &Bell, entries: u64, wakers: &mut Vec<Waker>) {
        if self.set_aside.is_some() {
            return;
        }
        let newcomers = bell.newcomers.load(Ordering::Relaxed);
        let passed = |waiter: &Waiter| waiter.passed + (newcomers - waiter.newcomers_before);
        let chosen = self
            .waiters
            .iter()
            .filter(|(_, waiter)| matches!(waiter.stage, Stage::Waits | Stage::MayLook))
            // Whoever came later was passed over less often.
            .take_while(|(_, waiter)| passed(waiter) >= PASSES_MAX)
            .find(|(_, waiter)| local.budgets_have_room(&waiter.need))
            .map(|(ticket, _)| *ticket);
        if let Some(ticket) = chosen {
            self.leave_group(ticket);
            self.set_aside = Some(SetAside { ticket, bytes: 0 });
            self.add_to_set_aside(local, entries, wakers);
        }
    }

    /// What is free goes to whom room is set aside for, until it has enough.
    fn add_to_set_aside(&mut self, local: &Local, entries: u64, wakers: &mut Vec<Waker>) {
        let Some(aside) = &mut self.set_aside else { return };
        let ticket = aside.ticket;
        let need = &self.waiters[&ticket].need;
        aside.bytes += local.heap().grant_some(need.bytes - aside.bytes);
        let is_enough = aside.bytes == need.bytes && u64::from(need.entries) <= entries;
        if is_enough && local.claim_shares(need).is_ok() {
            self.set_aside = None;
            self.grant(ticket, wakers);
        }
    }
}

impl<'a> Place<'a> {
    /// The last place in the queue. One that `looks` is also woken whenever anything at all was freed.
    pub(super) fn new(local: &'a Local, need: Need, looks: bool) -> Place<'a> {
        let queue = local.queue();
        queue.bell.enter();
        let ticket = {
            let mut state = queue.state.lock();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.groups.entry(need.clone()).or_default().insert(ticket);
            let newcomers_before = queue.bell.newcomers.load(Ordering::Relaxed);
            let waiter =
                Waiter { need, looks, stage: Stage::Waits, passed: 0, newcomers_before, waker: None };
            state.waiters.insert(ticket, waiter);
            ticket
        };
        // What was freed since the request was refused was offered to nobody.
        queue.offer(local);
        Place { local, ticket }
    }

    /// Waits until there is something for this waiter. What is granted is the caller's from then on.
    pub(super) async fn turn(&mut self) -> Turn {
        poll_fn(|context| {
            let mut state = self.local.queue().state.lock();
            let waiter = state.waiters.get_mut(&self.ticket).expect("a waiter leaves with its place");
            match waiter.stage {
                Stage::Granted => {
                    waiter.stage = Stage::Served;
                    Poll::Ready(Turn::Granted)
                }
                Stage::MayLook => {
                    waiter.stage = Stage::Waits;
                    Poll::Ready(Turn::Look)
                }
                Stage::Waits | Stage::Served => {
                    waiter.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Back to the old place, after what was granted was given back.
    pub(super) fn wait_on(&mut self) {
        {
            let mut state = self.local.queue().state.lock();
            let waiter = state.waiters.get_mut(&self.ticket).expect("a waiter leaves with its place");
            debug_assert_eq!(waiter.stage, Stage::Served, "only a waiter that was served waits on");
            waiter.stage = Stage::Waits;
            let need = waiter.need.clone();
            state.groups.entry(need).or_default().insert(self.ticket);
        }
        self.local.queue().offer(self.local);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let queue = self.local.queue();
        let (waiter, aside) = {
            let mut state = queue.state.lock();
            state.leave_group(self.ticket);
            let aside = state.set_aside.take_if(|aside| aside.ticket == self.ticket);
            (state.waiters.remove(&self.ticket).expect("a waiter leaves with its place"), aside)
        };
        queue.bell.leave();
        if waiter.stage == Stage::Granted {
            self.local.give_back_claim(&waiter.need);
        }
        if let Some(aside) = aside {
            self.local.heap().give_back(aside.bytes);
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use crate::memory::Budget;
    use loom::{sync::Arc, thread};

    /// The pool is full; one frees, one begins to wait. Either the waiter finds the room, or the one who frees it
    /// finds the waiter: never does the waiter sleep beside free room.
    #[test]
    fn loom_whoever_waits_is_found_or_finds_room() {
        loom::model(|| {
            let shared = Arc::new((Budget::new(1), Bell::default()));
            assert!(shared.0.take(1));
            let freer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.0.give_back(1);
                    shared.1.is_wanted()
                })
            };
            shared.1.enter();
            let found_room = shared.0.take(1);
            let was_found = freer.join().expect("no panic");
            assert!(found_room || was_found, "the waiter sleeps beside free room");
        });
    }
}
