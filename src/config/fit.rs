//! What must fit together: the keys to each other, and the whole to the machine it runs on.

use std::collections::BTreeMap;

use super::origin::Origin;
use super::values::Raw;
use super::{Config, Draft, PoolSize, Profile, names, profile};
use crate::limits::{Below, Limits};
use crate::memory::HugePages;
use crate::pool::TAGS_MAX;
use crate::units::ByteCount;

/// What became of a configuration on its machine.
pub(super) struct Fitted {
    pub(super) warnings: Vec<String>,
    pub(super) notes: BTreeMap<String, String>,
}

/// Open files kept back from connections: 64 refused clients that still read their refusal, the listener, the pushes,
/// logs, and room to spare.
const RESERVED_FILES: u64 = 128;

/// A profile's classes are about its own sizes. Where others were chosen, those that are left over mean nothing.
pub(super) fn profile_to_the_classes(draft: &mut Draft) {
    if !draft.are_right(&["memory.slab_sizes"]) {
        return;
    }
    let sizes = &draft.config.memory.slab_sizes;
    let strangers: Vec<u64> =
        draft.config.memory.classes.keys().copied().filter(|size| !sizes.contains(size)).collect();
    for size in strangers {
        let section = format!("memory.classes.{size}.");
        draft
            .origins
            .retain(|name, origin| !name.starts_with(&section) || !matches!(origin, Origin::Profile(_)));
        if !draft.origins.keys().any(|name| name.starts_with(&section)) {
            draft.config.memory.classes.remove(&size);
        }
    }
}

/// A profile's budgets are shares of the pool: where that is not of the profile's size, they follow it.
pub(super) fn budgets_to_the_pool(draft: &mut Draft, profile: &Profile, fitted: &mut Fitted) {
    let pool = draft.config.memory.max_pool_size;
    let Some(own) = profile.pool_bytes.filter(|own| *own != pool) else { return };
    for (tag, bytes) in &mut draft.config.pool.budgets {
        let name = names::budget(tag);
        if !matches!(draft.origins.get(&name), Some(Origin::Profile(_))) {
            continue; // set by somebody, to just so much
        }
        let scaled = u128::from(*bytes) * u128::from(pool) / u128::from(own);
        let short = |bytes: u64| ByteCount(bytes).in_binary_unit().unwrap_or_else(|| bytes.to_string());
        let note = format!("{} in a pool of {}", short(*bytes), short(own));
        *bytes = u64::try_from(scaled).expect("a share of the pool is no more than the pool").max(1);
        fitted.notes.insert(name, note);
    }
}

/// Settles what depends on the machine: the pool's size and the number of connections.
pub(super) fn to_the_machine(draft: &mut Draft, limits: &Limits) -> Fitted {
    let mut fitted = Fitted { warnings: Vec::new(), notes: BTreeMap::new() };
    fit_pool(draft, limits, &mut fitted);
    fit_connections(&mut draft.config, limits, &mut fitted);
    fitted
}

