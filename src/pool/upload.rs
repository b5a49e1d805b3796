//! Uploads: bodies of any length on their way into an allocation, piece by piece. See `content.rs` for the three ways
//! in which content is written.

use super::content::{Placement, Precondition, WriteError, check_end};
use super::handover::Backing;
use super::id::{AllocationId, Key};
use super::local::Local;
use super::moving::owner_of;
use super::plan::Room;
use super::table::Record;
use super::{NotFound, Written};
use crate::clock::Now;
use crate::memory::{self, Edit, Heap, Pin, SizeClass, SlabLocation};

/// Times that an upload fills its edges beside other writers, before it does so under the entry's lock.
const UNLOCKED_FILLS_MAX: u32 = 2;

impl Local {
    /// Begins an upload: into the allocation's own segment if it was never written and nobody else does, else into a
    /// private one.
    pub(super) async fn upload(
        &self,
        id: AllocationId,
        placement: Placement,
        precondition: &Precondition,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        {
            let (index, entry, record) = self.look_up(id, now)?;
            check_end(placement, 0, record.size_bytes)?;
            precondition.check_early(self.heap().writes(record.location))?;
            if self.heap().writes(record.location) == 0 && !entry.is_lent() {
                entry.set_lent(true);
                return Ok(Upload::new(self, id, (index, record), placement, None));
            }
        }
        self.upload_private(id, placement, room, now).await
    }

    /// Begins an upload into a segment of its own: from `room`, where that was granted already.
    pub(super) async fn upload_private(
        &self,
        id: AllocationId,
        placement: Placement,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        let (index, record) = {
            let (index, _entry, record) = self.look_up(id, now)?;
            (index, record)
        };
        let class = record.location.class();
        let location = self.private_segment(class, room, now).await.map_err(WriteError::NoRoom)?;
        Ok(Upload::new(self, id, (index, record), placement, Some(location)))
    }

    /// A slab that is nobody's but the caller's: from `room`, where that was granted already.
    async fn private_segment(
        &self,
        class: SizeClass,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<SlabLocation, memory::AllocateError> {
        let granted_bytes = match room {
            Some(mut room) => match room.try_back(class)? {
                Some(location) => return Ok(location),
                None => room.take_bytes(),
            },
            None => match self.take_slab(class, now)? {
                Some(location) => return Ok(location),
                None => self.heap().class_bytes(class),
            },
        };
        let backing = Backing::new(self.heap(), Vec::new(), vec![class], granted_bytes);
        Ok(self.finish(backing).await?.pop().expect("as many as were missing"))
    }
}

/// A body on its way into an allocation. Nobody sees anything of it before [`Upload::commit`]; dropped before that, it
/// leaves no trace.
#[derive(Debug)]
pub struct Upload<'a> {
    local: &'a Local,
    id: AllocationId,
    /// The entry and the key it must still have.
    target: (u32, Key),
    /// The segment that is filled. Ours, or lent.
    location: SlabLocation,
    lent: bool,
    placement: Placement,
    size_bytes: u64,
    received_bytes: u64,
    /// The version that the edges were filled from; none: they are zeros. A version is the same content for ever,
    /// wherever it is moved.
    edges_from: Option<u64>,
    /// Nothing is left to clean up.
    committed: bool,
}

