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
use super::plan::ClaimError;
use super::tags::{TagNumber, TagShare};
use crate::sync::{AtomicU64, Ordering, fence};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
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
    pub(super) entries: u64,
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

    /// A request was served at once. Whether somebody waits meanwhile.
    #[inline]
    pub(super) fn newcomer(&self) -> bool {
        let passes_somebody = self.waiting.load(Ordering::Relaxed) != 0;
        if passes_somebody {
            self.newcomers.fetch_add(1, Ordering::Relaxed);
        }
        passes_somebody
    }
}

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    /// By ticket, so in the order in which they came.
    waiters: BTreeMap<u64, Waiter>,
    /// Those that may be offered room, by what they need: of those that need the same only the first can be next.
    groups: BTreeMap<Need, BTreeSet<u64>>,
    /// Those that want to look when anything is freed, and are not about to.
    lookers: BTreeSet<u64>,
    /// Those that want to look when anything of an arena is freed, and are not about to: (number of the arena, ticket).
    arena_lookers: BTreeSet<(u32, u64)>,
    set_aside: Option<SetAside>,
    /// Nobody waits to allocate any more.
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    need: Need,
    looks: Looks,
    stage: Stage,
    /// Times that one who came later was granted room.
    passed: u64,
    /// `Bell::newcomers` when it came.
    newcomers_before: u64,
    waker: Option<Waker>,
}

/// When a waiter wants to look again, besides waiting for its need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Never,
    /// Whenever anything was freed. It is not sent away when the queue is closed: it writes.
    Always,
    /// Whenever anything of the arena of that number was.
    AtArena(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waits,
    /// Something was freed, and it wants to look.
    MayLook,
    /// Its need was taken from the pool for it.
    Granted,
    /// It has that in its hands.
    Served,
    /// The queue was closed.
    Closed,
}

#[derive(Debug)]
struct SetAside {
    ticket: u64,
    /// What it has by now of what it needs.
    room: Need,
}