fn fit_pool(draft: &mut Draft, limits: &Limits, fitted: &mut Fitted) {
    const KEY: &str = "memory.max_pool_size";
    let default = Config::default().memory.max_pool_size;
    // 75 %, rounded down, without overflowing on the way.
    let share = limits.memory.as_ref().map(|limit| (limit.bytes / 4 * 3 + limit.bytes % 4 * 3 / 4, limit));
    draft.config.memory.max_pool_size = match (draft.pool_size, share) {
        (PoolSize::Bytes(bytes), Some((share, limit))) if bytes > share && draft.is_of_profile(KEY) => {
            // Nobody asked for just so much: a profile starts on every machine.
            let [asked, lowered] = [bytes, share].map(ByteCount);
            let profile = draft.config.profile.unwrap_or_default();
            fitted.warnings.push(format!(
                "{KEY} of the profile {profile} is {asked}, more than 75 % of the memory limit above us ({limit}): it \
                 is lowered to {lowered}"
            ));
            fitted.notes.insert(KEY.to_owned(), format!("75 % of {limit}"));
            share
        }
        (PoolSize::Bytes(bytes), Some((share, limit))) if bytes > share => {
            let [asked, advised] = [bytes, share].map(ByteCount);
            let danger = if bytes > limit.bytes { "more than" } else { "more than 75 % of" };
            fitted.warnings.push(format!(
                "{KEY} is {asked}, {danger} the memory limit above us ({limit}): the system may end the process \
                 before the pool is full; {advised} would be 75 %"
            ));
            bytes
        }
        (PoolSize::Bytes(bytes), _) => bytes,
        (PoolSize::Unset, Some((share, _))) if share >= default => default,
        (PoolSize::Unset, None) => default,
        (PoolSize::Auto | PoolSize::Unset, Some((share, limit))) => {
            fitted.notes.insert(KEY.to_owned(), format!("75 % of {limit}"));
            share
        }
        (PoolSize::Auto, None) => {
            fitted.warnings.push(format!(
                "{KEY} is \"auto\", but no memory limit above us can be read: it is {}",
                ByteCount(default)
            ));
            default
        }
    };
}

/// A root that somebody chose has to be there, and should have something in it: else nothing is measured where much was
/// meant to be.
pub(super) fn root_to_the_machine(draft: &mut Draft, below: Below, fitted: &mut Fitted) {
    const KEY: &str = "pressure.cgroup_root";
    let Some(root) = draft.config.pressure.cgroup_root.as_ref().filter(|_| draft.are_right(&[KEY])) else {
        return;
    };
    let shown = Raw::Text(root.display().to_string()).to_string();
    match below {
        Below::Something => {}
        Below::Nothing => fitted.warnings.push(format!(
            "{KEY} is {shown}, but below it neither a control group of ours nor stalls for lack of memory can be read: \
             pressure is that of the pool alone"
        )),
        Below::NoDirectory => draft.blame(KEY, Some(shown), "expected a directory that exists".to_owned()),
    }
}

fn fit_connections(config: &mut Config, limits: &Limits, fitted: &mut Fitted) {
    let Some(files) = limits.open_files else { return };
    let most = u32::try_from(files.saturating_sub(RESERVED_FILES).max(1)).unwrap_or(u32::MAX);
    let asked = config.server.max_connections;
    if asked > most {
        config.server.max_connections = most;
        fitted.warnings.push(format!(
            "server.max_connections is {asked}, but only {files} files may be open: it is lowered to {most}"
        ));
        fitted.notes.insert(
            "server.max_connections".to_owned(),
            format!("lowered from {asked} by the limit of open files"),
        );
    }
}

