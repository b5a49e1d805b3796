//! Uploads: bodies of any length on their way into an allocation, piece by piece. See `content.rs` for the three ways
//! in which content is written.

use super::arena::MemberUpload;
use super::content::{Placement, Precondition, WriteError, check_end};
use super::handover::Backing;
use super::id::{AllocationId, Key};
use super::local::Local;
use super::moving::owner_of;
use super::object::{ObjectUpload, free_backed};
use super::place::{Place, PlaceKind};
use super::plan::Room;
use super::table::Record;
use super::{NotFound, Written};
use crate::clock::Now;
use crate::memory::{self, Backed, Edit, Heap, Pin, Shape, SlabLocation};

/// Times that an upload fills its edges beside other writers, before it does so under the entry's lock.
pub(super) const UNLOCKED_FILLS_MAX: u32 = 2;

impl Local {
    /// Begins an upload of a body, whose length may be known: into the allocation's own segment if it was never written and nobody else does, else into a
    /// private one.
    pub(super) async fn upload(
        &self,
        id: AllocationId,
        (placement, length): (Placement, Option<u64>),
        precondition: &Precondition,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        if id.is_member() {
            let upload = self.upload_member(id, (placement, length), precondition, now)?;
            return Ok(Upload(Kind::Member(upload)));
        }
        {
            let (index, entry, record) = self.look_up(id, now)?;
            let PlaceKind::Slab(location) = record.place.kind() else {
                drop(entry);
                let upload = self.upload_object(id, (placement, length), Some(precondition), room, now);
                return upload.await.map(|upload| Upload(Kind::Object(upload)));
            };
            entry.touch(now); // also when it begins: the body may take its time
            check_end(placement, length.unwrap_or(0), record.size_bytes)?;
            precondition.check_early(self.heap().writes(location))?;
            if self.heap().writes(location) == 0 && !entry.is_lent() {
                entry.set_lent(true);
                let upload = SlabUpload::new(self, id, (index, record), placement, (location, true));
                return Ok(Upload(Kind::Slab(upload)));
            }
        }
        self.upload_private(id, (placement, length), room, now).await
    }

    /// Begins an upload into memory of its own: from `room`, where that was granted already.
    pub(super) async fn upload_private(
        &self,
        id: AllocationId,
        (placement, length): (Placement, Option<u64>),
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        let (index, record) = {
            let (index, _entry, record) = self.look_up(id, now)?;
            (index, record)
        };
        let PlaceKind::Slab(location) = record.place.kind() else {
            let upload = self.upload_object(id, (placement, length), None, room, now).await?;
            return Ok(Upload(Kind::Object(upload)));
        };
        let shapes = vec![Shape::Slab(location.class())];
        let made = self.private_memory(shapes, room, now).await.map_err(WriteError::NoRoom)?.pop();
        let Some(Backed::Slab(private)) = made else { unreachable!("a slab was asked for") };
        Ok(Upload(Kind::Slab(SlabUpload::new(self, id, (index, record), placement, (private, false)))))
    }

