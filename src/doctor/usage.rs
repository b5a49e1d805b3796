//! How full memory is, and when it will be; whose it is, and how it is used.

use super::{Check, Facts, Outcome, Service, Severity, bytes, counted, found, percent};
use crate::pressure::{Level, Source};
use std::time::Duration;

pub(super) const CHECKS: &[Check] = &[
    ("pressure", |facts| of(facts, pressure)),
    ("stalls", |facts| of(facts, stalls)),
    ("forecast", |facts| of(facts, forecast)),
    ("biggest-tag", biggest_tag),
    ("budgets", |facts| of(facts, budgets)),
    ("leaks", |facts| of(facts, leaks)),
    ("arenas", |facts| of(facts, arenas)),
    ("waste", |facts| of(facts, waste)),
    ("fragmentation", fragmentation),
    ("table", |facts| of(facts, table)),
    ("inflight", inflight),
    ("damaged-slabs", |facts| of(facts, damaged_slabs)),
];

/// A crossing that is further away is not told: much can happen until then.
const FORECAST_WARNS: Duration = Duration::from_secs(600);
/// One that is nearer is a problem.
const FORECAST_ALARMS: Duration = Duration::from_secs(60);
/// Below so many bytes it does not matter how they are used.
const WASTE_BYTES_MIN: u64 = 16 << 20;
/// A part of the blocks' bytes that nobody asked for: with sizes that double, half of it at random.
const WASTE_RATIO: f64 = 0.40;
/// How far free pages lie in pieces: no piece has more than a tenth of them.
const FRAGMENTATION_RATIO: f64 = 0.90;
/// What to do about stalls.
const STALLS_FIX: &str = "Find what else uses the memory of this machine or group, or give it more.";
/// Something of a bound is almost all of it.
const ALMOST: f64 = 0.90;

/// What a rule says that is about a service.
fn of(facts: &Facts, rule: fn(&Service) -> Outcome) -> Outcome {
    facts.service.as_ref().map_or(Outcome::Unknown, rule)
}

fn part(of: u64, all: u64) -> f64 {
    crate::units::ratio(of, all)
}

fn pressure(service: &Service) -> Outcome {
    let severity = match service.level {
        Level::Normal | Level::Moderate => return Outcome::Fine,
        Level::High => Severity::Warning,
        Level::Critical | Level::Emergency => Severity::Problem,
    };
    let (what, why, fix) = match service.level_source {
        Source::Pool => (
            "the pool is",
            "",
            "Free what is not needed (GET /stats, tags; GET /stats/leaks), or raise memory.max_pool_size.",
        ),
        Source::System => (
            "memory above the service is",
            "",
            "Raise the limit of the container or the machine, or lower memory.max_pool_size.",
        ),
        // Room under a limit is no cure where it is the machine that is short of memory.
        Source::Psi => {
            ("memory is", ", and stalls for lack of memory (PSI) raise the level by one step", STALLS_FIX)
        }
    };
    let (level, full) = (service.level.name(), percent(service.ratio));
    let summary = format!("Pressure is {level}: {what} {full} full{why}.");
    found(severity, summary, fix)
}

fn stalls(service: &Service) -> Outcome {
    if !service.are_stalls_read {
        return Outcome::Unknown;
    }
    if service.level_source != Source::Psi {
        return Outcome::Fine;
    }
    let summary = format!(
        "Processes here stall for lack of memory a fifth of the time or more (PSI), which raises the level to {}.",
        service.level.name()
    );
    found(Severity::Warning, summary, STALLS_FIX)
}

fn forecast(service: &Service) -> Outcome {
    let Some(seconds) = service.critical_in_seconds.filter(|seconds| *seconds > 0.0) else {
        return Outcome::Fine;
    };
    let severity = match seconds {
        seconds if seconds <= FORECAST_ALARMS.as_secs_f64() => Severity::Problem,
        seconds if seconds <= FORECAST_WARNS.as_secs_f64() => Severity::Warning,
        _ => return Outcome::Fine,
    };
    let summary =
        format!("Memory is {} full and expected to be critical in {seconds:.0} s.", percent(service.ratio));
    found(
        severity,
        summary,
        "Look at what grows (GET /pressure, GET /stats), and free or bound it: leases, [budgets].",
    )
}

