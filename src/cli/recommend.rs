//! `maas recommend`: what to configure for the sizes that are really asked for, of a running server or in a file.
//!
//! What it prints is a section of `config.toml`: the figures in comments, and the keys below.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Settings, ask, refuse, say};
use crate::memory::{CLASSES_MAX, Seen, SizeGroup};
use crate::units::ByteCount;

/// Where what is printed goes.
const WHERE: &str = "\
# In config.toml, in place of these keys of [memory]; sections [memory.classes.SIZE] of other sizes must go.\n";

/// Size classes are multiples of so many bytes: sizes that differ by less have the same.
const SIZE_STEP_BYTES: u64 = 8;

/// Different sizes that a file has at most, to within a step: the search for 64 classes takes 93 MiB for so many.
const SIZES_MAX: usize = 1 << 18;

/// What to ask, and for how many classes.
#[derive(Args)]
pub(super) struct Question {
    #[command(flatten)]
    settings: Settings,
    /// Address of the server to ask, such as http://127.0.0.1:3000, without a path (healthcheck's --url has one); without it,
    /// the host and port of the configuration
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Size classes at most, 1 to 64; without it, as many as there are
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=CLASSES_MAX as u64))]
    classes: Option<u64>,
    /// Read sizes from this file, or `-`, in place of asking a server: one a line, `4096` or `4KiB`, and where it came
    /// more than once how often behind a comma
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    file: Option<PathBuf>,
    /// Print the recommendation as one JSON object
    #[arg(long)]
    json: bool,
}

/// As `GET /stats/recommendations` answers. From a file no pool size follows.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
struct Recommended {
    slab_sizes: Vec<u64>,
    waste_ratio: Option<f64>,
    current_waste_ratio: Option<f64>,
    max_pool_size_bytes: Option<u64>,
    sample_count: u64,
}

