//! Profiles: what they come to between the other sources, on machines of all sizes, and in the documentation.

use super::*;
use crate::memory::ClassConfig;
use crate::units::{ByteCount, Factor};

fn with_profile(name: &str) -> Place {
    Place::new().environment("MAAS_PROFILE", name)
}

fn budgets(loaded: &Loaded) -> Vec<(String, u64)> {
    loaded.config.pool.budgets.iter().map(|(tag, bytes)| (tag.to_string(), *bytes)).collect()
}

#[test]
fn every_profile_is_right_by_itself_and_sets_what_its_table_says() {
    for profile in PROFILES {
        let loaded = with_profile(profile.name).memory_limit(64 << 30).loaded();
        assert_eq!(loaded.warnings, [""; 0], "{}", profile.name);
        let config = &loaded.config;
        assert_eq!(config.profile, Some(profile.name));
        assert_eq!(config.memory.slab_sizes, profile.slab_sizes());
        assert_eq!(config.memory.max_pool_size, profile.pool_bytes.unwrap_or(1 << 30));
        for class in profile.classes {
            let set = config.memory.classes.get(&class.size_bytes).copied().unwrap_or_default();
            assert_eq!(set, class.config, "{} {}", profile.name, class.size_bytes);
        }
        let expected: Vec<_> =
            profile.budgets.iter().map(|(tag, bytes)| ((*tag).to_owned(), *bytes)).collect();
        let mut expected = expected;
        expected.sort();
        assert_eq!(budgets(&loaded), expected);
        assert!(profile.classes.is_sorted_by_key(|class| class.size_bytes));
        assert!(profile.budgets.iter().map(|(_, bytes)| bytes).sum::<u64>() <= config.memory.max_pool_size);
    }
}

#[test]
fn the_default_classes_above_a_profiles_own_are_added() {
    let sizes = |name: &str| with_profile(name).loaded().config.memory.slab_sizes;
    let above = |least: u32| (least..=22).map(|power| 1 << power);
    let database = [64, 128, 192, 256, 384, 512, 1024, 2048, 4096];
    assert_eq!(sizes("database"), database.into_iter().chain(above(13)).collect::<Vec<u64>>());
    let broker = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
    assert_eq!(sizes("broker"), broker.into_iter().chain(above(21)).collect::<Vec<u64>>());
}

#[test]
fn a_profile_has_a_second_name_and_none_is_none() {
    assert_eq!(with_profile("Load-Balancer").loaded().config.profile, Some("load-balancer-medium"));
    for none in ["", "none"] {
        assert_eq!(with_profile(none).loaded().config, Config::default());
    }
    let back = with_profile("database").flag("--set", "memory.profile", "none");
    assert_eq!(back.loaded().config, Config::default(), "only the strongest choice counts");
}

#[test]
fn every_source_is_stronger_than_a_profile_which_is_stronger_than_the_defaults() {
    let loaded = Place::new()
        .file(
            "config.toml",
            "[memory]\nprofile = 'database'\nprefault = true\n[memory.classes.4096]\nmagazine_capacity = 8\n",
        )
        .environment("MAAS_PROFILE", "load-balancer-small")
        .flag("--set", "budgets.ssl", "1MiB")
        .loaded();
    assert_eq!(loaded.config.profile, Some("load-balancer-small"));
    let origin = |name: &str| loaded.origin(name).to_string();
    for (name, expected) in [
        ("memory.profile", "environment MAAS_PROFILE"),
        ("memory.slab_sizes", "profile load-balancer-small"),
        ("memory.classes.4096.initial", "profile load-balancer-small"),
        ("memory.classes.4096.magazine_capacity", "config.toml"),
        ("budgets.buffer", "profile load-balancer-small"),
        ("budgets.ssl", "--set"),
        ("memory.canaries", "default"),
    ] {
        assert_eq!(origin(name), expected, "{name}");
    }
    let class = loaded.config.memory.classes[&4096];
    let growth_factor = Some(Factor::thousandths(1500));
    let expected = ClassConfig {
        initial: Some(1000),
        max_free: Some(10_000),
        growth_factor,
        magazine_capacity: Some(8),
    };
    assert_eq!(class, expected);
    let report = loaded.report();
    assert!(report.contains("# profile load-balancer-small"), "{report}");
    assert_eq!(Place::new().file("config.toml", &report).loaded().config, loaded.config);
}

#[test]
fn classes_that_a_profile_is_about_and_nobody_has_are_left_out() {
    let place = with_profile("database").environment("SLAB_SIZES", "4096,64,10000");
    let loaded = place.loaded();
    assert_eq!(loaded.config.memory.classes.keys().copied().collect::<Vec<_>>(), [64, 4096]);
    assert!(!loaded.report().contains("memory.classes.256"));
    let asked = place.flag("--set", "memory.classes.256.initial", "1");
    assert_eq!(
        asked.problems(),
        ["memory.classes.256.initial (--set): 256 is none of memory.slab_sizes"],
        "who asks for such a class is told"
    );
}

