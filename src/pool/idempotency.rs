//! Which request was already served? Keys that clients put on requests which make allocations, so that a request sent
//! twice allocates once.
//!
//! ```text
//!             begin                    finish(digest, ids)          10 minutes, or a bound
//!   (unknown) ─────▶ running (a ticket) ─────────────────▶ served ───────────────────────▶ (unknown)
//!                       └── the ticket is dropped: the request failed ──▶ (unknown)
//! ```
//!
//! A key is remembered with a digest of its request and the ids that were made, not with the answer: a repeat is
//! answered with what the allocations are by then. Keys that are served are forgotten oldest first. One that is
//! running is never forgotten, however many others come; it counts in the bound all the same, so a request whose key
//! finds nothing but running ones is refused.

use super::AllocationId;
use crate::clock::Now;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long a key is remembered once its request was served.
pub const KEY_KEPT: Duration = Duration::from_secs(600);
/// Keys that are known at most, running ones included. With the longest keys they take 65,536 × 255 bytes, 16 MiB.
pub const KEYS_MAX: usize = 65_536;
/// Ids that are remembered at most, of all keys together: 2^20 of 16 bytes, 16 MiB. Batches have many.
pub const KEY_IDS_MAX: usize = 1 << 20;

/// Keys whose time is over that one call forgets at most, under the lock that every request with a key takes: two
/// calls come to each key, so they keep up.
const FORGOTTEN_AT_ONCE: usize = 64;

/// What a request was: its route, query and body under SHA-256, so that nobody can make two that pass for one. Made
/// piece by piece, so that a body can stream by.
#[derive(Clone, Debug, Default)]
pub struct Digester(Sha256);

/// Two requests with one digest count as the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digester {
    /// Adds what must be the same as a whole, such as a query: what follows can never pass for a part of it.
    pub fn part(&mut self, part: &[u8]) {
        self.piece(&(part.len() as u64).to_le_bytes());
        self.piece(part);
    }

    /// Adds the next piece of the body. Where a body is cut makes no difference.
    pub fn piece(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// A request with this key cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another request with the same key is running.
    #[error("a request with this key is still running")]
    InUse,
    /// As many requests with keys are running as there may be keys.
    #[error("{keys_max} requests with a key are running, as many as can be")]
    Full {
        /// The bound that was met.
        keys_max: usize,
    },
}

/// What a request with a key is.
#[derive(Debug)]
pub enum Begun<'a> {
    /// The first with its key, as far as is remembered: it is to be served.
    New(Ticket<'a>),
    /// A repeat of one that was served.
    Repeat(Served),
}

/// What is remembered of a request that was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Of the request. A repeat with another digest is no repeat.
    pub digest: Digest,
    /// What it made, in the order asked for.
    pub ids: Arc<[AllocationId]>,
}

/// A request that runs under its key. Dropped before it was served, it leaves nothing behind.
#[derive(Debug)]
pub struct Ticket<'a> {
    keys: &'a Idempotency,
    /// Taken when it was served.
    key: Option<Arc<[u8]>>,
}

impl Ticket<'_> {
    /// The request was served: it made `ids`. Called without a pause after they were made, so that no client that
    /// hangs up falls between the two.
    pub fn finish(mut self, digest: Digest, ids: &[AllocationId], now: Now) {
        let key = self.key.take().expect("only this call takes it");
        let served = Served { digest, ids: ids.into() }; // made before the lock is taken: a batch has many
        self.keys.known.lock().finish(key, served, now);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.keys.known.lock().abandon(&key);
        }
    }
}

/// All keys that are known.
#[derive(Debug)]
pub struct Idempotency {
    /// Held for one look-up at a time; requests without a key never come here.
    known: Mutex<Known>,
}

impl Default for Idempotency {
    fn default() -> Idempotency {
        Idempotency { known: Mutex::new(Known::new(KEYS_MAX, KEY_IDS_MAX)) }
    }
}

impl Idempotency {
    /// Begins a request with a key.
    ///
    /// # Errors
    /// [`KeyError`] where one is running with the same key, or too many are running.
    pub fn begin(&self, key: &[u8], now: Now) -> Result<Begun<'_>, KeyError> {
        match self.known.lock().begin(key, now)? {
            Ok(key) => Ok(Begun::New(Ticket { keys: self, key: Some(key) })),
            Err(served) => Ok(Begun::Repeat(served)),
        }
    }
}

