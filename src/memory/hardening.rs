//! Hardening: writes by somebody who has no right to, how they are found, and what becomes of the slab.
//!
//! All our own writes are checked against the block's bounds, so whatever else changes is a stray write: of a part of the
//! process that is broken, or attacked. Two kinds can be found without a look at every byte:
//!
//! - *Canary*: bytes behind a block's content, up to its slab's end, are zeros. The first 64 of them are looked at when the
//!   block is freed, if anything was written near.
//! - *Use after free*: a free slab is zeros. Its ends are looked at before it is given out again, all of it by a sweep.
//!
//! A slab that is found damaged is retired: it stays in use, held by nobody, and is never given out again. So its bytes
//! are missing from the pool, and everything else goes on. A slab never written since its pages came is not looked at:
//! that would bring its pages in.

use super::bytes::{Look, Protection, Slabs};
use super::class::Class;
use super::dirty;
use super::guard::Guards;
use super::segment::{AccessError, Exclusive};
use super::{AllocateError, Config, Heap, SizeClass, SlabLocation};
use crate::sync::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::warn;

/// Bytes behind a block's content that are looked at.
const SLACK_BYTES_MAX: u64 = 64;

/// Of a slab that is given out again, so many bytes at its beginning and as many at its end have to be zeros; of a small
/// one all. More of them would be more lines to fetch: these two cost what ARCHITECTURE.md says.
const LOOKED_AT_BYTES: u64 = 64;

/// Bytes that a sweep looks at under one hold of a class's lock: about 3 µs.
const SWEEP_STEP_BYTES: u64 = 32 << 10;

/// What passing by a slab costs a sweep, in bytes that it could have looked at.
const SWEEP_VISIT_BYTES: u64 = 256;

/// What found a stray write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Bytes behind the end of a block's content were not zeros.
    Canary,
    /// A free slab was not zeros.
    UseAfterFree,
}

impl Violation {
    /// Every one, in the order in which they are counted.
    pub const ALL: [Violation; 2] = [Violation::Canary, Violation::UseAfterFree];

    /// As logs and metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Violation::Canary => "canary",
            Violation::UseAfterFree => "use_after_free",
        }
    }
}

/// What a slice of a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Bytes that it looked at.
    pub bytes: u64,
    /// Slabs that it retired.
    pub retired: u64,
    /// Whether it came to the end; the next slice begins anew.
    pub is_round_over: bool,
}

/// What was found so far, and where the sweep stands.
#[derive(Debug)]
pub(super) struct Hardening {
    canaries: bool,
    found: [AtomicU64; Violation::ALL.len()],
    /// Bytes of retired slabs for which there was no room when they were found. They are kept from what is given back
    /// next, so that in use they are in the end.
    owed_bytes: AtomicU64,
    /// Held by the one who sweeps.
    sweep: Mutex<Cursor>,
}

/// The next byte to look at.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    class: usize,
    index: u64,
    offset: u64,
}

impl Hardening {
    pub(super) fn new(canaries: bool) -> Hardening {
        Hardening {
            canaries,
            found: Default::default(),
            owed_bytes: AtomicU64::new(0),
            sweep: Mutex::default(),
        }
    }

    /// Whether stray writes are looked for.
    pub(super) fn canaries(&self) -> bool {
        self.canaries
    }

    /// Violations so far, in the order of [`Violation::ALL`].
    pub(super) fn found(&self) -> [u64; Violation::ALL.len()] {
        self.found.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn owed_bytes(&self) -> u64 {
        self.owed_bytes.load(Ordering::Relaxed)
    }

    fn note(&self, violation: Violation, slab_size_bytes: u64, slab: u64) {
        let place = Violation::ALL.iter().position(|kind| *kind == violation).expect("all are in it");
        self.found[place].fetch_add(1, Ordering::Relaxed);
        warn!(kind = violation.name(), slab_size_bytes, slab, "a stray write damaged a slab: it is retired");
    }
}

impl Protection {
    /// What a configuration asks for.
    pub(super) fn new(config: &Config) -> Protection {
        Protection {
            canaries: config.canaries && config.zero_on_free, // what is not zeroed has nothing to look for
            guards: config.guard_pages.then(|| Arc::new(Guards::new())),
            huge_multiple_bytes: config.huge_pages.slab_multiple_bytes(),
        }
    }
}

impl Slabs {
    /// Gives a closed slab to its first holder. False where it was looked at, as [`Slabs::claim`] does, and is damaged: it
    /// stays closed then. For whoever took it from where it lay closed.
    ///
    /// # Panics
    /// If it is not closed.
    #[inline]
    pub(super) fn open(&self, index: u64) -> bool {
        self.record(index).open(|was_written| self.may_open(index, was_written))
    }