fn biggest_tag(facts: &Facts) -> Outcome {
    let Some(service) = &facts.service else { return Outcome::Unknown };
    let pool = facts.settings.pool_bytes;
    let Some(tag) = service.tags.iter().max_by_key(|tag| tag.bytes) else { return Outcome::Fine };
    if tag.budget_bytes.is_some() || part(tag.bytes, pool) <= 0.5 {
        return Outcome::Fine;
    }
    let summary = format!(
        "The tag {} alone holds {}, {} of the pool, and nothing bounds it.",
        tag.tag,
        bytes(tag.bytes),
        percent(part(tag.bytes, pool))
    );
    let fix = format!("Bound it, so that others always find room: --set budgets.{}=….", tag.tag);
    found(Severity::Warning, summary, fix)
}

fn budgets(service: &Service) -> Outcome {
    let use_of = |budget: u64, bytes: u64| part(bytes, budget.max(1));
    let tags = service.tags.iter().filter_map(|tag| Some((tag, tag.budget_bytes?)));
    let fullest = tags.max_by(|(one, budget), (other, others)| {
        use_of(*budget, one.bytes).total_cmp(&use_of(*others, other.bytes))
    });
    match fullest {
        Some((tag, budget)) if use_of(budget, tag.bytes) >= ALMOST => {
            let summary = format!(
                "The tag {} holds {} of its budget of {}: the next request with it may be refused.",
                tag.tag,
                bytes(tag.bytes),
                bytes(budget)
            );
            found(Severity::Warning, summary, format!("Free some of it, or raise budgets.{}.", tag.tag))
        }
        _ => Outcome::Fine,
    }
}

fn leaks(service: &Service) -> Outcome {
    let Some(leaks) = &service.leaks else { return Outcome::Unknown };
    if leaks.count == 0 {
        return Outcome::Fine;
    }
    let who =
        leaks.tag.as_ref().map_or_else(|| "without a tag".to_owned(), |tag| format!("of the tag {tag}"));
    let summary = format!(
        "Nothing will end {} ({}) older than {}, for lack of a lease; most of it is {who}, and nobody has read or \
         written any of that for {}.",
        counted(leaks.count, "allocation"),
        bytes(leaks.bytes),
        counted(leaks.older_than.as_secs(), "second"),
        counted(leaks.untouched.as_secs(), "second")
    );
    found(
        Severity::Warning,
        summary,
        "See which requests made them (GET /stats/leaks), and allocate with lease_seconds.",
    )
}

fn arenas(service: &Service) -> Outcome {
    let arenas = service.arenas;
    if arenas.count == 0 {
        return Outcome::Fine;
    }
    let summary = format!(
        "Nothing will end {}, for lack of a lease; the oldest was made {} ago.",
        counted(arenas.count, "open arena"),
        counted(arenas.oldest.as_secs(), "second")
    );
    found(
        Severity::Warning,
        summary,
        "End them (GET /arenas lists them), and make arenas with lease_seconds.",
    )
}

fn waste(service: &Service) -> Outcome {
    let unasked = service.allocated_bytes.saturating_sub(service.requested_bytes);
    let ratio = part(unasked, service.allocated_bytes);
    if service.allocated_bytes < WASTE_BYTES_MIN || ratio < WASTE_RATIO {
        return Outcome::Fine;
    }
    let summary = format!(
        "Of {} in blocks nobody asked for {}: sizes are rounded up to classes that do not fit them.",
        bytes(service.allocated_bytes),
        percent(ratio)
    );
    found(Severity::Warning, summary, "Run \"maas recommend\", which says which memory.slab_sizes would fit.")
}

fn fragmentation(facts: &Facts) -> Outcome {
    let Some(service) = &facts.service else { return Outcome::Unknown };
    let is_much = part(service.free_run_bytes, facts.settings.pool_bytes) >= 0.1;
    if !is_much || service.free_run_fragmentation < FRAGMENTATION_RATIO {
        return Outcome::Fine;
    }
    let summary = format!(
        "{} of free pages lie in small pieces ({} fragmented): large blocks are made of many segments.",
        bytes(service.free_run_bytes),
        percent(service.free_run_fragmentation)
    );
    found(
        Severity::Info,
        summary,
        "Nothing is refused for it; larger requests, or memory.large_fit \"best\", make fewer pieces.",
    )
}

fn table(service: &Service) -> Outcome {
    if part(service.allocations, service.allocations_max) < ALMOST {
        return Outcome::Fine;
    }
    let summary = format!(
        "{} of {} allocations live: beyond that requests are refused (507 table-full) whatever room there is.",
        service.allocations, service.allocations_max
    );
    found(Severity::Warning, summary, "Raise memory.max_allocations, or put small blocks into arenas.")
}

