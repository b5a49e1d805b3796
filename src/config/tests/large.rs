//! What can be set about large objects, and about the pages that large blocks lie in.

use super::*;
use crate::memory::{Fit, HugePages};

#[test]
fn an_allocation_size_that_the_pool_never_holds_is_a_warning() {
    let loaded = |size: &str| {
        let place = Place::new().environment("MAX_POOL_SIZE", "64MiB");
        place.environment("MAAS__MEMORY__MAX_ALLOCATION_SIZE", size).loaded().warnings
    };
    let told = loaded("1GiB");
    assert!(told[0].contains("memory.max_pool_size is 67108864 (64 MiB)"), "{told:?}");
    assert!(loaded("64MiB").is_empty(), "what no class holds is made of pages");
}

#[test]
fn the_fit_of_large_objects_has_three_names() {
    let fit = |value: &str| {
        Place::new().environment("MAAS__MEMORY__LARGE_FIT", value).loaded().config.memory.large_fit
    };
    assert_eq!(["best", "First", "worst"].map(fit), [Fit::Best, Fit::First, Fit::Worst]);
    let problems = Place::new().file("config.toml", "memory.large_fit = 'good'").problems();
    assert_eq!(
        problems,
        ["memory.large_fit = \"good\" (config.toml): expected \"best\", \"first\" or \"worst\""]
    );
}

#[test]
fn huge_pages_have_three_names_and_those_that_do_nothing_are_warned_of() {
    let warnings = |value: &str| {
        let loaded = Place::new().environment("MAAS__MEMORY__HUGE_PAGES", value).loaded();
        (loaded.config.memory.huge_pages, loaded.warnings)
    };
    assert_eq!(warnings("off"), (HugePages::Off, vec![]));
    assert_eq!(warnings("2mib"), (HugePages::TwoMebibytes, vec![]));
    let (kind, told) = warnings("1GiB");
    assert_eq!((kind, told.len()), (HugePages::OneGibibyte, 1), "large objects may have some");
    let told = Place::new()
        .environment("MAAS__MEMORY__HUGE_PAGES", "1GiB")
        .environment("MAAS__MEMORY__MAX_ALLOCATION_SIZE", "1MiB")
        .loaded()
        .warnings;
    assert_eq!(told.len(), 2);
    assert!(told[0].contains("whole multiples of 1073741824 (1 GiB), but there are none"), "{told:?}");
    let problems = Place::new().file("config.toml", "memory.huge_pages = true").problems();
    assert_eq!(problems, ["memory.huge_pages = true (config.toml): expected \"off\", \"2MiB\" or \"1GiB\""]);
}