/// The rules between keys. Each is kept only where every key it looks at is right by itself.
pub(super) fn keys_to_each_other(draft: &mut Draft) {
    let backend = &draft.config.backend;
    let (first, most) = (backend.retry_interval, backend.retry_interval_max);
    if first > most && draft.are_right(&["backend.retry_interval", "backend.retry_interval_max"]) {
        let [first, most] = [first, most].map(humantime::format_duration);
        let what = format!("expected at most backend.retry_interval_max, which is {most}");
        draft.blame("backend.retry_interval", Some(format!("\"{first}\"")), what);
    }
    let adaptive = &draft.config.memory.adaptive;
    let (shrink, grow) = (adaptive.shrink_below, adaptive.grow_above);
    if shrink >= grow && draft.are_right(&["adaptive.shrink_below", "adaptive.grow_above"]) {
        // Else a class would grow and shrink in turn.
        let what = format!("expected less than adaptive.grow_above, which is {grow}");
        draft.blame("adaptive.shrink_below", Some(shrink.to_string()), what);
    }
    let marks = draft.config.pressure.watermarks.marks();
    const NAMES: [&str; 4] =
        ["pressure.moderate", "pressure.high", "pressure.critical", "pressure.emergency"];
    for at in 1..NAMES.len() {
        let (lower, higher) = (marks[at - 1], marks[at]);
        if lower >= higher && draft.are_right(&NAMES[at - 1..=at]) {
            let what = format!("expected less than {}, which is {higher}", NAMES[at]);
            draft.blame(NAMES[at - 1], Some(lower.to_string()), what);
        }
    }
    let (body, inflight) = (draft.config.server.body_limit, draft.config.pool.max_inflight_bytes);
    if inflight < body && draft.are_right(&["server.body_limit", "memory.max_inflight_bytes"]) {
        // A body of the largest allowed size, or one whose size is not announced, would never be taken.
        let what = format!("expected at least server.body_limit, which is {}", ByteCount(body));
        draft.blame("memory.max_inflight_bytes", Some(inflight.to_string()), what);
    }
    let budgets = draft.config.pool.budgets.len();
    if budgets > TAGS_MAX {
        let what = format!("{budgets} tags have a budget: expected at most {TAGS_MAX}");
        draft.blame("budgets", None, what);
    }
    // Without its profile a configuration lacks the sizes that it may be about.
    if !draft.are_right(&["memory.slab_sizes", profile::KEY]) {
        return;
    }
    let sizes = &draft.config.memory.slab_sizes;
    let smallest = sizes.iter().copied().min().unwrap_or(0);
    let strangers: Vec<u64> =
        draft.config.memory.classes.keys().copied().filter(|size| !sizes.contains(size)).collect();
    let pool = draft.config.memory.max_pool_size;
    if pool < smallest && draft.are_right(&["memory.max_pool_size"]) {
        let what = format!("expected room for the smallest size class, which is {}", ByteCount(smallest));
        draft.blame("memory.max_pool_size", Some(pool.to_string()), what);
    }
    for size in strangers {
        let section = format!("memory.classes.{size}");
        // A class whose keys are wrong is there only because of them.
        let Some(key) = draft.origins.keys().find(|name| name.starts_with(&format!("{section}."))).cloned()
        else {
            continue;
        };
        draft.blame(&key, None, format!("{size} is none of memory.slab_sizes"));
    }
}

/// What is allowed, but hardly meant.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let sizes = &config.memory.slab_sizes;
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let smallest = sizes.iter().copied().min().unwrap_or(0);
    let pool = config.memory.max_pool_size;
    let asked = config.pool.max_allocation_size.filter(|asked| *asked > pool);
    let too_large = asked.map(|asked| {
        format!(
            "memory.max_allocation_size is {}, but memory.max_pool_size is {}: no larger request can be granted",
            ByteCount(asked),
            ByteCount(pool)
        )
    });
    let too_small = config.pool.budgets.iter().filter(|(_, bytes)| **bytes < smallest);
    let too_small = too_small.map(|(tag, bytes)| {
        format!(
            "{} is {}, but the smallest size class is {}: nothing with this tag can be granted",
            names::budget(tag),
            ByteCount(*bytes),
            ByteCount(smallest)
        )
    });
    let huge = config.memory.huge_pages;
    // What is larger than the largest class may lie in huge pages too.
    let has_no_objects = config.pool.max_allocation_size.unwrap_or(pool).min(pool) <= largest;
    let has_none =
        |multiple: &u64| has_no_objects && !sizes.iter().any(|size| size.is_multiple_of(*multiple));
    let without_effect = huge.slab_multiple_bytes().filter(has_none).map(|multiple| {
        let multiple = ByteCount(multiple);
        format!("memory.huge_pages asks for slabs of whole multiples of {multiple}, but there are none: it does nothing")
    });
    let too_much = (huge == HugePages::OneGibibyte).then(|| {
        "memory.huge_pages is \"1GiB\", but the system makes no pages of more than 2 MiB of memory that is given back"
            .to_owned()
    });
    too_large.into_iter().chain(too_small).chain(without_effect).chain(too_much).collect()
}

impl Draft {
    fn is_of_profile(&self, name: &str) -> bool {
        matches!(self.origins.get(name), Some(Origin::Profile(_)))
    }

    fn are_right(&self, names: &[&str]) -> bool {
        names.iter().all(|name| !self.wrong.contains(*name))
    }
}