fn inflight(facts: &Facts) -> Outcome {
    let Some(service) = &facts.service else { return Outcome::Unknown };
    let most = facts.settings.inflight_bytes;
    if part(service.inflight_bytes, most) < ALMOST {
        return Outcome::Fine;
    }
    let summary = format!(
        "Requests on their way hold {} of {}: bodies are refused beyond that (503 inflight-exhausted).",
        bytes(service.inflight_bytes),
        bytes(most)
    );
    found(Severity::Warning, summary, "Raise memory.max_inflight_bytes, or send fewer large bodies at once.")
}

fn damaged_slabs(service: &Service) -> Outcome {
    if service.guard_violations == 0 {
        return Outcome::Fine;
    }
    let summary = format!(
        "A stray write damaged {}; {} are out of use for good.",
        counted(service.guard_violations, "slab"),
        bytes(service.retired_bytes)
    );
    found(
        Severity::Problem,
        summary,
        "Something in this process, or the machine's memory, is broken: restart it, and test the memory.",
    )
}

#[cfg(test)]
mod tests {
    use super::super::TagUse;
    use super::*;

    const MEBI: u64 = 1 << 20;

    fn run(code: &str, facts: &Facts) -> Option<(Severity, String)> {
        let (_, check) = CHECKS.iter().find(|(name, _)| *name == code).expect("there is such a check");
        match check(facts) {
            Outcome::Found(severity, summary, fix) => Some((severity, format!("{summary} {fix}"))),
            Outcome::Fine => None,
            Outcome::Unknown => panic!("it knows enough"),
        }
    }

    /// How bad that check finds a service that was healthy but for this.
    fn severity(code: &str, change: impl FnOnce(&mut Service)) -> Option<Severity> {
        said(code, change).map(|(severity, _)| severity)
    }

    fn said(code: &str, change: impl FnOnce(&mut Service)) -> Option<(Severity, String)> {
        let mut facts = Facts::healthy();
        change(facts.service.as_mut().expect("there is one"));
        run(code, &facts)
    }

    #[test]
    fn pressure_is_told_from_high_on_with_what_is_full() {
        for (level, expected) in [
            (Level::Moderate, None),
            (Level::High, Some(Severity::Warning)),
            (Level::Critical, Some(Severity::Problem)),
            (Level::Emergency, Some(Severity::Problem)),
        ] {
            assert_eq!(severity("pressure", |service| service.level = level), expected, "{level:?}");
        }
        let by = |source| {
            let told = said("pressure", |service| {
                (service.level, service.ratio, service.level_source) = (Level::High, 0.8, source);
            });
            told.expect("it is high").1
        };
        assert!(
            by(Source::Pool).contains("high: the pool is 80 % full")
                && by(Source::Pool).contains("max_pool_size")
        );
        assert!(by(Source::System).contains("memory above the service is 80 % full"));
        let stalled = by(Source::Psi);
        assert!(stalled.contains("80 % full, and stalls for lack of memory (PSI) raise"), "{stalled}");
        assert!(!stalled.contains("above the service") && !stalled.contains("limit"), "{stalled}");
    }

    #[test]
    fn stalls_are_told_where_they_decide() {
        let by = |source| severity("stalls", |service| service.level_source = source);
        assert_eq!((by(Source::System), by(Source::Psi)), (None, Some(Severity::Warning)));
        let mut facts = Facts::healthy();
        facts.service.as_mut().expect("there is one").are_stalls_read = false;
        assert_eq!(of(&facts, stalls), Outcome::Unknown, "nobody reads them");
    }

    #[test]
    fn a_forecast_is_told_by_how_near_it_is() {
        for (seconds, expected) in [
            (None, None),
            (Some(0.0), None),
            (Some(60.0), Some(Severity::Problem)),
            (Some(61.0), Some(Severity::Warning)),
            (Some(600.0), Some(Severity::Warning)),
            (Some(601.0), None),
        ] {
            assert_eq!(
                severity("forecast", |service| service.critical_in_seconds = seconds),
                expected,
                "{seconds:?}"
            );
        }
    }

    fn tag(name: &str, mebi: u64, budget_mebi: Option<u64>) -> TagUse {
        TagUse { tag: name.to_owned(), bytes: mebi * MEBI, budget_bytes: budget_mebi.map(|mebi| mebi * MEBI) }
    }