/// Why a waiter was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its need was taken from the pool, and is its own now.
    Granted,
    /// Something was freed that may be what it wants.
    Look,
    /// The queue was closed: there is nothing to wait for.
    Closed,
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
        self.state.lock().set_aside.as_ref().map_or(0, |aside| aside.room.bytes)
    }

    /// Whether anybody waits for more memory than there is.
    pub(super) fn waits_for_memory(&self, free_bytes: u64) -> bool {
        let needs = |waiter: &Waiter| {
            matches!(waiter.stage, Stage::Waits | Stage::MayLook) && waiter.need.bytes > free_bytes
        };
        self.bell.waiting() != 0 && self.state.lock().waiters.values().any(needs)
    }

    /// Sends away everybody who waits to allocate, now and later.
    pub(super) fn close(&self) {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            state.closed = true;
            let tickets: Vec<u64> = state.waiters.keys().copied().collect();
            for ticket in tickets {
                let waiter = &state.waiters[&ticket];
                let waits = matches!(waiter.stage, Stage::Waits | Stage::MayLook);
                if waiter.looks != Looks::Always && waits {
                    state.leave_group(ticket);
                    state.stop_looking(ticket);
                    let waiter = state.waiters.get_mut(&ticket).expect("it was just looked at");
                    waiter.stage = Stage::Closed;
                    wakers.extend(waiter.waker.take());
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes those who wait for room in the arena of that number: something there was freed, or it has ended.
    #[cold]
    pub(super) fn look_at_arena(&self, arena: u32) {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            let State { waiters, arena_lookers, .. } = &mut *state;
            for (_, ticket) in arena_lookers.extract_if((arena, 0)..=(arena, u64::MAX), |_| true) {
                let waiter = waiters.get_mut(&ticket).expect("a looker is a waiter");
                waiter.stage = Stage::MayLook;
                wakers.extend(waiter.waker.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
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
    /// One round: each waiter is looked at once at most, in the order in which they came. Whoever frees something
    /// meanwhile offers it in a round of its own.
    fn offer(&mut self, local: &Local, bell: &Bell, wakers: &mut Vec<Waker>) {
        for ticket in std::mem::take(&mut self.lookers) {
            let waiter = self.waiters.get_mut(&ticket).expect("a looker is a waiter");
            waiter.stage = Stage::MayLook;
            wakers.extend(waiter.waker.take());
        }
        self.add_to_set_aside(local, wakers);
        let free = local.heap().free_bytes();
        let fitting = self.groups.iter().take_while(|(need, _)| need.bytes <= free);
        let mut heads: BinaryHeap<Reverse<u64>> =
            fitting.filter_map(|(_, tickets)| tickets.first().copied()).map(Reverse).collect();
        // The least that a tag's budget had no room for in this round.
        let mut over: BTreeMap<TagNumber, u64> = BTreeMap::new();
        while let Some(Reverse(ticket)) = heads.pop() {
            let need = &self.waiters[&ticket].need;
            let is_over = |share: &TagShare| over.get(&share.tag).is_some_and(|bytes| *bytes <= share.bytes);
            if need.bytes > local.heap().free_bytes() || need.shares.iter().any(is_over) {
                continue;
            }
            let need = need.clone();
            match local.claim(&need) {
                Ok(()) => {
                    self.grant(ticket, wakers);
                    heads.extend(self.groups.get(&need).and_then(BTreeSet::first).copied().map(Reverse));
                }
                Err(ClaimError::Budget(refused)) => {
                    over.insert(refused.tag, refused.requested_bytes);
                }
                Err(ClaimError::Memory(_) | ClaimError::Table) => {}
            }
        }
        self.begin_to_set_aside(local, bell, wakers);
    }

    /// The need of this waiter was taken for it.
    fn grant(&mut self, ticket: u64, wakers: &mut Vec<Waker>) {
        self.leave_group(ticket);
        self.stop_looking(ticket);
        self.waiters.range_mut(..ticket).for_each(|(_, passed_over)| passed_over.passed += 1);
        let waiter = self.waiters.get_mut(&ticket).expect("it was just looked up");
        waiter.stage = Stage::Granted;
        wakers.extend(waiter.waker.take());
    }

    fn stop_looking(&mut self, ticket: u64) {
        match self.waiters[&ticket].looks {
            Looks::Never => {}
            Looks::Always => {
                self.lookers.remove(&ticket);
            }
            Looks::AtArena(arena) => {
                self.arena_lookers.remove(&(arena, ticket));
            }
        }
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

    /// The first in order gets what is freed from now on, once it was passed over too often.
    fn begin_to_set_aside(&mut self, local: &Local, bell: &Bell, wakers: &mut Vec<Waker>) {
        if self.set_aside.is_some() {
            return;
        }
        let newcomers = bell.newcomers.load(Ordering::Relaxed);
        let is_waiting = |waiter: &Waiter| matches!(waiter.stage, Stage::Waits | Stage::MayLook);
        // Whoever came later was passed over less often.
        let first = self.waiters.iter().find(|(_, waiter)| is_waiting(waiter));
        if let Some((ticket, waiter)) = first
            && waiter.passed + (newcomers - waiter.newcomers_before) >= PASSES_MAX
        {
            let ticket = *ticket;
            let shares = waiter.need.shares.iter().map(|share| TagShare { bytes: 0, ..*share }).collect();
            self.leave_group(ticket);
            self.set_aside = Some(SetAside { ticket, room: Need { shares, ..Need::default() } });
            self.add_to_set_aside(local, wakers);
        }
    }

    /// What is free goes to whom room is set aside for, until it has enough: first of its tags' budgets, so that memory is
    /// not kept from others for one that could not use it yet.
    fn add_to_set_aside(&mut self, local: &Local, wakers: &mut Vec<Waker>) {
        let Some(SetAside { ticket, room }) = &mut self.set_aside else { return };
        let ticket = *ticket;
        let need = &self.waiters[&ticket].need;
        for (has, needs) in room.shares.iter_mut().zip(&need.shares) {
            has.bytes += local.tags().take_some(TagShare { bytes: needs.bytes - has.bytes, ..*needs });
        }
        if room.shares == need.shares {
            room.entries += local.claim_some_entries(need.entries - room.entries);
            room.bytes += local.heap().grant_some(need.bytes - room.bytes);
        }
        if room == need {
            self.set_aside = None;
            self.grant(ticket, wakers);
        }
    }
}

impl<'a> Place<'a> {
    /// The last place in the queue. One that `looks` is also woken whenever anything at all was freed.
    pub(super) fn new(local: &'a Local, need: Need, looks: bool) -> Place<'a> {
        Place::enter(local, need, if looks { Looks::Always } else { Looks::Never })
    }

    /// The last place in the queue, of one that is also woken whenever anything of the arena of that number was freed, and
    /// looks there first.
    pub(super) fn in_arena(local: &'a Local, need: Need, arena: u32) -> Place<'a> {
        Place::enter(local, need, Looks::AtArena(arena))
    }

    fn enter(local: &'a Local, need: Need, looks: Looks) -> Place<'a> {
        let queue = local.queue();
        queue.bell.enter();
        let ticket = {
            let mut state = queue.state.lock();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let is_sent_away = state.closed && looks != Looks::Always;
            if !is_sent_away {
                state.groups.entry(need.clone()).or_default().insert(ticket);
            }
            if looks == Looks::Always {
                state.lookers.insert(ticket);
            }
            let stage = match looks {
                _ if is_sent_away => Stage::Closed,
                Looks::AtArena(_) => Stage::MayLook,
                Looks::Never | Looks::Always => Stage::Waits,
            };
            let newcomers_before = queue.bell.newcomers.load(Ordering::Relaxed);
            let waiter = Waiter { need, looks, stage, passed: 0, newcomers_before, waker: None };
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
            let State { waiters, lookers, arena_lookers, .. } = &mut *state;
            let waiter = waiters.get_mut(&self.ticket).expect("a waiter leaves with its place");
            match waiter.stage {
                Stage::Granted => {
                    waiter.stage = Stage::Served;
                    Poll::Ready(Turn::Granted)
                }
                Stage::MayLook => {
                    waiter.stage = Stage::Waits;
                    match waiter.looks {
                        Looks::AtArena(arena) => arena_lookers.insert((arena, self.ticket)),
                        Looks::Never | Looks::Always => lookers.insert(self.ticket),
                    };
                    Poll::Ready(Turn::Look)
                }
                Stage::Closed => Poll::Ready(Turn::Closed),
                Stage::Waits | Stage::Served => {
                    waiter.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let queue = self.local.queue();
        let (waiter, aside) = {
            let mut state = queue.state.lock();
            state.leave_group(self.ticket);
            state.stop_looking(self.ticket);
            let aside = state.set_aside.take_if(|aside| aside.ticket == self.ticket);
            (state.waiters.remove(&self.ticket).expect("a waiter leaves with its place"), aside)
        };
        queue.bell.leave();
        if waiter.stage == Stage::Granted {
            self.local.give_back_claim(&waiter.need);
        }
        if let Some(aside) = aside {
            self.local.give_back_claim(&aside.room);
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
        crate::sync::model(|| {
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