    /// Memory that is nobody's but the caller's: from `room`, where that was granted already.
    pub(super) async fn private_memory(
        &self,
        shapes: Vec<Shape>,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Vec<Backed>, memory::AllocateError> {
        let bytes = shapes.iter().map(|shape| self.heap().shape_bytes(*shape)).sum();
        // Of a large object another version may have come, which takes other room than was granted.
        let mut room = match room.filter(|room| room.bytes() >= bytes) {
            Some(room) => room,
            None => {
                let granted = self.unless_due(now, || self.heap().grant(bytes));
                granted.inspect_err(|_| self.drains().memory_is_needed(self.heap()))?;
                Room::granted(self.heap(), bytes)
            }
        };
        let (mut made, mut has_time) = (Vec::with_capacity(shapes.len()), true);
        for (at, shape) in shapes.iter().enumerate() {
            match room.try_back(*shape, &mut has_time) {
                Ok(Some(backed)) => made.push(backed),
                Ok(None) => {
                    let missing = shapes[at..].to_vec();
                    let missing_bytes = missing.iter().map(|shape| self.heap().shape_bytes(*shape)).sum();
                    let granted_bytes = room.split_off(missing_bytes);
                    drop(room);
                    return self.finish(Backing::new(self.heap(), made, missing, granted_bytes)).await;
                }
                Err(error) => {
                    made.into_iter().for_each(|backed| free_backed(self.heap(), &backed));
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// As [`Local::private_memory`], where that takes no more than a slice of work; none where it takes more.
    pub(super) fn memory_at_once(&self, shape: Shape) -> Result<Option<Backed>, memory::AllocateError> {
        let bytes = self.heap().shape_bytes(shape);
        self.heap().grant(bytes)?;
        Room::granted(self.heap(), bytes).try_back(shape, &mut true)
    }
}

/// A body on its way into an allocation. Nobody sees anything of it before [`Upload::commit`]; dropped before that, it
/// leaves no trace.
#[derive(Debug)]
pub struct Upload<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    Slab(SlabUpload<'a>),
    Object(ObjectUpload<'a>),
    Member(MemberUpload<'a>),
}

impl Upload<'_> {
    /// Size of the allocation, in bytes.
    pub fn size_bytes(&self) -> u64 {
        match &self.0 {
            Kind::Slab(upload) => upload.size_bytes,
            Kind::Object(upload) => upload.size_bytes(),
            Kind::Member(upload) => upload.size_bytes(),
        }
    }

    /// Takes the next piece of the body.
    ///
    /// # Errors
    /// [`WriteError`] where the allocation has ended, or the body is longer than fits, or than was announced.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        match &mut self.0 {
            Kind::Slab(upload) => upload.push(piece),
            Kind::Object(upload) => upload.push(piece),
            Kind::Member(upload) => upload.push(piece),
        }
    }

    /// Makes what was pushed the content.
    ///
    /// # Errors
    /// [`WriteError`] where the allocation has ended, or the precondition does not hold at that instant. Of a large object
    /// also where another write was there before, and this one takes other memory by now than it has.
    pub fn commit(self, precondition: &Precondition, now: Now) -> Result<Written, WriteError> {
        match self.0 {
            Kind::Slab(upload) => upload.commit(precondition, now),
            Kind::Object(mut upload) => upload.commit(precondition, now),
            Kind::Member(upload) => upload.commit(precondition, now),
        }
    }

    /// As [`Upload::commit`], but memory that another write made necessary is waited for, where it takes long to be made.
    ///
    /// # Errors
    /// As [`Upload::commit`].
    pub async fn finish(self, precondition: &Precondition, now: Now) -> Result<Written, WriteError> {
        match self.0 {
            Kind::Object(upload) => upload.finish(precondition, now).await,
            _ => self.commit(precondition, now),
        }
    }
}

/// A body on its way into a slab.
#[derive(Debug)]
struct SlabUpload<'a> {
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

impl<'a> SlabUpload<'a> {
    /// An upload into a segment: ours, or lent by the allocation.
    fn new(
        local: &'a Local,
        id: AllocationId,
        (index, record): (u32, Record),
        placement: Placement,
        (location, lent): (SlabLocation, bool),
    ) -> SlabUpload<'a> {
        SlabUpload {
            local,
            id,
            target: (index, record.key),
            location,
            lent,
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

    fn push(&mut self, piece: &[u8]) -> Result<(), WriteError> {
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

    fn commit(mut self, precondition: &Precondition, now: Now) -> Result<Written, WriteError> {
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
            let PlaceKind::Slab(current) = record.place.kind() else {
                unreachable!("an allocation stays what it is")
            };
            let version = self.heap().writes(current);
            precondition.check(version)?;
            if range.is_empty() && self.placement != Placement::Replace {
                return Ok(Written { version, whole });
            }
            entry.touch(now);
            let next = Edit { writes: Some(version + 1), ..Edit::default() };
            if self.lent && entry.is_lent() && current == self.location {
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
                entry.set_place(Place::of_slab(self.location));
                // A segment that is lent to another upload is that one's to free from now on.
                let old_is_lent = entry.is_lent();
                entry.set_lent(false);
                self.committed = true;
                drop(entry);
                if !old_is_lent {
                    self.local.drains().free(self.heap(), current, self.size_bytes, now);
                }
                return Ok(Written { version: version + 1, whole });
            }
            let pin = (version > 0).then(|| Pin::new(self.local.heap(), current));
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

impl Drop for SlabUpload<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if self.lent {
            let (index, key) = self.target;
            let entry = self.local.table().used(index);
            let is_ours = || {
                let locked = entry.lock();
                let live = locked
                    .read()
                    .is_some_and(|record| record.key == key && record.place == Place::of_slab(self.location));
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