/// The keys themselves, without lock and guard.
#[derive(Debug)]
struct Known {
    keys: HashMap<Arc<[u8]>, State>,
    /// Keys that were served and when they are forgotten, oldest first. Every key whose state says so is here once; one
    /// that was begun anew after its time may be here still for its old self, with another `Arc`.
    served: VecDeque<(Arc<[u8]>, Now)>,
    /// Ids of all of them.
    ids: usize,
    keys_max: usize,
    ids_max: usize,
    /// [`FORGOTTEN_AT_ONCE`]; the tests have less.
    forgotten_at_once: usize,
}

#[derive(Debug)]
enum State {
    Running,
    /// Known until then; whatever comes later finds it unknown, forgotten or not.
    Served(Served, Now),
}

impl Known {
    fn new(keys_max: usize, ids_max: usize) -> Known {
        let forgotten_at_once = FORGOTTEN_AT_ONCE;
        Known { keys: HashMap::new(), served: VecDeque::new(), ids: 0, keys_max, ids_max, forgotten_at_once }
    }

    /// The key, which runs from now on; or what is known of it because it was served.
    fn begin(&mut self, key: &[u8], now: Now) -> Result<Result<Arc<[u8]>, Served>, KeyError> {
        self.forget_expired(now);
        match self.keys.get(key) {
            Some(State::Running) => return Err(KeyError::InUse),
            Some(State::Served(served, until)) if *until > now => return Ok(Err(served.clone())),
            Some(State::Served(..)) => self.forget(key),
            None => {}
        }
        if self.keys.len() >= self.keys_max && !self.forget_oldest() {
            return Err(KeyError::Full { keys_max: self.keys_max });
        }
        let key: Arc<[u8]> = key.into();
        self.keys.insert(key.clone(), State::Running);
        Ok(Ok(key))
    }

    fn finish(&mut self, key: Arc<[u8]>, served: Served, now: Now) {
        self.forget_expired(now);
        while self.ids + served.ids.len() > self.ids_max && self.forget_oldest() {}
        self.ids += served.ids.len();
        // Clocks read by two threads may come in either order; the queue's order is the one that counts.
        let newest = self.served.back().map_or(Now(0), |(_, until)| *until);
        let until = now.after(KEY_KEPT).max(newest);
        self.served.push_back((key.clone(), until));
        let before = self.keys.insert(key, State::Served(served, until));
        debug_assert!(matches!(before, Some(State::Running)), "only a running request is served");
        self.check();
    }

    fn abandon(&mut self, key: &[u8]) {
        let before = self.keys.remove(key);
        debug_assert!(matches!(before, Some(State::Running)), "only a running request is given up");
    }

    fn forget_expired(&mut self, now: Now) {
        for _ in 0..self.forgotten_at_once {
            if self.served.front().is_none_or(|(_, until)| *until > now) {
                return;
            }
            self.forget_first();
        }
    }

    /// Forgets the key that was served first; false where there is none.
    fn forget_oldest(&mut self) -> bool {
        while let Some(was_known) = self.forget_first() {
            if was_known {
                return true;
            }
        }
        false
    }

    /// Takes the first from the queue, and forgets its key unless that was begun anew. None where the queue is empty.
    fn forget_first(&mut self) -> Option<bool> {
        let (key, _) = self.served.pop_front()?;
        let is_known = self.keys.get_key_value(&key).is_some_and(|(known, _)| Arc::ptr_eq(known, &key));
        if is_known {
            self.forget(&key);
        }
        Some(is_known)
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(State::Served(served, _)) = self.keys.remove(key) {
            self.ids -= served.ids.len();
        }
    }

    /// What must hold after every call, as far as it costs next to nothing. The queue is no longer than the keys may be
    /// many: while it has old selves of keys, each call that adds to it takes one away.
    fn check(&self) {
        debug_assert!(self.keys.len() <= self.keys_max && self.served.len() <= self.keys_max);
        debug_assert!(self.ids <= self.ids_max || self.served.len() == 1);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u64) -> AllocationId {
        format!("00000000-0000-8000-8000-{number:012x}").parse().expect("an id")
    }

    fn digest(of: &str) -> Digest {
        let mut digester = Digester::default();
        digester.piece(of.as_bytes());
        digester.finish()
    }