    #[test]
    fn a_tag_with_more_than_half_of_the_pool_is_told_unless_it_has_a_budget() {
        let with = |tags: Vec<TagUse>| said("biggest-tag", |service| service.tags = tags);
        assert_eq!(with(vec![tag("a", 512, None), tag("b", 512, None)]), None);
        assert_eq!(with(vec![tag("a", 513, Some(800))]), None);
        let (severity, text) =
            with(vec![tag("b", 1, None), tag("a", 768, None)]).expect("it is three quarters");
        assert!(severity == Severity::Warning && text.contains("tag a alone holds 768 MiB, 75 %"), "{text}");
        assert!(text.contains("budgets.a="), "{text}");
    }

    #[test]
    fn a_budget_that_is_almost_used_is_told() {
        let with = |tags: Vec<TagUse>| said("budgets", |service| service.tags = tags);
        assert_eq!(with(vec![tag("a", 89, Some(100)), tag("b", 500, None)]), None);
        let text = with(vec![tag("a", 89, Some(100)), tag("b", 9, Some(10))]).expect("one is").1;
        assert!(
            text.contains("tag b holds 9 MiB of its budget of 10 MiB") && text.contains("budgets.b"),
            "{text}"
        );
    }

    #[test]
    fn leaks_are_told_with_whose_they_are() {
        let (severity, text) = said("leaks", |service| {
            let leaks = service.leaks.as_mut().expect("a look was taken");
            (leaks.count, leaks.bytes, leaks.tag) = (3, 5 * MEBI, Some("jobs".to_owned()));
            leaks.untouched = Duration::from_secs(77);
        })
        .expect("there are some");
        assert_eq!(severity, Severity::Warning);
        for part in
            ["end 3 allocations (5 MiB)", "300 seconds", "of the tag jobs", "for 77 seconds", "/stats/leaks"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(severity_of_none(), None);
        let mut facts = Facts::healthy();
        facts.service.as_mut().expect("there is one").leaks = None;
        assert_eq!(of(&facts, leaks), Outcome::Unknown, "before the first look");
    }

    fn severity_of_none() -> Option<Severity> {
        severity("leaks", |_| ())
    }

    #[test]
    fn arenas_that_nothing_ends_are_told() {
        assert_eq!(severity("arenas", |_| ()), None);
        let text = said("arenas", |service| {
            (service.arenas.count, service.arenas.oldest) = (2, Duration::from_secs(900));
        });
        assert!(text.is_some_and(|(_, text)| text.contains("2 open arenas") && text.contains("900 seconds")));
    }

    #[test]
    fn classes_that_do_not_fit_are_told_where_it_matters() {
        let with = |allocated: u64, requested: u64| {
            severity("waste", |service| {
                (service.allocated_bytes, service.requested_bytes) = (allocated * MEBI, requested * MEBI);
            })
        };
        assert_eq!(with(100, 61), None);
        assert_eq!(with(100, 60), Some(Severity::Warning));
        assert_eq!(with(15, 1), None, "it is not much");
    }

    #[test]
    fn free_pages_in_pieces_are_good_to_know_where_they_are_many() {
        let with = |mebi: u64, ratio: f64| {
            severity("fragmentation", |service| {
                (service.free_run_bytes, service.free_run_fragmentation) = (mebi * MEBI, ratio);
            })
        };
        assert_eq!((with(103, 0.95), with(102, 0.95), with(103, 0.89)), (Some(Severity::Info), None, None));
    }

    #[test]
    fn bounds_that_are_almost_reached_are_told() {
        let allocations = |count| {
            severity("table", |service| (service.allocations, service.allocations_max) = (count, 100))
        };
        assert_eq!((allocations(89), allocations(90)), (None, Some(Severity::Warning)));
        let inflight = |mebi: u64| severity("inflight", |service| service.inflight_bytes = mebi * MEBI);
        assert_eq!((inflight(57), inflight(58)), (None, Some(Severity::Warning)));
    }

    #[test]
    fn damage_is_a_problem() {
        assert_eq!(severity("damaged-slabs", |_| ()), None);
        let told =
            said("damaged-slabs", |service| (service.guard_violations, service.retired_bytes) = (2, 8192));
        assert!(told.is_some_and(|(severity, text)| severity == Severity::Problem && text.contains("8 KiB")));
    }
}