impl<'a> Upload<'a> {
    /// An upload into `private`, or where there is none into the segment that the allocation lends.
    fn new(
        local: &'a Local,
        id: AllocationId,
        (index, record): (u32, Record),
        placement: Placement,
        private: Option<SlabLocation>,
    ) -> Upload<'a> {
        Upload {
            local,
            id,
            target: (index, record.key),
            location: private.unwrap_or(record.location),
            lent: private.is_none(),
            placement,
            size_bytes: record.size_bytes,
            received_bytes: 0,
            edges_from: None,
            committed: false,
        }
    }

    fn heap(&self) -> &'a Heap {
        self.local.heap()
    }

    /// Size of the allocation, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Takes the next piece of the body.
    ///
    /// # Errors
    /// [`WriteError`] where the allocation has ended, or the body is longer than fits.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        let (index, key) = self.target;
        if !self.local.table().used(index).is_live(key) {
            return Err(NotFound(self.id).into());
        }
        let received = self.received_bytes + piece.len() as u64;
        check_end(self.placement, received, self.size_bytes)?;
        let offset = self.placement.offset() + self.received_bytes;
        self.fill(&Edit { offset, pieces: &[piece], ..Edit::default() });
        self.received_bytes = received;
        Ok(())
    }

    /// Changes the segment that is filled. Nobody else holds it: it is ours, or it is lent and reads as version 0.
    fn fill(&self, edit: &Edit<'_>) {
        self.heap().edit(self.location, edit).expect("nobody else holds a segment that is being filled");
    }

    /// Makes what was pushed the content.
    ///
    /// # Errors
    /// [`WriteError`] where the allocation has ended, or the precondition does not hold at that instant.
    pub fn commit(mut self, precondition: &Precondition, now: Now) -> Result<Written, WriteError> {
        let offset = self.placement.offset();
        let range = offset..offset + self.received_bytes;
        let whole = self.placement == Placement::Replace && self.received_bytes == self.size_bytes;
        // Small writes may go on without end while edges are filled: the last fill keeps them out.
        let (mut fills, mut kept_pins) = (0, Vec::new());
        let mut kept = None;
        loop {
            let (entry, record) = match kept.take() {
                Some(locked) => locked,
                None => {
                    let (_, entry, record) = self.local.look_up(self.id, now)?;
                    (entry, record)
                }
            };
            let version = self.heap().writes(record.location);
            precondition.check(version)?;
            if range.is_empty() && self.placement != Placement::Replace {
                return Ok(Written { version, whole });
            }
            let next = Edit { writes: Some(version + 1), ..Edit::default() };
            if self.lent && entry.is_lent() && record.location == self.location {
                // Still the only version, and its own segment: it becomes visible as it is.
                self.fill(&next);
                entry.set_lent(false);
                self.committed = true;
                drop(entry);
                self.local.room_freed(); // a write may wait for just this upload
                return Ok(Written { version: 1, whole });
            }
            let edges_are_right = match self.placement {
                Placement::Replace => true,
                // Version 0 is zeros, as are edges that were never filled.
                Placement::Patch { .. } => {
                    self.edges_from == Some(version) || version == 0 && self.edges_from.is_none()
                }
            };
            if edges_are_right {
                self.fill(&next);
                self.heap().set_owner(self.location, owner_of(self.target.0));
                entry.set_location(self.location);
                // A segment that is lent to another upload is that one's to free from now on.
                let old_is_lent = entry.is_lent();
                entry.set_lent(false);
                self.committed = true;
                drop(entry);
                if !old_is_lent {
                    self.local.drains().free(self.heap(), record.location, self.size_bytes, now);
                }
                return Ok(Written { version: version + 1, whole });
            }
            let pin = (version > 0).then(|| Pin::new(self.local.heap(), record.location));
            fills += 1;
            if fills > UNLOCKED_FILLS_MAX {
                kept = Some((entry, record));
            } else {
                drop(entry);
            }
            self.fill(&Edit { zero_outside: Some(range.clone()), ..Edit::default() });
            // With more readers than can be counted there is no holding it: look again.
            if let Some(Ok(pin)) = pin {
                for (offset, bytes) in
                    pin.written(0..range.start).chain(pin.written(range.end..self.size_bytes))
                {
                    self.fill(&Edit { offset, pieces: &[bytes], ..Edit::default() });
                }
                self.edges_from = Some(version);
                if kept.is_some() {
                    kept_pins.push(pin); // the last holder scrubs: not under an entry's lock
                }
            } else {
                self.edges_from = (version == 0).then_some(version);
            }
        }
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if self.lent {
            let (index, key) = self.target;
            let entry = self.local.table().used(index);
            let is_ours = || {
                let locked = entry.lock();
                let live =
                    locked.read().is_some_and(|record| record.key == key && record.location == self.location);
                (live && locked.is_lent()).then_some(locked)
            };
            if is_ours().is_some() {
                // Still lent: nobody sees what is zeroed here, and nobody else writes there.
                self.fill(&Edit { zero_outside: Some(0..0), ..Edit::default() });
                if let Some(locked) = is_ours() {
                    locked.set_lent(false);
                    drop(locked);
                    return self.local.room_freed(); // a write may wait for just this upload
                }
            }
        }
        self.heap().check_slack(self.location, self.size_bytes);
        self.heap().free(self.location);
    }
}
