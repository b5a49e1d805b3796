//! From the names that users write to rows of the table, and from a misspelt name to the nearest one.
//!
//! A dotted name is `server.port`; for a class it is `memory.classes.1024.initial`, and the size may have a unit; for
//! a tag it is `budgets.cache`. In the environment a key is `MAAS__SERVER__PORT`, or its short name. Both forms of one
//! name end up here as a [`Name`]: the row, and the class or tag where the row has one.
//!
//! A tag may have dots in it: `budgets.a.b`, or `"a.b"` in quotes inside the section, is that of the tag `a.b`. In the
//! environment two underscores stand for a dot, here as everywhere, so a tag with two underscores in a row cannot be
//! named there; a dash stands for itself, where whoever sets the variable takes one.

use super::keys::{KEYS, Key};
use crate::pool::Tag;
use crate::units::ByteCount;

/// A name that stands for a key.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) key: &'static Key,
    pub(super) of: Of,
}

/// What a key is of, where one row stands for many keys.
#[derive(Clone)]
pub(super) enum Of {
    Everything,
    /// The class of this size.
    Class(u64),
    Tag(Tag),
}

/// What every long name in the environment begins with.
pub(super) const PREFIX: &str = "MAAS__";

/// What the name of every class's key begins with, the section of classes.
const CLASSES: &str = "memory.classes.";

/// What the name of every tag's key begins with, and the row of all of them.
const BUDGETS: &str = "budgets.";
const BUDGET: &str = "budgets.TAG";

impl Name {
    /// The row, and class or tag, that a dotted name stands for.
    ///
    /// # Errors
    /// Why there is none, with the nearest name there is.
    pub(super) fn of_dotted(name: &str) -> Result<Name, String> {
        if let Some(key) = KEYS.iter().find(|key| key.name == name && !is_pattern(key)) {
            return Ok(Name { key, of: Of::Everything });
        }
        if let Some(tag) = name.strip_prefix(BUDGETS) {
            return Name::of_tag(tag, |right| format!("{BUDGETS}{right}"));
        }
        let size = class_segment(name);
        let pattern = size.map(|size| name.replacen(size, "SIZE", 1));
        match (size, KEYS.iter().find(|key| Some(key.name) == pattern.as_deref())) {
            (Some(size), Some(key)) => match size.parse::<ByteCount>() {
                Ok(ByteCount(class)) => Ok(Name { key, of: Of::Class(class) }),
                Err(error) => Err(error.to_string()),
            },
            _ if is_section(name) => Err("this is a section: set the keys inside it".to_owned()),
            _ => Err(unknown(name, |key| dotted(key, size, written_tag(name)))),
        }
    }

    /// The key of the tag that is written so.
    fn of_tag(written: &str, spell: impl Fn(&str) -> String) -> Result<Name, String> {
        let bare = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(written);
        match bare.parse::<Tag>() {
            Ok(tag) => {
                let key = KEYS.iter().find(|key| key.name == BUDGET).expect("the table has it");
                Ok(Name { key, of: Of::Tag(tag) })
            }
            Err(_) => {
                let near = |letter: char| match letter.to_ascii_lowercase() {
                    letter @ ('a'..='z' | '0'..='9' | '_' | '.' | '-') => letter,
                    _ => '-',
                };
                let nearest: String = bare.chars().map(near).take(64).collect();
                let nearest = if nearest.is_empty() { "TAG".to_owned() } else { nearest };
                let rule = "a tag is 1 to 64 of the characters a to z, 0 to 9, _, . and -";
                Err(format!("{rule}, did you mean {}?", spell(&nearest)))
            }
        }
    }

