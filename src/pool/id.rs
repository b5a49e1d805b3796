//! Ids of allocations and arenas: UUIDs of version 8. The only file that knows what their bits mean.
//!
//! ```text
//!   48 bits: engine (4) | index (24) | random (20)
//!    4 bits: version, 8        12 bits: random
//!    2 bits: variant, 0b10     62 bits: random
//! ```
//!
//! The index, of an entry of the table, a member or an arena, makes a look-up one array access; the 94 random bits make a guess hopeless and a freed id dead for ever.

use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Bits of the table index: the table holds at most 2^24 allocations.
pub(super) const INDEX_BITS: u32 = 24;
/// What the engine that keeps its allocations in this process gives names to: entries of its table, members of
/// arenas, and arenas.
const ENGINE_LOCAL: u64 = 0;
const ENGINE_MEMBER: u64 = 1;
const ENGINE_ARENA: u64 = 2;
/// The version of a UUID whose bits are its maker's own, and its variant (RFC 9562, sections 4.1 and 5.8).
const VERSION: u64 = 8;
const VARIANT: u64 = 0b10;

/// What a client holds: the name of one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllocationId {
    /// Two words, not bytes: put together and taken apart in registers.
    high: u64,
    low: u64,
}

/// What an id says of where its allocation is kept. No two live allocations have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllocationNumber {
    /// Whether it is one of the numbers of members of arenas, which are apart.
    pub is_member: bool,
    /// Counted from 0; those that are free are given away again first.
    pub index: u32,
}

/// The name of one arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArenaId {
    high: u64,
    low: u64,
}

/// The text is no id. Ids are hyphenated UUIDs, in upper or lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is a hyphenated UUID such as 0000002a-1c3d-8e5f-9a7b-0123456789ab")]
pub struct ParseIdError;

/// The random part of an id, in the two words that an entry stores. `low` is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// 62 random bits, and the top bit set so that a live key is never zero.
    pub(super) low: u64,
    /// 32 random bits.
    pub(super) high: u32,
}

const KEY_LIVE: u64 = 1 << 63;

impl Key {
    /// A fresh key that nobody can guess.
    pub(super) fn random() -> Key {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        // The upper word has 60 random bits (its version is fixed), the lower 62.
        Key {
            low: low & ((1 << 62) - 1) | KEY_LIVE,
            high: u32::try_from(high >> 32).expect("32 bits are left"),
        }
    }
}

/// The words of an id.
fn words(engine: u64, index: u32, key: Key) -> (u64, u64) {
    debug_assert!(index >> INDEX_BITS == 0);
    let key_high = u64::from(key.high);
    let custom_a = engine << 44 | u64::from(index) << 20 | key_high >> 12;
    let high = custom_a << 16 | VERSION << 12 | key_high & 0xfff;
    (high, VARIANT << 62 | key.low & ((1 << 62) - 1))
}

/// Index and key, if the words can be an id of that engine at all.
#[inline]
fn decode(high: u64, low: u64, engine: u64) -> Option<(u32, Key)> {
    let ours = high >> 12 & 0xf == VERSION && low >> 62 == VARIANT && high >> 60 == engine;
    let index = index_of(high);
    let key_high = u32::try_from((high >> 16 & 0xf_ffff) << 12 | high & 0xfff).expect("20 and 12 bits");
    ours.then_some((index, Key { low: low & ((1 << 62) - 1) | KEY_LIVE, high: key_high }))
}

#[inline]
fn index_of(high: u64) -> u32 {
    u32::try_from(high >> 36 & ((1 << INDEX_BITS) - 1)).expect("24 bits fit in 32")
}

/// The words of a hyphenated UUID.
fn parse(text: &str) -> Result<(u64, u64), ParseIdError> {
    // Uuid::parse_str takes braces, `urn:uuid:` and 32 bare digits too; only the hyphenated form has 36 bytes.
    if text.len() != 36 {
        return Err(ParseIdError);
    }
    Ok(Uuid::try_parse(text).map_err(|_| ParseIdError)?.as_u64_pair())
}

impl AllocationId {
    /// The id of the entry at `index` whose key is `key`.
    #[inline]
    pub(super) fn new(index: u32, key: Key) -> AllocationId {
        let (high, low) = words(ENGINE_LOCAL, index, key);
        AllocationId { high, low }
    }

    /// The id of the member of that number, of an arena, whose key is `key`.
    pub(super) fn of_member(number: u32, key: Key) -> AllocationId {
        let (high, low) = words(ENGINE_MEMBER, number, key);
        AllocationId { high, low }
    }

