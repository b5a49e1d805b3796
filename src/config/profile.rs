//! Profiles: what other systems of known kinds found right for their memory, to begin with.
//!
//! A profile is a list of settings, weaker than any source and stronger than the defaults. They go through the table of
//! keys as everybody's do, so a profile can set nothing that a user could not. `docs/profiles.md` has the figures as a
//! table, which a test compares with this one.
//!
//! Sizes are powers of two throughout: where the systems that the figures come from say KB, MB and GB of their buffers
//! and their shares, these add up only so. Budgets are shares of the pool: they are the figures below in a pool of the
//! profile's own size, and follow it where it has another one; `fit.rs` does that.

use std::sync::LazyLock;

use super::names::Name;
use super::origin::Origin;
use super::sources::Setting;
use super::values::Raw;
use crate::memory::{self, ClassConfig};
use crate::units::{ByteCount, Factor};

/// In place of a profile's name: none.
pub(super) const NONE: &str = "none";

/// The key that chooses one.
pub(super) const KEY: &str = "memory.profile";

const KIB: u64 = ByteCount::KIB;
const MIB: u64 = ByteCount::MIB;
const GIB: u64 = ByteCount::GIB;

/// What a pool for one kind of system looks like.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// Another name of it.
    pub alias: Option<&'static str>,
    /// Who it is for.
    pub purpose: &'static str,
    /// Bytes of the pool; none: as many as without a profile.
    pub pool_bytes: Option<u64>,
    /// Its own classes, smallest first; the default ones above them are added.
    pub classes: &'static [ClassProfile],
    /// What tags may have together.
    pub budgets: &'static [(&'static str, u64)],
}

/// A class of a profile.
#[derive(Debug)]
pub struct ClassProfile {
    /// Bytes of a slab.
    pub size_bytes: u64,
    /// What lies in it.
    pub holds: &'static str,
    /// What differs from other classes.
    pub config: ClassConfig,
}

/// A class that differs in nothing.
const PLAIN: ClassConfig =
    ClassConfig { initial: None, max_free: None, growth_factor: None, magazine_capacity: None };

const fn class(size_bytes: u64, holds: &'static str) -> ClassProfile {
    ClassProfile { size_bytes, holds, config: PLAIN }
}

const fn with_magazine(size_bytes: u64, holds: &'static str, capacity: u32) -> ClassProfile {
    ClassProfile { size_bytes, holds, config: ClassConfig { magazine_capacity: Some(capacity), ..PLAIN } }
}

/// A bucket of messages, of which so many are kept free.
const fn bucket(size_bytes: u64, max_free: u32) -> ClassProfile {
    ClassProfile { size_bytes, holds: "messages", config: ClassConfig { max_free: Some(max_free), ..PLAIN } }
}

const fn buckets(max_free: u32) -> [ClassProfile; 6] {
    [
        bucket(KIB, max_free),
        bucket(4 * KIB, max_free),
        bucket(16 * KIB, max_free),
        bucket(64 * KIB, max_free),
        bucket(256 * KIB, max_free),
        bucket(MIB, max_free),
    ]
}

/// Buffers of one size: so many to begin with, so many kept free at most, and how fast they become more, in thousandths.
const fn buffers(size_bytes: u64, holds: &'static str, initial: u32, max: u32, growth: u32) -> ClassProfile {
    ClassProfile {
        size_bytes,
        holds,
        config: ClassConfig {
            initial: Some(initial),
            max_free: Some(max),
            growth_factor: Some(Factor::thousandths(growth)),
            magazine_capacity: None,
        },
    }
}

/// What is taken and given back most often lies ready for each CPU.
static DATABASE: [ClassProfile; 9] = [
    with_magazine(64, "lock entries", 128),
    class(128, "page headers"),
    class(192, "version records"),
    with_magazine(256, "small rows", 96),
    class(384, "transaction metadata"),
    class(512, "rows, index nodes"),
    class(KIB, "large rows"),
    class(2 * KIB, "index nodes"),
    with_magazine(4 * KIB, "large index nodes", 16),
];

static BROKER: [ClassProfile; 6] = buckets(500);
static BROKER_HIGH_THROUGHPUT: [ClassProfile; 6] = buckets(2000);
static BROKER_CONSTRAINED: [ClassProfile; 6] = buckets(200);

static LOAD_BALANCER: [ClassProfile; 4] = [
    buffers(4 * KIB, "small buffers", 1000, 10_000, 1500),
    buffers(16 * KIB, "medium buffers", 500, 5000, 1300),
    buffers(64 * KIB, "large buffers", 100, 1000, 1200),
    buffers(256 * KIB, "giant buffers", 10, 100, 1100),
];

static SMALL_BUDGETS: [(&str, u64); 4] = budgets(512 * MIB);
static MEDIUM_BUDGETS: [(&str, u64); 4] = budgets(4 * GIB);
static LARGE_BUDGETS: [(&str, u64); 4] = budgets(32 * GIB);

