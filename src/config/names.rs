//! From the names that users write to rows of the table, and from a misspelt name to the nearest one.
//!
//! A dotted name is `server.port`; for a class it is `memory.classes.1024.initial`, and the size may have a unit.
//! In the environment a key is `MAAS__SERVER__PORT`, or its short name. Both forms of one name end up here as a
//! [`Name`]: the row, and the class where the row has one.

use super::keys::{KEYS, Key};
use crate::units::ByteCount;

/// A name that stands for a key.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) key: &'static Key,
    /// The size in the name of a class's key.
    pub(super) class: Option<u64>,
}

/// What every long name in the environment begins with.
pub(super) const PREFIX: &str = "MAAS__";

/// What the name of every class's key begins with, the section of classes.
const CLASSES: &str = "memory.classes.";

impl Name {
    /// The row and class that a dotted name stands for.
    ///
    /// # Errors
    /// Why there is none, with the nearest name there is.
    pub(super) fn of_dotted(name: &str) -> Result<Name, String> {
        if let Some(key) = KEYS.iter().find(|key| key.name == name && !is_pattern(key)) {
            return Ok(Name { key, class: None });
        }
        let size = class_segment(name);
        let pattern = size.map(|size| name.replacen(size, "SIZE", 1));
        match (size, KEYS.iter().find(|key| Some(key.name) == pattern.as_deref())) {
            (Some(size), Some(key)) => match size.parse::<ByteCount>() {
                Ok(ByteCount(class)) => Ok(Name { key, class: Some(class) }),
                Err(error) => Err(error.to_string()),
            },
            _ if is_section(name) => Err("this is a section: set the keys inside it".to_owned()),
            _ => Err(unknown(name, |key| dotted(key, size))),
        }
    }

    /// The row and class that a name of the environment stands for; `None` where the name is none of ours.
    ///
    /// # Errors
    /// Why there is none though the name begins with `MAAS__`, with the nearest name there is.
    pub(super) fn of_variable(name: &str) -> Option<Result<Name, String>> {
        if let Some(key) = KEYS.iter().find(|key| key.short == Some(name)) {
            return Some(Ok(Name { key, class: None }));
        }
        let rest = name.strip_prefix(PREFIX)?;
        let dotted_name = rest.replace("__", ".").to_ascii_lowercase();
        let known = Name::of_dotted(&dotted_name).ok().filter(|_| rest == rest.to_ascii_uppercase());
        let size = class_segment(&dotted_name);
        Some(known.ok_or_else(|| unknown(name, |key| variable(&dotted(key, size)))))
    }

    /// The dotted name in its one form.
    pub(super) fn dotted(&self) -> String {
        dotted(self.key, self.class.map(|size| size.to_string()).as_deref())
    }
}

/// `server.port` → `MAAS__SERVER__PORT`.
pub(super) fn variable(dotted: &str) -> String {
    format!("{PREFIX}{}", dotted.replace('.', "__").to_ascii_uppercase())
}

fn dotted(key: &Key, size: Option<&str>) -> String {
    key.name.replace("SIZE", size.unwrap_or("SIZE"))
}

fn is_pattern(key: &Key) -> bool {
    key.name.starts_with(CLASSES)
}

/// `1024` of `memory.classes.1024.initial`.
fn class_segment(name: &str) -> Option<&str> {
    let size = name.strip_prefix(CLASSES)?.split('.').next()?;
    size.starts_with(|first: char| first.is_ascii_digit()).then_some(size)
}

/// Whether keys lie below this name.
pub(super) fn is_section(name: &str) -> bool {
    let inside = format!("{name}.");
    let is_class = class_segment(name).is_some_and(|size| name.ends_with(size));
    is_class || KEYS.iter().any(|key| key.name.starts_with(&inside))
}

fn unknown(name: &str, spell: impl Fn(&Key) -> String) -> String {
    // A name in the wrong case is the nearest of all.
    let distance =
        |known: &String| strsim::osa_distance(&known.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let nearest = KEYS.iter().map(spell).min_by_key(distance);
    let nearest = nearest.expect("the table has rows");
    format!("unknown name, did you mean {nearest}?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_by_each_of_its_names_and_no_two_share_one() {
        let mut names = std::collections::BTreeSet::new();
        for key in KEYS {
            let dotted = key.name.replace("SIZE", "1024");
            for found in [
                Name::of_dotted(&dotted),
                Name::of_variable(&variable(&dotted)).expect("ours"),
                key.short.map_or_else(
                    || Name::of_dotted(&dotted),
                    |short| Name::of_variable(short).expect("ours"),
                ),
            ] {
                assert_eq!(found.map(|name| name.dotted()), Ok(dotted.clone()));
            }
            assert!(names.insert(key.name) && key.short.is_none_or(|short| names.insert(short)));
        }
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_one_of_its_own_form() {
        for (name, nearest) in [
            ("server.prot", "server.port"),
            ("memory.slab_size", "memory.slab_sizes"),
            ("memory.classes.1024.inital", "memory.classes.1024.initial"),
        ] {
            let refused = Name::of_dotted(name).map(|_| ()).expect_err(name);
            assert_eq!(refused, format!("unknown name, did you mean {nearest}?"));
        }
        for (name, nearest) in [
            ("MAAS__SERVER__PRT", "MAAS__SERVER__PORT"),
            ("MAAS__server__port", "MAAS__SERVER__PORT"),
            ("MAAS__MEMORY__CLASSES__1024__INTIAL", "MAAS__MEMORY__CLASSES__1024__INITIAL"),
        ] {
            let refused = Name::of_variable(name).expect("ours").map(|_| ()).expect_err(name);
            assert_eq!(refused, format!("unknown name, did you mean {nearest}?"));
        }
        assert!(Name::of_variable("PATH").is_none() && Name::of_variable("MAAS_PORT").is_none());
    }

    #[test]
    fn a_section_is_no_key_and_a_class_is_named_by_its_size() {
        for name in ["server", "memory.classes", "memory.classes.1024"] {
            let refused = Name::of_dotted(name).map(|_| ()).expect_err(name);
            assert!(refused.contains("section"), "{refused}");
        }
        let name = Name::of_dotted("memory.classes.4KiB.max_free").map(|name| name.dotted());
        assert_eq!(name, Ok("memory.classes.4096.max_free".to_owned()));
        let refused = Name::of_dotted("memory.classes.4parsecs.initial").map(|_| ()).expect_err("no size");
        assert!(refused.contains("is not a size"), "{refused}");
    }
}