    fn served(begun: Begun) -> Served {
        match begun {
            Begun::Repeat(served) => served,
            Begun::New(_) => panic!("the key was not known"),
        }
    }

    fn ticket(begun: Begun) -> Ticket {
        match begun {
            Begun::New(ticket) => ticket,
            Begun::Repeat(_) => panic!("the key was known"),
        }
    }

    #[test]
    fn a_key_is_running_then_served_then_forgotten() {
        let keys = Idempotency::default();
        let first = ticket(keys.begin(b"a", Now(0)).expect("a new key"));
        assert_eq!(keys.begin(b"a", Now(1)).expect_err("it runs"), KeyError::InUse);
        first.finish(digest("x"), &[id(1), id(2)], Now(5));
        let end = Now(5).after(KEY_KEPT);
        let found = served(keys.begin(b"a", Now(end.0 - 1)).expect("it is known"));
        assert_eq!((found.digest, &found.ids[..]), (digest("x"), &[id(1), id(2)][..]));
        drop(ticket(keys.begin(b"a", end).expect("it is forgotten")));
    }

    #[test]
    fn a_ticket_that_is_dropped_leaves_no_key_behind() {
        let keys = Idempotency::default();
        drop(ticket(keys.begin(b"a", Now(0)).expect("a new key")));
        drop(ticket(keys.begin(b"a", Now(0)).expect("a new key again")));
        assert!(keys.known.lock().keys.is_empty());
    }

    #[test]
    fn the_oldest_is_forgotten_and_a_running_one_never_is() {
        let mut known = Known::new(2, 100);
        let run = |known: &mut Known, key: &str| known.begin(key.as_bytes(), Now(0));
        let first = run(&mut known, "a").expect("room").expect("new");
        let second = run(&mut known, "b").expect("room").expect("new");
        assert_eq!(run(&mut known, "c"), Err(KeyError::Full { keys_max: 2 }));
        known.finish(second, Served { digest: digest(""), ids: [id(2)].into() }, Now(0));
        let third = run(&mut known, "c").expect("b makes room").expect("new");
        known.finish(third, Served { digest: digest(""), ids: [id(3)].into() }, Now(0));
        assert!(run(&mut known, "b").expect("c makes room").is_ok(), "it was forgotten");
        assert_eq!(run(&mut known, "a"), Err(KeyError::InUse));
        known.abandon(&first);
    }

    #[test]
    fn ids_are_bounded_in_all_and_one_request_is_remembered_whatever_it_made() {
        let mut known = Known::new(100, 3);
        for (key, count, left) in [("a", 2, 2), ("b", 1, 3), ("c", 2, 3), ("d", 3, 3), ("e", 1, 1)] {
            let running = known.begin(key.as_bytes(), Now(0)).expect("room").expect("new");
            let ids: Vec<_> = (0..count).map(id).collect();
            known.finish(running, Served { digest: digest(""), ids: ids.into() }, Now(0));
            assert_eq!(known.ids, left, "{key}");
        }
    }

    #[test]
    fn a_digest_knows_parts_apart_and_not_how_a_body_was_cut() {
        let of = |parts: &[&str], pieces: &[&str]| {
            let mut digester = Digester::default();
            parts.iter().for_each(|part| digester.part(part.as_bytes()));
            pieces.iter().for_each(|piece| digester.piece(piece.as_bytes()));
            digester.finish()
        };
        assert_eq!(of(&["/a", "x"], &["body"]), of(&["/a", "x"], &["bo", "", "dy"]));
        assert_ne!(of(&["/a", "x"], &["body"]), of(&["/a"], &["xbody"]));
        assert_ne!(of(&["/a", ""], &["x"]), of(&["/a", "x"], &[""]));
        assert_ne!(of(&[], &["body"]), of(&[], &["bodx"]));
    }

    #[test]
    fn two_bodies_with_one_crc_32_and_one_length_are_two_requests() {
        // CRC-32 of both is 0x4ddb0c25, the classic pair of eight letters.
        assert_ne!(digest("plumless"), digest("buckeroo"));
        assert_eq!(digest("plumless"), digest("plumless"));
    }