    /// Whether a closed slab may be given out.
    #[inline]
    pub(super) fn may_open(&self, index: u64, was_written: bool) -> bool {
        !(was_written && self.canaries) || self.is_undamaged(index)
    }

    /// Whether a closed slab shows no stray write. For whoever took it from where it lay closed.
    fn is_undamaged(&self, index: u64) -> bool {
        let access = self.record(index).reopen();
        let is_zero = self.ends_are_zero(index, &access);
        access.stay_closed();
        is_zero
    }

    /// Whether the ends of a slab are zeros, or all of it where it is small.
    #[inline]
    pub(super) fn ends_are_zero(&self, index: u64, access: &Exclusive<'_>) -> bool {
        // The ends, which of a small slab are all of it.
        let slab_bytes = self.bytes_of(index);
        let part = LOOKED_AT_BYTES.min(slab_bytes);
        self.reads_zero(index, access, 0..part)
            && self.reads_zero(index, access, slab_bytes - part..slab_bytes)
    }
}

impl Heap {
    /// Takes a slab on granted bytes by `take`, and others in place of it as long as it is damaged: those are retired.
    ///
    /// # Errors
    /// As `take`, and [`AllocateError::Exhausted`] where a slab was retired that leaves no room for another.
    pub(super) fn take_undamaged(
        &self,
        mut take: impl FnMut() -> Result<Option<SlabLocation>, AllocateError>,
    ) -> Result<Option<SlabLocation>, AllocateError> {
        loop {
            let Some(location) = take()? else { return Ok(None) };
            let (slabs, index) = self.slabs(location);
            if !slabs.record(index).is_damaged() {
                return Ok(Some(location));
            }
            self.retire_given(location)?;
        }
    }

    /// A slab that was just taken from a magazine, and is closed still, is damaged: it is retired, and what was granted for
    /// it stays in use.
    #[cold]
    pub(super) fn retire_closed(&self, class: SizeClass, index: u64) {
        let room = &self.classes[usize::from(class.0)];
        self.hardening.note(Violation::UseAfterFree, room.slab_bytes(), index);
        room.slabs().record(index).reopen().make_retired();
        room.retire_used(&mut room.lock());
    }

    /// A slab that was just given out on granted bytes is damaged: they become its own, and the caller gets others.
    #[cold]
    pub(super) fn retire_given(&self, location: SlabLocation) -> Result<(), AllocateError> {
        let (slabs, index) = self.slabs(location);
        let slab_bytes = slabs.bytes_of(index);
        self.hardening.note(Violation::UseAfterFree, slab_bytes, index);
        self.release(location);
        self.grant(slab_bytes).inspect_err(|_| {
            // The caller gives its bytes back now, and these are kept of them.
            self.hardening.owed_bytes.fetch_add(slab_bytes, Ordering::Relaxed);
        })
    }

    /// Gives granted bytes back, but for what retired slabs still need.
    #[inline]
    pub(super) fn return_granted(&self, bytes: u64) {
        // Almost always 0, so that the line is only read. Relaxed: whoever owes gives back itself, after it said so.
        let owed = self.hardening.owed_bytes.load(Ordering::Relaxed);
        self.in_use.give_back(if owed == 0 { bytes } else { self.settle(bytes) });
    }