/// Asks or reads, and prints.
pub(super) fn run(question: Question) -> ExitCode {
    let Question { settings, url, classes, file, json } = question;
    let recommended = match (file, url) {
        (None, Some(url)) => ask::base(&url).and_then(|base| asked(&base, classes)),
        (file, _) => match (settings.load(), file) {
            (Err(problems), _) => return refuse(&problems),
            (Ok(loaded), Some(file)) => read(&file, &loaded.config.memory.slab_sizes, classes),
            (Ok(loaded), None) => {
                ask::address_of(&loaded.config.server).and_then(|base| asked(&base, classes))
            }
        },
    };
    match recommended {
        Ok(recommended) => {
            let text = if json {
                let json = serde_json::to_string(&recommended).expect("numbers and lists become JSON");
                json + "\n"
            } else {
                told(&recommended)
            };
            say(io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(io::stderr(), &format!("maas recommend: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Asks the server at this address, which ends without a slash.
fn asked(base: &str, classes: Option<u64>) -> Result<Recommended, String> {
    let query = classes.map_or_else(String::new, |classes| format!("?classes={classes}"));
    let path = format!("/stats/recommendations{query}");
    let answer = ask::get(&format!("{base}{path}"))?;
    let shown = crate::config::hide_credentials(base);
    if answer.status != reqwest::StatusCode::OK {
        return Err(format!("{shown} answered {} to GET {path}", answer.status));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| format!("what answers at {shown} is no MaaS: {error}"))
}

fn read(path: &Path, slab_sizes: &[u64], classes: Option<u64>) -> Result<Recommended, String> {
    let shown = path.display();
    if path.as_os_str() == "-" {
        return recommend(io::stdin().lock(), slab_sizes, classes)
            .map_err(|why| format!("standard input: {why}"));
    }
    let file = File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    // It can be opened all the same, and then its first line would be to blame.
    if file.metadata().is_ok_and(|what| what.is_dir()) {
        return Err(format!("cannot read {shown}: it is a directory"));
    }
    recommend(BufReader::new(file), slab_sizes, classes).map_err(|why| format!("{shown}: {why}"))
}

/// What follows from these lines for a server that has these classes now. No more is known of a size than the class of
/// its own that it might have, so the groups are exact.
fn recommend(lines: impl BufRead, slab_sizes: &[u64], classes: Option<u64>) -> Result<Recommended, String> {
    let mut slab_sizes = slab_sizes.to_vec();
    slab_sizes.sort_unstable();
    let mut groups: BTreeMap<u64, SizeGroup> = BTreeMap::new();
    let mut actual_bytes = 0_u128;
    for (at, line) in lines.lines().enumerate() {
        let line = line.map_err(|error| format!("line {}: {error}", at + 1))?;
        // Editors that write a byte order mark do so at the start.
        let line = if at == 0 { line.trim_start_matches('\u{feff}') } else { &line };
        let text = line.split_once('#').map_or(line, |(text, _)| text).trim();
        if text.is_empty() {
            continue;
        }
        let (size_bytes, times) = size_and_times(text).map_err(|why| format!("line {}: {why}", at + 1))?;
        // What no class holds is made of whole pages: as on a server, it says nothing about classes.
        let Some(class) = slab_sizes.iter().find(|class| **class >= size_bytes) else { continue };
        actual_bytes += u128::from(*class) * u128::from(times);
        let largest_bytes = size_bytes.next_multiple_of(SIZE_STEP_BYTES);
        let none = SizeGroup { count: 0, largest_bytes, sum_bytes: 0 };
        let group = groups.entry(largest_bytes).or_insert(none);
        group.count += times;
        group.sum_bytes += u128::from(size_bytes) * u128::from(times);
        if groups.len() > SIZES_MAX {
            return Err(format!("line {}: more than {SIZES_MAX} different sizes: round some up", at + 1));
        }
    }
    let classes = classes.and_then(|classes| usize::try_from(classes).ok()).unwrap_or(slab_sizes.len());
    let groups = groups.into_values().collect();
    let seen = Seen { groups, actual_bytes, slab_sizes, ..Seen::default() };
    let mut search = seen.search();
    while search.wants_more(classes) {
        search.add_class();
    }
    let recommendation = seen.recommend(&search);
    Ok(Recommended {
        slab_sizes: recommendation.slab_sizes,
        waste_ratio: recommendation.waste_ratio,
        current_waste_ratio: recommendation.current_waste_ratio,
        max_pool_size_bytes: None,
        sample_count: recommendation.samples,
    })
}

/// `1000`, `4KiB`, `1000,17`.
fn size_and_times(text: &str) -> Result<(u64, u64), String> {
    let (size, times) = text.split_once(',').unwrap_or((text, "1"));
    let shown = |part: &str| part.trim().chars().take(40).collect::<String>();
    let bytes = size.parse::<ByteCount>().map_err(|_| format!("{:?} is not a size", shown(size)))?.0;
    if !(1..=crate::config::SIZE_BYTES_MAX).contains(&bytes) {
        return Err(format!("{:?} is not a size from 1 to 64 TiB", shown(size)));
    }
    match times.trim().parse::<u32>() {
        Ok(times) if times > 0 => Ok((bytes, times.into())),
        _ => Err(format!("{:?} is not how often, a whole number from 1 to {}", shown(times), u32::MAX)),
    }
}

/// The recommendation in words, as a section of `config.toml`.
fn told(recommended: &Recommended) -> String {
    let Recommended { slab_sizes, waste_ratio, current_waste_ratio, max_pool_size_bytes, sample_count } =
        recommended;
    let percent = |ratio: f64| format!("{:.1} %", ratio * 100.0);
    let mut text = String::new();
    match (waste_ratio, current_waste_ratio) {
        (Some(ratio), Some(current)) => {
            let requests = if *sample_count == 1 { "request" } else { "requests" };
            let _ = writeln!(text, "# From {sample_count} {requests}.");
            let _ = writeln!(
                text,
                "# Of the memory given out, the present size classes waste {}, those below {}.",
                percent(*current),
                percent(*ratio)
            );
            if current < ratio {
                text.push_str("# Warning: they waste more than the present ones: keep those, or allow more --classes.\n");
            }
            if let Some(largest) = slab_sizes.last() {
                let _ = writeln!(
                    text,
                    "# Requests above {} take whole pages: add a larger class if there will be many.",
                    ByteCount(*largest)
                );
            }
        }
        _ => text.push_str("# No size was seen that a class holds: this is what there is.\n"),
    }
    if let (Some(bytes), Some(_)) = (max_pool_size_bytes, waste_ratio) {
        let _ = writeln!(
            text,
            "# The pool has room for the most that was in use and a quarter, also where slabs grow: {}.",
            ByteCount(*bytes)
        );
    }
    text.push_str(WHERE);
    let listed: Vec<String> = slab_sizes.iter().map(u64::to_string).collect();
    let _ = writeln!(text, "[memory]\nslab_sizes = [{}]", listed.join(", "));
    if let Some(bytes) = max_pool_size_bytes {
        let _ = writeln!(text, "max_pool_size = {bytes}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Result<Recommended, String> {
        recommend(lines.as_bytes(), &[4096, 1024], None)
    }

    #[test]
    fn sizes_are_read_one_a_line_with_units_counts_and_comments() {
        let recommended = of("# sizes\n1000\n\n1000, 2 # again\n 3KiB\n1000,1\n").expect("right");
        let expected = Recommended {
            slab_sizes: vec![1000, 3072],
            waste_ratio: Some(0.0),
            current_waste_ratio: Some((8192.0 - 7072.0) / 8192.0),
            max_pool_size_bytes: None,
            sample_count: 5,
        };
        assert_eq!(recommended, expected);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line() {
        for (lines, expected) in [
            ("1000\nten\n", "line 2: \"ten\" is not a size"),
            ("\n\n0", "line 3: \"0\" is not a size from 1 to 64 TiB"),
            ("-5", "line 1: \"-5\" is not a size"),
            ("5,", "line 1: \"\" is not how often"),
            ("5,0", "line 1: \"0\" is not how often"),
            ("5,6,7", "line 1: \"6,7\" is not how often"),
            ("65TiB", "line 1: \"65TiB\" is not a size from 1"),
        ] {
            let why = of(lines).expect_err(lines);
            assert!(why.starts_with(expected), "{lines:?}: {why}");
        }
        let why = recommend(&b"5\n\xff\n"[..], &[8], None).expect_err("no text");
        assert!(why.starts_with("line 2: "), "{why}");
    }

    #[test]
    fn a_size_that_no_present_class_holds_takes_whole_pages_and_says_nothing_about_classes() {
        let recommended = of("5000,7\n1000\n9MiB").expect("right");
        assert_eq!(recommended, of("1000").expect("right"));
        assert_eq!((recommended.current_waste_ratio, recommended.sample_count), (Some(24.0 / 1024.0), 1));
        let none = of("5000").expect("right");
        assert_eq!((none.slab_sizes.as_slice(), none.waste_ratio), (&[1024, 4096][..], None));
        assert!(told(&none).starts_with("# No size was seen that a class holds"), "{}", told(&none));
        assert_eq!(of("").expect("an empty file has no sizes").slab_sizes, [1024, 4096]);
    }

    #[test]
    fn sizes_of_a_file_are_exact_however_close_and_however_many() {
        let close = recommend(&b"1032,1000000\n1056,1"[..], &[2048], Some(2)).expect("right");
        assert_eq!((close.slab_sizes, close.waste_ratio), (vec![1032, 1056], Some(0.0)));
        let immense = recommend(&b"3300GiB,4294967295\n"[..], &[4 << 40], None).expect("right");
        assert_eq!(immense.current_waste_ratio, Some(796.0 / 4096.0));
        assert_eq!(of("9\n10\n16").expect("right").slab_sizes, [16], "of one word");
    }

    #[test]
    fn more_different_sizes_than_are_searched_are_refused_with_the_line() {
        let lines: String = (1..=SIZES_MAX + 1).map(|size| format!("{}\n", size * 8)).collect();
        let why = recommend(lines.as_bytes(), &[4 << 20], Some(1)).expect_err("one too many");
        assert_eq!(why, "line 262145: more than 262144 different sizes: round some up");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_size() {
        assert_eq!(of("\u{feff}1000\n").expect("right").slab_sizes, [1000]);
        let why = of("1000\n\u{feff}1000\n").expect_err("in the middle it is none");
        assert!(why.starts_with("line 2: "), "{why}");
    }

    #[test]
    fn a_table_that_wastes_more_than_the_present_one_comes_with_a_warning() {
        let warns =
            |classes| told(&recommend(&b"1000\n3000"[..], &[1024, 3072], Some(classes)).expect("right"));
        assert!(warns(1).contains("# Warning: they waste more"), "{}", warns(1));
        assert!(!warns(2).contains("Warning"), "{}", warns(2));
    }

    #[test]
    fn what_is_printed_is_a_section_of_a_configuration_file() {
        use crate::limits::Look;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("config.toml");
        let seen = Recommended { max_pool_size_bytes: Some(1 << 20), ..of("1000\n3000").expect("right") };
        let none = Recommended { max_pool_size_bytes: Some(1 << 20), ..of("").expect("right") };
        for (recommended, sizes) in [(seen, &[1000, 3000][..]), (none, &[1024, 4096])] {
            std::fs::write(&path, told(&recommended)).expect("a file");
            let loaded = crate::config::check_file(&path, |_| Look::default()).expect("it is right");
            assert_eq!(loaded.config.memory.slab_sizes, sizes);
            assert_eq!(loaded.config.memory.max_pool_size, 1 << 20);
        }
    }
}