    #[test]
    fn a_call_forgets_few_keys_at_a_time_and_finds_none_whose_time_is_over() {
        let mut known = Known::new(1000, 1000);
        let run = |known: &mut Known, key: u64, now| known.begin(&key.to_le_bytes(), now).expect("room");
        let made = |number| Served { digest: digest(""), ids: [id(number)].into() };
        for number in 0..500 {
            let key = run(&mut known, number, Now(0)).expect("new");
            known.finish(key, made(number), Now(0));
        }
        let end = Now(0).after(KEY_KEPT);
        let newest = run(&mut known, 499, end).expect("its time is over");
        assert_eq!(known.keys.len(), 500 - FORGOTTEN_AT_ONCE, "499 runs again");
        known.finish(newest, made(1000), end);
        for number in 1000..1010 {
            let key = run(&mut known, number, end).expect("new");
            known.abandon(&key);
        }
        assert_eq!((known.keys.len(), known.served.len(), known.ids), (1, 1, 1));
        assert_eq!(run(&mut known, 499, end), Err(made(1000)), "its old self did not take it along");
    }

    /// Everything as a list that is searched from end to end.
    #[derive(Default)]
    struct Twin {
        running: Vec<u8>,
        served: Vec<(u8, Now, Served)>,
    }

    impl Twin {
        fn begin(&mut self, key: u8, now: Now, keys_max: usize) -> Result<Option<Served>, KeyError> {
            self.served.retain(|(_, until, _)| *until > now);
            if self.running.contains(&key) {
                return Err(KeyError::InUse);
            }
            if let Some((_, _, served)) = self.served.iter().find(|(known, ..)| *known == key) {
                return Ok(Some(served.clone()));
            }
            if self.running.len() + self.served.len() >= keys_max {
                if self.served.is_empty() {
                    return Err(KeyError::Full { keys_max });
                }
                self.served.remove(0);
            }
            self.running.push(key);
            Ok(None)
        }

        fn finish(&mut self, key: u8, made: Served, now: Now, ids_max: usize) {
            self.served.retain(|(_, until, _)| *until > now);
            self.running.retain(|known| *known != key);
            let ids = |twin: &Twin| twin.served.iter().map(|(.., served)| served.ids.len()).sum::<usize>();
            while ids(self) + made.ids.len() > ids_max && !self.served.is_empty() {
                self.served.remove(0);
            }
            self.served.push((key, now.after(KEY_KEPT), made));
        }
    }

    proptest! {
        /// Steps: (what, key, ids made, time that passes before it, in minutes).
        #[test]
        fn random_requests_find_what_a_naive_twin_finds(
            steps in prop::collection::vec((0_u8..4, 0_u8..12, 0_u64..6, 0_u64..4), 0..200)
        ) {
            const KEYS: usize = 6;
            const IDS: usize = 10;
            let (mut known, mut twin) = (Known::new(KEYS, IDS), Twin::default());
            known.forgotten_at_once = 1; // so that many are there beyond their time
            let mut now = Now(0);
            for (what, key, ids, minutes) in steps {
                now = now.after(Duration::from_secs(minutes * 60));
                let is_running = twin.running.contains(&key);
                match what {
                    0 if is_running => {
                        known.abandon(&[key]);
                        twin.running.retain(|known| *known != key);
                    }
                    1 if is_running => {
                        let ids: Vec<_> = (0..ids).map(id).collect();
                        let made = Served { digest: digest(&now.0.to_string()), ids: ids.into() };
                        let (begun, _) = known.keys.get_key_value(&[key][..]).expect("it runs");
                        known.finish(begun.clone(), made.clone(), now);
                        twin.finish(key, made, now, IDS);
                    }
                    _ => {
                        let found = known.begin(&[key], now).map(Result::err);
                        prop_assert_eq!(found, twin.begin(key, now, KEYS));
                    }
                }
                twin.served.retain(|(_, until, _)| *until > now);
                let states = |is: &dyn Fn(&State) -> bool| known.keys.values().filter(|state| is(state)).count();
                let running = states(&|state| matches!(state, State::Running));
                let living = states(&|state| matches!(state, State::Served(_, until) if *until > now));
                prop_assert_eq!((running, living), (twin.running.len(), twin.served.len()));
                let ids = |state: &State| if let State::Served(served, _) = state { served.ids.len() } else { 0 };
                prop_assert_eq!(known.ids, known.keys.values().map(ids).sum::<usize>());
                known.check();
            }
        }
    }
}
