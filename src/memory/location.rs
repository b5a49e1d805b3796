//! Places: which class, and where in it, in one word that can be stored.

/// A size class by its number: 0 is the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass(pub(super) u8);

/// Where a slab lies: its class and its index in the class, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlabLocation(u64);

impl SizeClass {
    /// In place of a class: segments of runs, each of its own length. There are at most 255 classes.
    pub(crate) const RUNS: SizeClass = SizeClass(u8::MAX);
}

impl SlabLocation {
    const INDEX_BITS: u32 = 56;

    pub(super) fn new(class: SizeClass, index: u64) -> SlabLocation {
        debug_assert!(index >> SlabLocation::INDEX_BITS == 0);
        SlabLocation(u64::from(class.0) << SlabLocation::INDEX_BITS | index)
    }

    /// The class of the slab.
    pub fn class(self) -> SizeClass {
        SizeClass((self.0 >> SlabLocation::INDEX_BITS).to_le_bytes()[0])
    }

    pub(super) fn index(self) -> u64 {
        self.0 & ((1 << SlabLocation::INDEX_BITS) - 1)
    }

    /// Whether it is a segment of a run.
    #[inline]
    pub(super) fn is_run(self) -> bool {
        self.class() == SizeClass::RUNS
    }

    /// The location as a word that can be stored; [`SlabLocation::from_word`] reads it back.
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    /// A location that was stored with [`SlabLocation::word`].
    pub(crate) fn from_word(word: u64) -> SlabLocation {
        SlabLocation(word)
    }
}
