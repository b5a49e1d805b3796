//! The table of keys: everything that can be set, once. The rows stand in a file for each section, below this one.
//!
//! A row has the dotted name, the short environment name where there is one, what the key means with its unit and
//! bounds, how to set it from a raw value and how to show it. The sources look names up here, the report walks the
//! table, and tests hold `config.toml` and `.env.example` against it. A key is added here when its feature is.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::values::Raw;
use super::{Config, Draft};
use crate::memory::ClassConfig;
use crate::units::{ByteCount, Factor};

mod adaptive;
mod admission;
mod budgets;
mod leaks;
mod memory;
mod peers;
mod pressure;
mod server;

/// One thing that can be set.
#[derive(Clone, Copy)]
pub struct Key {
    /// Dotted name; `SIZE` stands for a class's size, `TAG` for a tag.
    pub name: &'static str,
    /// Short name in the environment.
    pub short: Option<&'static str>,
    /// What it means, with unit and bounds; `config.toml` says the same words.
    pub meaning: &'static str,
    pub(super) access: Access,
}

/// How a key's value is set and shown.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// One value of the whole configuration.
    Single { set: fn(&mut Draft, &Raw) -> Result<(), String>, show: fn(&Config) -> Shown },
    /// One value for each class; shown where it is set.
    Class { set: fn(&mut ClassConfig, &Raw) -> Result<(), String>, show: fn(&ClassConfig) -> Option<Shown> },
    /// A number for each tag; shown where it is set.
    Tag { set: fn(&Raw) -> Result<u64, String>, show: fn(u64) -> Shown },
}

/// A value the way a user reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// As TOML.
    pub(super) toml: String,
    /// The same in another unit, where that helps.
    pub(super) note: Option<String>,
}

/// Every timeout and interval lies in this range: zero would spin, and a deadline centuries ahead overflows clocks.
const SPAN: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(365 * 86_400);

/// A part of a whole.
const PART: RangeInclusive<Factor> = Factor::thousandths(0)..=Factor::thousandths(1000);

/// How many times as much: from nothing more to very much more.
const GROWTH: RangeInclusive<Factor> = Factor::thousandths(1000)..=Factor::thousandths(16_000);

/// The sections, in the order of `config.toml`.
const SECTIONS: [&[Key]; 8] = [
    server::KEYS,
    memory::KEYS,
    budgets::KEYS,
    adaptive::KEYS,
    pressure::KEYS,
    admission::KEYS,
    leaks::KEYS,
    peers::KEYS,
];

/// Keys of all sections together.
const KEYS_COUNT: usize = {
    let (mut section, mut count) = (0, 0);
    while section < SECTIONS.len() {
        count += SECTIONS[section].len();
        section += 1;
    }
    count
};

/// Every key, in the order of `config.toml`.
pub static KEYS: &[Key] = &one_table::<KEYS_COUNT>();

/// The rows of all sections, `COUNT` of them, as one table.
const fn one_table<const COUNT: usize>() -> [Key; COUNT] {
    let mut all = [SECTIONS[0][0]; COUNT];
    let (mut section, mut row, mut at) = (0, 0, 0);
    while at < COUNT {
        if row == SECTIONS[section].len() {
            (section, row) = (section + 1, 0);
        } else {
            all[at] = SECTIONS[section][row];
            (row, at) = (row + 1, at + 1);
        }
    }
    all
}

fn plain(value: impl ToString) -> Shown {
    Shown { toml: value.to_string(), note: None }
}

fn number(value: impl ToString) -> Shown {
    plain(value)
}

fn bytes(bytes: u64) -> Shown {
    Shown { toml: bytes.to_string(), note: ByteCount(bytes).in_binary_unit() }
}

fn sizes(sizes: &[u64]) -> Shown {
    let listed: Vec<String> = sizes.iter().map(u64::to_string).collect();
    let short = |size: Option<&u64>| {
        size.map_or_else(String::new, |size| {
            ByteCount(*size).in_binary_unit().unwrap_or_else(|| size.to_string())
        })
    };
    let note = match sizes.len() {
        1 => short(sizes.first()),
        count => format!("{count} classes, {} to {}", short(sizes.iter().min()), short(sizes.iter().max())),
    };
    Shown { toml: format!("[{}]", listed.join(", ")), note: Some(note) }
}

fn duration(time: Duration) -> Shown {
    plain(format!("\"{}\"", humantime::format_duration(time)))
}

/// Text in the quotes of TOML, whose escapes JSON's are.
fn text(value: &str) -> Shown {
    plain(serde_json::Value::from(value))
}
