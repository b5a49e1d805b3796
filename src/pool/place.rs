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

/// See the module. A word, as it is stored: [`Place::kind`] says what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlaceKind {
    /// The content of a block that a class holds.
    Slab(SlabLocation),
    /// One version of the content of a large object.
    Object(ObjectNumber),
}

impl Place {
    /// In place of a slab's class. There are at most 255 classes, so none has this number; it is that of segments, which
    /// never stand in an entry.
    const OBJECT: u64 = (u8::MAX as u64) << 56;

    #[inline]
    pub(super) fn of_slab(location: SlabLocation) -> Place {
        Place(location.word())
    }

    pub(super) fn of_object(number: ObjectNumber) -> Place {
        Place(Place::OBJECT | u64::from(number.0))
    }

    #[inline]
    pub(super) fn kind(self) -> PlaceKind {
        if self.0 < Place::OBJECT {
            PlaceKind::Slab(SlabLocation::from_word(self.0))
        } else {
            PlaceKind::Object(ObjectNumber(
                u32::try_from(self.0 - Place::OBJECT).expect("a number was stored"),
            ))
        }
    }

    /// The place as a word that can be stored.
    #[inline]
    pub(super) fn word(self) -> u64 {
        self.0
    }

    /// A place that was stored with [`Place::word`].
    #[inline]
    pub(super) fn from_word(word: u64) -> Place {
        Place(word)
    }

    /// The object; none where it is a slab.
    pub(super) fn object(self) -> Option<ObjectNumber> {
        match self.kind() {
            PlaceKind::Slab(_) => None,
            PlaceKind::Object(number) => Some(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_from_its_word_as_what_it_was() {
        for number in [0, 1, u32::MAX] {
            let place = Place::of_object(ObjectNumber::new(number));
            assert_eq!(Place::from_word(place.word()), place);
            assert_eq!(place.kind(), PlaceKind::Object(ObjectNumber(number)));
            assert_eq!(place.object().map(ObjectNumber::index), Some(number));
        }
        for word in [0, 7, (254 << 56) | 12] {
            let location = SlabLocation::from_word(word);
            assert_eq!(Place::from_word(word), Place::of_slab(location));
            assert_eq!(
                (Place::from_word(word).kind(), Place::of_slab(location).object()),
                (PlaceKind::Slab(location), None)
            );
        }
    }
}
