//! Profiles: how large arenas are expected to become, in five steps.

/// How large an arena is expected to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// To 10 KiB.
    Tiny,
    /// To 100 KiB.
    Small,
    /// To 1 MiB.
    Medium,
    /// To 10 MiB.
    Large,
    /// Beyond.
    Huge,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

impl Profile {
    /// All, from the smallest on.
    pub const ALL: [Profile; 5] =
        [Profile::Tiny, Profile::Small, Profile::Medium, Profile::Large, Profile::Huge];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Tiny => "tiny",
            Profile::Small => "small",
            Profile::Medium => "medium",
            Profile::Large => "large",
            Profile::Huge => "huge",
        }
    }

    /// The profile of a name.
    pub fn from_name(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// What an arena begins with.
    pub fn initial_bytes(self) -> u64 {
        match self {
            Profile::Tiny => 4 * KIB,
            Profile::Small => 32 * KIB,
            Profile::Medium => 256 * KIB,
            Profile::Large => 2 * MIB,
            Profile::Huge => 16 * MIB,
        }
    }

    /// What its members may use in all, where nothing else is said.
    pub fn limit_bytes(self) -> u64 {
        match self {
            Profile::Tiny => 64 * KIB,
            Profile::Small => 512 * KIB,
            Profile::Medium => 4 * MIB,
            Profile::Large => 32 * MIB,
            Profile::Huge => 256 * MIB,
        }
    }

    /// The profile for what is expected to become so large.
    pub fn for_estimate(bytes: u64) -> Profile {
        const UP_TO: [(u64, Profile); 4] = [
            (10 * KIB, Profile::Tiny),
            (100 * KIB, Profile::Small),
            (MIB, Profile::Medium),
            (10 * MIB, Profile::Large),
        ];
        UP_TO.into_iter().find(|(most, _)| bytes <= *most).map_or(Profile::Huge, |(_, profile)| profile)
    }

    /// Its place in [`Profile::ALL`].
    pub fn number(self) -> usize {
        self as usize
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn estimates_choose_the_smallest_profile_that_is_meant_for_them() {
        let cases = [
            (1, Profile::Tiny),
            (10 * KIB, Profile::Tiny),
            (10 * KIB + 1, Profile::Small),
            (100 * KIB, Profile::Small),
            (100 * KIB + 1, Profile::Medium),
            (MIB, Profile::Medium),
            (MIB + 1, Profile::Large),
            (10 * MIB, Profile::Large),
            (10 * MIB + 1, Profile::Huge),
            (u64::MAX, Profile::Huge),
        ];
        for (bytes, profile) in cases {
            assert_eq!(Profile::for_estimate(bytes), profile, "{bytes}");
        }
    }

    #[test]
    fn names_and_numbers_say_their_profile_again() {
        for (number, profile) in Profile::ALL.into_iter().enumerate() {
            assert_eq!(Profile::from_name(profile.name()), Some(profile));
            assert_eq!(profile.number(), number);
        }
        assert_eq!(Profile::from_name("Tiny"), None);
    }
}