#[test]
fn a_profile_starts_on_a_small_machine_with_a_smaller_pool_and_says_so() {
    let loaded = with_profile("load-balancer-large").memory_limit(16 << 30).loaded();
    assert_eq!(loaded.config.memory.max_pool_size, 12 << 30);
    assert_eq!(
        loaded.warnings,
        [
            "memory.max_pool_size of the profile load-balancer-large is 34359738368 (32 GiB), more than 75 % of the memory \
          limit above us (17179869184 (16 GiB), RAM): it is lowered to 12884901888 (12 GiB)"
        ]
    );
    let shares = [("buffer", 6 << 30), ("cache", 3 << 29), ("connection", 3 << 30), ("ssl", 3 << 29)];
    assert_eq!(budgets(&loaded), shares.map(|(tag, bytes)| (tag.to_owned(), bytes)));
    let report = loaded.report();
    assert!(
        report.contains("12 GiB; 75 % of 17179869184 (16 GiB), RAM; profile load-balancer-large"),
        "{report}"
    );
    assert!(report.contains("16 GiB in a pool of 32 GiB; profile load-balancer-large"), "{report}");
}

#[test]
fn budgets_of_a_profile_follow_a_pool_that_somebody_set_and_those_that_somebody_set_do_not() {
    let place = with_profile("load-balancer").environment("MAX_POOL_SIZE", "8GiB").memory_limit(8 << 30);
    let loaded = place.file("config.toml", "budgets.cache = 5").loaded();
    assert_eq!(loaded.config.memory.max_pool_size, 8 << 30, "asked for, so it holds");
    let shares = [("buffer", 4 << 30), ("cache", 5), ("connection", 2 << 30), ("ssl", 1 << 30)];
    assert_eq!(budgets(&loaded), shares.map(|(tag, bytes)| (tag.to_owned(), bytes)));
    assert!(loaded.warnings[0].contains("the system may end the process"), "{:?}", loaded.warnings);
}

#[test]
fn an_unknown_profile_is_one_problem_with_the_nearest_name() {
    let problems = with_profile("databse").flag("--set", "memory.classes.64.initial", "1").problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let expected = "memory.profile = \"databse\" (environment MAAS_PROFILE): unknown profile, did you mean database? There \
                    are database, broker, broker-high-throughput, broker-constrained, load-balancer-small, \
                    load-balancer-medium, load-balancer, load-balancer-large";
    assert_eq!(problems, [expected]);
    assert_eq!(profile_report("load-balancers").expect_err("unknown").0.len(), 1);
}

#[test]
fn the_report_of_a_profile_has_what_it_sets_and_nothing_else_as_toml() {
    for profile in PROFILES {
        let report = profile_report(profile.name).expect("it is known");
        assert!(report.starts_with(&format!("# {}: {}\n", profile.name, profile.purpose)), "{report}");
        assert!(report.contains("above the first [section]"), "{report}");
        let kept = Place::new().file("config.toml", &report).loaded().config;
        let mut chosen = with_profile(profile.name).loaded().config;
        chosen.profile = None;
        assert_eq!(kept, chosen, "{}", profile.name);
        let of_profile = report.lines().filter(|line| line.ends_with(&format!("profile {}", profile.name)));
        assert_eq!(of_profile.count() + 2, report.lines().count(), "{report}");
    }
}

/// The tables of `docs/profiles.md`.
fn documented() -> String {
    let short = |bytes: u64| ByteCount(bytes).in_binary_unit().unwrap_or_else(|| format!("{bytes} B"));
    let mut text = "| profile | for | pool | budgets |\n|---|---|---|---|\n".to_owned();
    for profile in PROFILES {
        let alias = profile.alias.map(|alias| format!(" (`{alias}`)")).unwrap_or_default();
        let pool = profile.pool_bytes.map_or_else(|| "as without".to_owned(), short);
        let budgets: Vec<String> =
            profile.budgets.iter().map(|(tag, bytes)| format!("{tag} {}", short(*bytes))).collect();
        let budgets = if budgets.is_empty() { "none".to_owned() } else { budgets.join(", ") };
        text += &format!("| `{}`{alias} | {} | {pool} | {budgets} |\n", profile.name, profile.purpose);
    }
    text += "\n| profile | class | holds | initial | max_free | growth_factor | magazine_capacity |\n|---|---|---|---|---|---|---|\n";
    let cell = |value: Option<String>| value.unwrap_or_default();
    for profiles in PROFILES.chunk_by(|one, other| std::ptr::eq(one.classes, other.classes)) {
        let names: Vec<String> = profiles.iter().map(|profile| format!("`{}`", profile.name)).collect();
        for class in profiles[0].classes {
            let ClassConfig { initial, max_free, growth_factor, magazine_capacity } = class.config;
            text += &format!(
                "| {} | {} | {} | {} | {} | {} | {} |\n",
                names.join(", "),
                short(class.size_bytes),
                class.holds,
                cell(initial.map(|count| count.to_string())),
                cell(max_free.map(|count| count.to_string())),
                cell(growth_factor.map(|factor| factor.to_string())),
                cell(magazine_capacity.map(|count| count.to_string())),
            );
        }
    }
    text
}

#[test]
fn the_documentation_has_the_figures_of_every_profile() {
    let page = include_str!("../../../docs/profiles.md");
    for line in documented().lines() {
        assert!(
            page.lines().any(|found| found == line),
            "docs/profiles.md lacks {line:?} of\n{}",
            documented()
        );
    }
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows(page), rows(&documented()), "docs/profiles.md has rows of no profile");
}