    fn uuid(self) -> Uuid {
        Uuid::from_u64_pair(self.high, self.low)
    }

    /// Index and key, if the id can be an entry's at all.
    #[inline]
    pub(super) fn decode(self) -> Option<(u32, Key)> {
        decode(self.high, self.low, ENGINE_LOCAL)
    }

    /// Number and key, if the id can be a member's at all.
    pub(super) fn decode_member(self) -> Option<(u32, Key)> {
        decode(self.high, self.low, ENGINE_MEMBER)
    }

    /// Whether it can be a member's, of an arena.
    #[inline]
    pub(super) fn is_member(self) -> bool {
        self.high >> 60 == ENGINE_MEMBER
    }

    /// Where the allocation is kept, as long as it lives.
    pub fn number(self) -> AllocationNumber {
        AllocationNumber { is_member: self.is_member(), index: index_of(self.high) }
    }

    /// The id as it is written on the wire, without allocating.
    pub fn encode(self, buffer: &mut [u8; 36]) -> &str {
        self.uuid().hyphenated().encode_lower(buffer)
    }
}

impl ArenaId {
    /// The id of the arena of that number whose key is `key`.
    pub(super) fn new(number: u32, key: Key) -> ArenaId {
        let (high, low) = words(ENGINE_ARENA, number, key);
        ArenaId { high, low }
    }

    /// Number and key, if the id can be an arena's at all.
    pub(super) fn decode(self) -> Option<(u32, Key)> {
        decode(self.high, self.low, ENGINE_ARENA)
    }

    /// The id as it is written on the wire, without allocating.
    pub fn encode(self, buffer: &mut [u8; 36]) -> &str {
        Uuid::from_u64_pair(self.high, self.low).hyphenated().encode_lower(buffer)
    }
}

impl fmt::Display for AllocationId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid().hyphenated().fmt(out)
    }
}

impl fmt::Display for ArenaId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_u64_pair(self.high, self.low).hyphenated().fmt(out)
    }
}

impl FromStr for AllocationId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<AllocationId, ParseIdError> {
        parse(text).map(|(high, low)| AllocationId { high, low })
    }
}

impl FromStr for ArenaId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<ArenaId, ParseIdError> {
        parse(text).map(|(high, low)| ArenaId { high, low })
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_says_its_index_and_key_again(index in 0_u32..1 << INDEX_BITS) {
            let key = Key::random();
            let id = AllocationId::new(index, key);
            prop_assert_eq!(id.decode(), Some((index, key)));
            prop_assert_eq!(id.number(), AllocationNumber { is_member: false, index });
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
            prop_assert_eq!(&id.to_string()[14..15], "8");
            prop_assert!(matches!(&id.to_string()[19..20], "8" | "9" | "a" | "b"));
            let member = AllocationId::of_member(index, key);
            prop_assert_eq!((member.decode_member(), member.decode()), (Some((index, key)), None));
            prop_assert_eq!(member.number(), AllocationNumber { is_member: true, index });
            let arena = ArenaId::new(index, key);
            prop_assert_eq!((arena.decode(), arena.to_string().parse()), (Some((index, key)), Ok(arena)));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,50}") {
            let _ = text.parse::<AllocationId>().map(AllocationId::decode);
        }
    }

    #[test]
    fn other_forms_of_uuid_are_refused() {
        let id = AllocationId::new(7, Key::random()).to_string();
        for text in [
            format!("{{{id}}}"),
            format!("urn:uuid:{id}"),
            id.replace('-', ""),
            id[1..].to_owned(),
            String::new(),
        ] {
            assert_eq!(text.parse::<AllocationId>(), Err(ParseIdError), "{text}");
        }
    }

    #[test]
    fn ids_of_other_versions_and_engines_are_nobodys() {
        for text in [
            "550e8400-e29b-41d4-a716-446655440000",
            "10000000-0000-8000-8000-000000000000",
            "00000000-0000-8000-0000-000000000000",
        ] {
            assert_eq!(text.parse::<AllocationId>().expect("well-formed").decode(), None, "{text}");
        }
    }

    #[test]
    fn keys_differ_in_both_words() {
        let keys: Vec<Key> = (0..1000).map(|_| Key::random()).collect();
        let distinct = |words: Vec<u64>| words.iter().collect::<std::collections::HashSet<_>>().len();
        assert_eq!(distinct(keys.iter().map(|key| key.low).collect()), 1000);
        assert_eq!(distinct(keys.iter().map(|key| u64::from(key.high)).collect()), 1000);
    }
}
