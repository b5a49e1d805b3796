//! Arenas inside arenas: what a child uses counts in all that it lies in, against each one's limit.

use super::{Arena, ArenaError};

/// Arenas inside each other at most: each piece is counted in all of them.
pub(super) const DEPTH_MAX: u32 = 16;

/// What an arena lies in: nothing, `()`, or another arena, [`Nested`]. For functions that take either:
///
/// ```
/// use maas::memory::{Arena, ArenaConfig, ArenaError, Config, Heap, Kin};
///
/// fn keep<'a, K: Kin>(arena: &'a Arena<'_, K>, name: &str) -> Result<&'a [u8], ArenaError> {
///     Ok(arena.allocate_copy(name.as_bytes())?)
/// }
///
/// let heap = Heap::new(&Config::default())?;
/// let arena = heap.arena(ArenaConfig::default())?;
/// let child = arena.child(ArenaConfig::default())?;
/// assert_eq!((keep(&arena, "outside")?, keep(&child, "inside")?), (&b"outside"[..], &b"inside"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Kin {
    /// The arena that it lies in.
    #[doc(hidden)]
    fn above(&self) -> Option<&dyn Ancestor>;
}

/// An arena that others lie in, as these see it. Public only because [`Kin`] names it: nobody outside can.
pub trait Ancestor {
    /// Arenas that it lies in, and itself.
    fn depth(&self) -> u32;
    /// Bytes that its limit and those above leave.
    fn room_bytes(&self) -> u64;
    /// Fails where so many bytes more exceed its limit or one above.
    ///
    /// # Errors
    /// [`ArenaError::Limit`], of the innermost whose limit it is.
    fn check(&self, bytes: u64) -> Result<(), ArenaError>;
    /// A child, or one of its own, wants to use so many bytes more; false, and nothing changed, where a limit is in the way.
    fn try_add(&self, bytes: u64) -> bool;
    /// … uses so many fewer.
    fn subtract(&self, bytes: u64);
    /// A child is made: what it uses counts from here on.
    fn begin_child(&self);
    /// A child ended.
    fn end_child(&self);
}

impl Kin for () {
    #[inline]
    fn above(&self) -> Option<&dyn Ancestor> {
        None
    }
}

/// Inside another arena, which cannot end before.
#[derive(Clone, Copy)]
pub struct Nested<'p>(&'p dyn Ancestor);

impl<'p> Nested<'p> {
    pub(super) fn inside(above: &'p dyn Ancestor) -> Nested<'p> {
        Nested(above)
    }
}

impl Kin for Nested<'_> {
    #[inline]
    fn above(&self) -> Option<&dyn Ancestor> {
        Some(self.0)
    }
}

/// An arena inside another one: see [`Arena::child`].
pub type ChildArena<'p> = Arena<'p, Nested<'p>>;

impl<K: Kin> Ancestor for Arena<'_, K> {
    fn depth(&self) -> u32 {
        1 + self.kin.above().map_or(0, Ancestor::depth)
    }

    fn room_bytes(&self) -> u64 {
        let room = self.config.limit_bytes - self.used_bytes();
        self.kin.above().map_or(room, |above| room.min(above.room_bytes()))
    }

    fn check(&self, requested_bytes: u64) -> Result<(), ArenaError> {
        let (used_bytes, limit_bytes) = (self.used_bytes(), self.config.limit_bytes);
        if requested_bytes > limit_bytes - used_bytes {
            return Err(ArenaError::Limit { requested_bytes, used_bytes, limit_bytes });
        }
        self.kin.above().map_or(Ok(()), |above| above.check(requested_bytes))
    }

    #[inline]
    fn try_add(&self, bytes: u64) -> bool {
        let fits = bytes <= self.config.limit_bytes - self.used_bytes()
            && self.kin.above().is_none_or(|above| above.try_add(bytes));
        if fits {
            self.inside_bytes.set(self.inside_bytes.get() + bytes);
        }
        fits
    }

    fn subtract(&self, bytes: u64) {
        self.inside_bytes.set(self.inside_bytes.get() - bytes);
        if let Some(above) = self.kin.above() {
            above.subtract(bytes);
        }
    }

    fn begin_child(&self) {
        self.children.set(self.children.get() + 1);
        self.bump.open(0);
    }

    fn end_child(&self) {
        self.children.set(self.children.get() - 1);
    }
}
