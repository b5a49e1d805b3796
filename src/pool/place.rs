//! Where an allocation's bytes lie, in one word: a slab, or an object, which is a list of segments.

use crate::memory::SlabLocation;

/// An object by its number in the list of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObjectNumber(u32);

impl ObjectNumber {
    pub(super) fn new(number: u32) -> ObjectNumber {
        ObjectNumber(number)
    }

    pub(super) fn index(self) -> u32 {
        self.0
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The content of a block that a class holds.
    Slab(SlabLocation),
    /// One version of the content of a large object.
    Object(ObjectNumber),
}

impl Place {
    /// In place of a slab's class. There are at most 255 classes, so none has this number; it is that of segments, which
    /// never stand in an entry.
    const OBJECT: u8 = u8::MAX;
    const CLASS_BITS: u32 = 56;

    /// The place as a word that can be stored.
    #[inline]
    pub(super) fn word(self) -> u64 {
        match self {
            Place::Slab(location) => location.word(),
            Place::Object(number) => u64::from(Place::OBJECT) << Place::CLASS_BITS | u64::from(number.0),
        }
    }

    /// A place that was stored with [`Place::word`].
    #[inline]
    pub(super) fn from_word(word: u64) -> Place {
        if word >> Place::CLASS_BITS == u64::from(Place::OBJECT) {
            Place::Object(ObjectNumber(u32::try_from(word & u64::from(u32::MAX)).expect("masked to 32 bits")))
        } else {
            Place::Slab(SlabLocation::from_word(word))
        }
    }

    /// The object; none where it is a slab.
    pub(super) fn object(self) -> Option<ObjectNumber> {
        match self {
            Place::Slab(_) => None,
            Place::Object(number) => Some(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_from_its_word_as_what_it_was() {
        for number in [0, 1, u32::MAX] {
            let place = Place::Object(ObjectNumber::new(number));
            assert_eq!(Place::from_word(place.word()), place);
            assert_eq!(place.object().map(ObjectNumber::index), Some(number));
        }
        for word in [0, 7, (254 << 56) | 12] {
            assert_eq!(Place::from_word(word), Place::Slab(SlabLocation::from_word(word)));
            assert_eq!((Place::from_word(word).word(), Place::from_word(word).object()), (word, None));
        }
    }
}