    /// The row, and class or tag, that a name of the environment stands for; `None` where the name is none of ours.
    ///
    /// # Errors
    /// Why there is none though the name begins with `MAAS__`, with the nearest name there is.
    pub(super) fn of_variable(name: &str) -> Option<Result<Name, String>> {
        if let Some(key) = KEYS.iter().find(|key| key.short == Some(name)) {
            return Some(Ok(Name { key, of: Of::Everything }));
        }
        let rest = name.strip_prefix(PREFIX)?;
        let is_upper = rest == rest.to_ascii_uppercase();
        let dotted_name = rest.replace("__", ".").to_ascii_lowercase();
        if let Some(tag) = dotted_name.strip_prefix(BUDGETS).filter(|_| is_upper) {
            return Some(Name::of_tag(tag, |right| variable(&format!("{BUDGETS}{right}"))));
        }
        let known = Name::of_dotted(&dotted_name).ok().filter(|_| is_upper);
        let size = class_segment(&dotted_name);
        let spell = |key: &Key| variable(&dotted(key, size, written_tag(&dotted_name)));
        Some(known.ok_or_else(|| unknown(name, spell)))
    }

    /// The dotted name in its one form.
    pub(super) fn dotted(&self) -> String {
        match &self.of {
            Of::Everything => self.key.name.to_owned(),
            Of::Class(size) => dotted(self.key, Some(&size.to_string()), None),
            Of::Tag(tag) => budget(tag),
        }
    }
}

/// The dotted name of a tag's budget. A tag with a dot in it stands in quotes, so that the name is TOML for the tag.
pub(super) fn budget(tag: &Tag) -> String {
    let tag = tag.as_str();
    if tag.contains('.') { format!("{BUDGETS}\"{tag}\"") } else { format!("{BUDGETS}{tag}") }
}

/// `server.port` → `MAAS__SERVER__PORT`.
pub(super) fn variable(dotted: &str) -> String {
    format!("{PREFIX}{}", dotted.replace('.', "__").to_ascii_uppercase())
}

fn dotted(key: &Key, size: Option<&str>, tag: Option<&str>) -> String {
    key.name.replace("SIZE", size.unwrap_or("SIZE")).replace("TAG", tag.unwrap_or("TAG"))
}

fn is_pattern(key: &Key) -> bool {
    key.name.starts_with(CLASSES) || key.name == BUDGET
}

/// `cache` of `budget.cache`, whose section is misspelt.
fn written_tag(name: &str) -> Option<&str> {
    let (_, tag) = name.split_once('.')?;
    tag.parse::<Tag>().is_ok().then_some(tag)
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
            let dotted = key.name.replace("SIZE", "1024").replace("TAG", "cache");
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
    fn a_budget_is_named_by_its_tag_and_a_wrong_tag_gets_the_rule_and_the_nearest() {
        for (written, name) in [
            ("budgets.a-b_c", "budgets.a-b_c"),
            ("budgets.a.b", "budgets.\"a.b\""),
            ("budgets.\"a.b\"", "budgets.\"a.b\""),
            ("MAAS__BUDGETS__A__B", "budgets.\"a.b\""),
            ("MAAS__BUDGETS__A_B-C", "budgets.a_b-c"),
        ] {
            let found = Name::of_variable(written).unwrap_or_else(|| Name::of_dotted(written));
            assert_eq!(found.map(|name| name.dotted()), Ok(name.to_owned()), "{written}");
        }
        for (written, nearest) in [
            ("budgets.My Cache", "budgets.my-cache?"),
            ("budgets.", "budgets.TAG?"),
            ("MAAS__BUDGETS__A!", "MAAS__BUDGETS__A-?"),
        ] {
            let found = Name::of_variable(written).unwrap_or_else(|| Name::of_dotted(written));
            let refused = found.map(|_| ()).expect_err(written);
            assert!(refused.starts_with("a tag is 1 to 64 of") && refused.ends_with(nearest), "{refused}");
        }
        for (written, nearest) in
            [("budget.cache", "budgets.cache"), ("MAAS__BUDGET__CACHE", "MAAS__BUDGETS__CACHE")]
        {
            let found = Name::of_variable(written).unwrap_or_else(|| Name::of_dotted(written));
            let refused = found.map(|_| ()).expect_err(written);
            assert_eq!(refused, format!("unknown name, did you mean {nearest}?"));
        }
        let refused = Name::of_dotted("budgets").map(|_| ()).expect_err("a section");
        assert!(refused.contains("section"), "{refused}");
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