    /// Keeps of `bytes` what retired slabs still need, and returns the rest.
    #[cold]
    fn settle(&self, bytes: u64) -> u64 {
        let pay = |owed: u64| Some(owed.saturating_sub(bytes));
        let owed = self.hardening.owed_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
        bytes - owed.expect("it always pays").min(bytes)
    }

    /// Looks whether what lies behind a block's content is zeros still, and has the slab retired if not; false then. For
    /// who ends the block, while it holds it. A block that was not written near its end costs no look.
    ///
    /// # Panics
    /// If the content is longer than the slab.
    #[inline]
    pub(crate) fn check_slack(&self, location: SlabLocation, content_bytes: u64) -> bool {
        let (slabs, index) = self.slabs(location);
        let slab_bytes = slabs.bytes_of(index);
        assert!(content_bytes <= slab_bytes, "{content_bytes} bytes lie in a slab of {slab_bytes}");
        let slack = self.slack_at_risk(slab_bytes, slabs.record(index).dirty(), content_bytes);
        let is_zero = slack.is_none_or(|slack| self.slack_is_zero(location, slack));
        if !is_zero {
            self.retire(location, Violation::Canary);
        }
        is_zero
    }

    /// What lies behind a block's content and is to be looked at; none where nothing was written near its end.
    #[inline]
    fn slack_at_risk(&self, slab_bytes: u64, dirty: u32, content_bytes: u64) -> Option<Range<u64>> {
        let slack = content_bytes..slab_bytes.min(content_bytes + SLACK_BYTES_MAX);
        if dirty == 0 || slack.is_empty() || !self.hardening.canaries {
            return None;
        }
        // The last byte of the content counts too: a write that begins there is what most often runs on.
        let near = content_bytes.saturating_sub(1)..slack.end;
        (dirty & dirty::mask_of(slab_bytes, &near) != 0).then_some(slack)
    }

    /// As [`Heap::check_slack`], for whoever has exclusive access to the slab, and without consequences.
    #[inline]
    pub(super) fn is_slack_zero(
        &self,
        slabs: &Slabs,
        index: u64,
        access: &Exclusive<'_>,
        content: u64,
    ) -> bool {
        let slack = self.slack_at_risk(slabs.bytes_of(index), access.dirty(), content);
        slack.is_none_or(|slack| slabs.reads_zero(index, access, slack))
    }

    /// Counts and logs a stray write.
    #[cold]
    pub(super) fn note_violation(&self, violation: Violation, location: SlabLocation) {
        self.hardening.note(violation, self.slab_bytes(location), location.index());
    }

    fn slack_is_zero(&self, location: SlabLocation, slack: Range<u64>) -> bool {
        let (slabs, index) = self.slabs(location);
        match slabs.change(index) {
            Ok(change) => {
                let is_zero = change.reads_zero(slack);
                let writes = change.writes();
                change.end(writes);
                is_zero
            }
            // Beside readers, as one of them. What is free, or has too many of them, is not for us to judge.
            Err(AccessError::Shared) => Look::new(self, location).map_or(true, |look| look.reads_zero(slack)),
            Err(_) => true,
        }
    }

    /// Has a slab retired when its last holder lets go. For holders. A second time changes nothing.
    #[cold]
    fn retire(&self, location: SlabLocation, violation: Violation) {
        let (slabs, index) = self.slabs(location);
        if slabs.record(index).set_damaged() {
            self.hardening.note(violation, slabs.bytes_of(index), index);
        }
    }

    /// The last holder of a damaged slab let go. Its bytes stay in use.
    #[cold]
    pub(super) fn retire_released(&self, location: SlabLocation, access: Exclusive<'_>) {
        if location.is_run() {
            return self.retire_segment(location, access);
        }
        let room = self.class(location.class());
        let (slabs, index) = (room.slabs(), location.index());
        if access.was_draining() {
            self.draining_bytes.fetch_sub(slabs.slab_bytes(), Ordering::Relaxed);
        }
        slabs.scrub(index, &access); // what its client wrote stays nobody's
        access.make_retired();
        room.retire_used(&mut room.lock());
        self.tell_room_freed(); // a write may wait for just this reader
    }