/// Of a load balancer's pool buffers may have half, connections a quarter, TLS and the cache an eighth each.
const fn budgets(pool_bytes: u64) -> [(&'static str, u64); 4] {
    [
        ("buffer", pool_bytes / 2),
        ("connection", pool_bytes / 4),
        ("ssl", pool_bytes / 8),
        ("cache", pool_bytes / 8),
    ]
}

/// Every profile there is.
pub static PROFILES: &[Profile] = &[
    Profile {
        name: "database",
        alias: None,
        purpose: "a database engine's small objects",
        pool_bytes: None,
        classes: &DATABASE,
        budgets: &[],
    },
    Profile {
        name: "broker",
        alias: None,
        purpose: "a message broker's buffers",
        pool_bytes: None,
        classes: &BROKER,
        budgets: &[],
    },
    Profile {
        name: "broker-high-throughput",
        alias: None,
        purpose: "a broker that keeps more of its buffers ready",
        pool_bytes: None,
        classes: &BROKER_HIGH_THROUGHPUT,
        budgets: &[],
    },
    Profile {
        name: "broker-constrained",
        alias: None,
        purpose: "a broker with little memory",
        pool_bytes: None,
        classes: &BROKER_CONSTRAINED,
        budgets: &[],
    },
    Profile {
        name: "load-balancer-small",
        alias: None,
        purpose: "a load balancer with up to 1,000 connections at once",
        pool_bytes: Some(512 * MIB),
        classes: &LOAD_BALANCER,
        budgets: &SMALL_BUDGETS,
    },
    Profile {
        name: "load-balancer-medium",
        alias: Some("load-balancer"),
        purpose: "a load balancer with up to 10,000 connections at once",
        pool_bytes: Some(4 * GIB),
        classes: &LOAD_BALANCER,
        budgets: &MEDIUM_BUDGETS,
    },
    Profile {
        name: "load-balancer-large",
        alias: None,
        purpose: "a load balancer with up to 100,000 connections at once",
        pool_bytes: Some(32 * GIB),
        classes: &LOAD_BALANCER,
        budgets: &LARGE_BUDGETS,
    },
];

impl Profile {
    /// The profile of this name, if there is one.
    pub fn named(name: &str) -> Option<&'static Profile> {
        PROFILES.iter().find(|profile| profile.name == name || profile.alias == Some(name))
    }

    /// The name of the profile that a value chooses; none where it chooses none.
    ///
    /// # Errors
    /// Where there is no such profile, with the nearest name.
    pub(super) fn chosen(raw: &Raw) -> Result<Option<&'static str>, String> {
        let asked = raw.text()?.to_ascii_lowercase();
        if asked.is_empty() || asked == NONE {
            return Ok(None);
        }
        match Profile::named(&asked) {
            Some(profile) => Ok(Some(profile.name)),
            None => Err(unknown(&asked)),
        }
    }

    /// The profile that these settings, later ones stronger, come to.
    pub(super) fn chosen_by(settings: &[Setting]) -> Option<&'static Profile> {
        let strongest = settings.iter().rfind(|setting| setting.name.key.name == KEY)?;
        Profile::chosen(&strongest.raw).ok().flatten().and_then(Profile::named)
    }

    /// Sizes of all its classes: its own, and the default ones above them.
    pub fn slab_sizes(&self) -> Vec<u64> {
        static DEFAULT: LazyLock<Vec<u64>> = LazyLock::new(|| memory::Config::default().slab_sizes);
        let own: Vec<u64> = self.classes.iter().map(|class| class.size_bytes).collect();
        let largest = own.last().copied().unwrap_or(0);
        own.into_iter().chain(DEFAULT.iter().copied().filter(|size| *size > largest)).collect()
    }

    /// What it sets.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let sizes = self.slab_sizes().into_iter().map(integer).collect();
        let mut settings = vec![("memory.slab_sizes".to_owned(), Raw::List(sizes))];
        settings.extend(self.pool_bytes.map(|bytes| ("memory.max_pool_size".to_owned(), integer(bytes))));
        for class in self.classes {
            let ClassConfig { initial, max_free, growth_factor, magazine_capacity } = class.config;
            let key = |name: &str| format!("memory.classes.{}.{name}", class.size_bytes);
            settings.extend(initial.map(|count| (key("initial"), integer(count))));
            settings.extend(max_free.map(|count| (key("max_free"), integer(count))));
            settings
                .extend(growth_factor.map(|factor| (key("growth_factor"), Raw::Word(factor.to_string()))));
            settings.extend(magazine_capacity.map(|count| (key("magazine_capacity"), integer(count))));
        }
        settings.extend(self.budgets.iter().map(|(tag, bytes)| (format!("budgets.{tag}"), integer(*bytes))));
        let named = |(name, raw): (String, Raw)| {
            let name = Name::of_dotted(&name).unwrap_or_else(|what| panic!("{name} is a key: {what}"));
            Setting { name, raw, origin: Origin::Profile(self.name) }
        };
        settings.into_iter().map(named).collect()
    }
}

fn integer(number: impl Into<i128>) -> Raw {
    Raw::Integer(number.into())
}

fn unknown(asked: &str) -> String {
    let names = || PROFILES.iter().flat_map(|profile| [Some(profile.name), profile.alias]).flatten();
    let nearest = names().min_by_key(|name| strsim::osa_distance(name, asked)).unwrap_or(NONE);
    let all: Vec<&str> = names().collect();
    format!("unknown profile, did you mean {nearest}? There are {}", all.join(", "))
}
