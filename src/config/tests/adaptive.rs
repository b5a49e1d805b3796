//! What is set about adaptation, for all classes and for one.

use super::*;
use crate::memory::Adaptive;
use crate::units::Factor;

#[test]
fn factors_are_numbers_in_a_file_and_words_elsewhere() {
    let loaded = Place::new()
        .file(
            "config.toml",
            "[adaptive]\ninterval = '1m'\ngrow_above = 0.9\ngrow_factor = 2\nshrink_factor = 0\n",
        )
        .environment("MAAS__ADAPTIVE__SHRINK_BELOW", "0.25")
        .flag("--set", "memory.classes.4096.growth_factor", "1.125")
        .loaded();
    let expected = Adaptive {
        interval: Duration::from_secs(60),
        grow_above: Factor::thousandths(900),
        grow_factor: Factor::thousandths(2000),
        shrink_below: Factor::thousandths(250),
        shrink_factor: Factor::thousandths(0),
    };
    assert_eq!(loaded.config.memory.adaptive, expected);
    assert_eq!(loaded.config.memory.classes[&4096].growth_factor, Some(Factor::thousandths(1125)));
    assert_eq!(Place::new().file("config.toml", &loaded.report()).loaded().config, loaded.config);
}

#[test]
fn factors_out_of_bounds_and_a_class_that_would_grow_and_shrink_in_turn_are_wrong() {
    for (key, value, expected) in [
        (
            "adaptive.shrink_below",
            "0.8",
            "adaptive.shrink_below = 0.8 (--set): expected less than adaptive.grow_above",
        ),
        (
            "adaptive.grow_above",
            "1.001",
            "adaptive.grow_above = \"1.001\" (--set): expected a number from 0.0 to 1.0",
        ),
        (
            "adaptive.grow_factor",
            "0.9",
            "adaptive.grow_factor = \"0.9\" (--set): expected a number from 1.0 to 16.0",
        ),
        ("adaptive.interval", "999ms", "adaptive.interval = \"999ms\" (--set): expected a duration from 1s"),
        (
            "memory.classes.4096.growth_factor",
            "17",
            "memory.classes.4096.growth_factor = \"17\" (--set): expected a number from 1.0 to 16.0",
        ),
    ] {
        let problems = Place::new().flag("--set", key, value).problems();
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{problems:?}");
    }
}