    /// Looks at the next free slabs, about `bytes_max` of them, whether they are zeros still, and retires those that are
    /// not. Calls that follow each other come to every free slab. 1 MiB takes about 0.1 ms.
    pub fn sweep_slice(&self, bytes_max: u64) -> Swept {
        let mut swept = Swept::default();
        if !self.hardening.canaries {
            return Swept { is_round_over: true, ..swept };
        }
        let mut cursor = self.hardening.sweep.lock();
        let mut spent = 0;
        while spent < bytes_max {
            let step = (bytes_max - spent).min(SWEEP_STEP_BYTES);
            let Some(room) = self.classes.get(cursor.class) else {
                // Behind the classes come the free runs, by page.
                let Some(looked) = self.look_at_run(&mut cursor.index, step) else {
                    *cursor = Cursor::default();
                    swept.is_round_over = true;
                    break;
                };
                swept.bytes += looked.bytes;
                swept.retired += u64::from(looked.is_retired);
                spent += looked.bytes;
                continue;
            };
            let (looked, is_zero) = sweep_step(room, &mut cursor, step);
            swept.bytes += looked;
            spent += looked.max(SWEEP_VISIT_BYTES);
            if !is_zero {
                swept.retired += u64::from(self.retire_free(room, cursor.index));
                (cursor.index, cursor.offset) = (cursor.index + 1, 0);
            }
        }
        swept
    }

    /// Retires a free slab that is damaged, if there is room for it still, and it is free still. Where all room is granted
    /// somebody is about to take the slab, and looks too.
    #[cold]
    fn retire_free(&self, room: &Class, index: u64) -> bool {
        let bytes = room.slab_bytes();
        if self.grant(bytes).is_err() {
            return false;
        }
        let mut account = room.lock();
        let damaged = (account.free_from(index) == Some(index))
            .then(|| room.slabs().record(index).close_free())
            .flatten();
        let Some(access) = damaged else {
            drop(account);
            self.give_back(bytes);
            return false;
        };
        if room.slabs().reads_zero(index, &access, 0..bytes) {
            access.make_free();
            drop(account);
            self.give_back(bytes);
            return false;
        }
        access.make_retired();
        room.retire_free(&mut account, index);
        drop(account);
        self.hardening.note(Violation::UseAfterFree, bytes, index);
        true
    }
}

/// A stray write, for tests that show that it is found.
#[cfg(all(test, not(feature = "loom")))]
impl Heap {
    /// Writes a byte `offset` bytes from a slab's beginning, as nobody may.
    pub(crate) fn poke(&self, location: SlabLocation, offset: u64) {
        let (slabs, index) = self.slabs(location);
        slabs.poke(index, offset, 0x5a);
    }
}

/// Looks at up to `bytes_max` of the first free slab from the cursor on, and moves it behind them. Returns how many bytes
/// it looked at, and whether they are zeros; if not, the cursor stays at the slab.
fn sweep_step(room: &Class, cursor: &mut Cursor, bytes_max: u64) -> (u64, bool) {
    let account = room.lock(); // keeps everybody from taking the slab
    let Some(index) = account.free_from(cursor.index) else {
        *cursor = Cursor { class: cursor.class + 1, ..Cursor::default() };
        return (0, true);
    };
    if index != cursor.index {
        (cursor.index, cursor.offset) = (index, 0);
    }
    let slab_bytes = room.slab_bytes();
    let range = cursor.offset..slab_bytes.min(cursor.offset + bytes_max);
    let Some(access) = room.slabs().record(index).close_free() else {
        (cursor.index, cursor.offset) = (index + 1, 0);
        return (0, true);
    };
    let is_looked_at = access.was_written();
    let is_zero = !is_looked_at || room.slabs().reads_zero(index, &access, range.clone());
    access.make_free();
    if is_zero && is_looked_at && range.end < slab_bytes {
        cursor.offset = range.end;
    } else if is_zero {
        (cursor.index, cursor.offset) = (index + 1, 0);
    }
    (if is_looked_at { range.end - range.start } else { 0 }, is_zero)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
