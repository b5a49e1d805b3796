//! How full the memory limits of our control groups are.
//!
//! A limit may be set at our own group and at every group above it, where others count as well; the one that is fullest is
//! the one that ends us first, whichever is smallest. Used is what the system cannot take back by itself: pages of files
//! that nobody used lately (`inactive_file`) are not in it. The machine's own RAM is no limit here: others use it too, and
//! none of our clients should be deferred for what a neighbour does.
//!
//! The groups are found once. Each reading opens their files anew, so limits may change while we run; a group that vanishes
//! counts as one without a limit, and of one whose files cannot be read what was read last holds for a minute. A file takes
//! 3 to 9 µs; a reading of four groups with limits about 45 µs.

use super::figure::Figure;
use super::groups::{Group, Version, groups, limit};
use super::{Root, Told};
use crate::clock::Now;

/// What is used of the limit that is nearest to being reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes used, without what the system takes back by itself.
    pub used_bytes: u64,
    /// The limit.
    pub limit_bytes: u64,
}

impl Usage {
    /// Whether a larger part of it is used than of the other, exactly.
    fn is_fuller_than(&self, other: &Usage) -> bool {
        u128::from(self.used_bytes) * u128::from(other.limit_bytes)
            > u128::from(other.used_bytes) * u128::from(self.limit_bytes)
    }
}

/// Reads how full the limits above us are.
#[derive(Debug)]
pub struct Memory {
    groups: Vec<Files>,
}

/// The files of a group.
#[derive(Debug)]
struct Files {
    limit: Figure<u64>,
    used: Figure<u64>,
    inactive_file: Figure<u64>,
}

impl Memory {
    /// Finds the groups that we are in and that can have a limit.
    pub fn find(root: &Root) -> Memory {
        let files = groups(root).into_iter().map(|group| Files::of(&group));
        Memory { groups: files.filter(|files| files.limit.path().exists()).collect() }
    }

    /// Whether there are groups at all: else nothing will ever be read.
    pub fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// The fullest of all groups that have a limit; none where none has.
    pub fn usage(&self, now: Now) -> Option<Usage> {
        let mut all: Vec<_> =
            self.groups.iter().filter_map(|files| Some((files.raw_usage(now)?, files))).collect();
        // Statistics are dear, and only make a group emptier: so the fullest is looked at first, and the others only where
        // their raw figures are above what was found.
        all.sort_by(|(one, _), (other, _)| other.is_fuller_than(one).cmp(&one.is_fuller_than(other)));
        let mut fullest: Option<Usage> = None;
        for (raw, files) in all {
            if fullest.is_some_and(|fullest| !raw.is_fuller_than(&fullest)) {
                break;
            }
            let used_bytes = raw.used_bytes.saturating_sub(files.inactive_file.read(now).unwrap_or(0));
            let usage = Usage { used_bytes, ..raw };
            if fullest.is_none_or(|fullest| usage.is_fuller_than(&fullest)) {
                fullest = Some(usage);
            }
        }
        fullest
    }
}

impl Files {
    fn of(group: &Group) -> Files {
        let (used, inactive_file): (_, fn(&str) -> Told<u64>) = match group.version {
            Version::One => ("memory.usage_in_bytes", |text| line(text, "total_inactive_file ")),
            Version::Two => ("memory.current", |text| line(text, "inactive_file ")),
        };
        let file = |name: &str| group.directory.join(name);
        Files {
            limit: Figure::new(file(group.version.limit_file()), limit),
            used: Figure::new(file(used), number),
            inactive_file: Figure::new(file("memory.stat"), inactive_file),
        }
    }

    /// All that is used of the group's limit; none where it has none, or one of the two is not known.
    fn raw_usage(&self, now: Now) -> Option<Usage> {
        // Both are read each time, so that what is known of each is as new as can be.
        let (limit_bytes, used_bytes) = (self.limit.read(now), self.used.read(now));
        Some(Usage { used_bytes: used_bytes?, limit_bytes: limit_bytes? })
    }
}

fn number(text: &str) -> Told<u64> {
    text.trim().parse().map_or(Told::Unreadable, Told::Is)
}

/// The number on the line of the statistics that begins so: bytes of files that nobody used lately, in the group and all
/// below it.
fn line(text: &str, begin: &str) -> Told<u64> {
    text.lines().find_map(|line| line.strip_prefix(begin)).map_or(Told::Unreadable, number)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;
    use std::fs;

    const NOW: Now = Now(1_000_000_000);

    fn usage_of(files: &[(&str, &str)]) -> Option<(u64, u64)> {
        let directory = tree(files);
        let usage = Memory::find(&Root::new(directory.path())).usage(NOW)?;
        Some((usage.used_bytes, usage.limit_bytes))
    }

    #[test]
    fn of_a_version_2_group_what_is_inactive_is_not_used() {
        let files = [
            ("proc/self/cgroup", "0::/web\n"),
            ("sys/fs/cgroup/web/memory.max", "1000\n"),
            ("sys/fs/cgroup/web/memory.current", "800\n"),
            ("sys/fs/cgroup/web/memory.stat", "anon 5\nactive_file 9\ninactive_file 300\nworkingset 1\n"),
        ];
        assert_eq!(usage_of(&files), Some((500, 1000)));
        assert_eq!(usage_of(&files[..3]), Some((800, 1000)), "nothing is known to be inactive");
        let inactive = ("sys/fs/cgroup/web/memory.stat", "inactive_file 900\n");
        assert_eq!(usage_of(&[files[0], files[1], files[2], inactive]), Some((0, 1000)));
    }

    #[test]
    fn of_a_version_1_group_all_below_it_counts() {
        let files = [
            ("proc/self/cgroup", "4:cpu,memory:/jobs/one\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "123456\n"),
            ("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "2000\n"),
            ("sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "1500\n"),
            ("sys/fs/cgroup/memory/jobs/memory.stat", "inactive_file 7\ntotal_inactive_file 100\n"),
        ];
        assert_eq!(usage_of(&files), Some((1400, 2000)));
    }

    #[test]
    fn where_both_versions_are_mounted_the_one_with_limits_counts() {
        let files = [
            ("proc/self/cgroup", "4:memory:/pod\n1:name=systemd:/\n0::/pod\n"),
            ("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "400\n"),
            ("sys/fs/cgroup/memory/pod/memory.usage_in_bytes", "300\n"),
            ("sys/fs/cgroup/unified/pod/cgroup.procs", "1\n"),
        ];
        assert_eq!(usage_of(&files), Some((300, 400)));
    }

    #[test]
    fn in_a_namespace_the_mount_is_our_group() {
        for path in ["0::/", "0::/../../system.slice/other", "0::/docker/unknown/here"] {
            let files = [
                ("proc/self/cgroup", path),
                ("sys/fs/cgroup/memory.max", "100"),
                ("sys/fs/cgroup/memory.current", "60"),
            ];
            assert_eq!(usage_of(&files), Some((60, 100)), "{path}");
        }
    }

    /// Two groups, one in the other: limit, usage and inactive bytes of each.
    fn nested(outer: [u64; 3], inner: [u64; 3]) -> Option<(u64, u64)> {
        let file = |group: &str, name: &str, number: u64| {
            let text =
                if name == "memory.stat" { format!("inactive_file {number}\n") } else { number.to_string() };
            (format!("sys/fs/cgroup/{group}/{name}"), text)
        };
        let names = ["memory.max", "memory.current", "memory.stat"];
        let mut files = vec![("proc/self/cgroup".to_owned(), "0::/outer/inner\n".to_owned())];
        files.extend(names.into_iter().zip(outer).map(|(name, number)| file("outer", name, number)));
        files.extend(names.into_iter().zip(inner).map(|(name, number)| file("outer/inner", name, number)));
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        usage_of(&files)
    }

    #[test]
    fn of_nested_limits_the_fullest_counts_and_not_the_smallest() {
        assert_eq!(nested([1000, 900, 0], [100, 50, 0]), Some((900, 1000)));
        assert_eq!(nested([1000, 400, 0], [100, 50, 0]), Some((50, 100)));
        // By what can be taken back it is the other one.
        assert_eq!(nested([1000, 900, 700], [100, 50, 0]), Some((50, 100)));
        assert_eq!(nested([1000, 900, 350], [100, 50, 0]), Some((550, 1000)));
        assert_eq!(nested([1000, 2000, 0], [100, 100, 0]), Some((2000, 1000)), "a limit that was lowered");
    }

    #[test]
    fn a_limit_may_change_and_a_group_may_vanish_while_we_run() {
        let group = "sys/fs/cgroup/a/b";
        let directory = tree(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1000"),
            ("sys/fs/cgroup/a/b/memory.current", "500"),
            ("sys/fs/cgroup/a/memory.max", "max"),
            ("sys/fs/cgroup/a/memory.current", "600"),
        ]);
        let memory = Memory::find(&Root::new(directory.path()));
        let seen = || memory.usage(NOW).map(|usage| (usage.used_bytes, usage.limit_bytes));
        assert_eq!(seen(), Some((500, 1000)));
        let write =
            |path: &str, text: &str| fs::write(directory.path().join(path), text).expect("it is there");
        write("sys/fs/cgroup/a/b/memory.max", "550");
        assert_eq!(seen(), Some((500, 550)));
        write("sys/fs/cgroup/a/memory.max", "605");
        assert_eq!(seen(), Some((600, 605)));
        write("sys/fs/cgroup/a/memory.max", "max");
        fs::remove_dir_all(directory.path().join(group)).expect("it is there");
        assert_eq!(seen(), None);
    }

    #[test]
    fn what_cannot_be_read_for_a_while_is_what_it_was() {
        let group = "sys/fs/cgroup/a";
        let files = [("memory.max", "1000"), ("memory.current", "500"), ("memory.stat", "inactive_file 100")];
        let texts = files.map(|(name, text)| (format!("{group}/{name}"), text));
        let mut all = vec![("proc/self/cgroup", "0::/a\n")];
        all.extend(texts.iter().map(|(path, text)| (path.as_str(), *text)));
        let directory = tree(&all);
        let memory = Memory::find(&Root::new(directory.path()));
        let at = |seconds: u64| {
            let usage = memory.usage(NOW.after(std::time::Duration::from_secs(seconds)));
            usage.map(|usage| (usage.used_bytes, usage.limit_bytes))
        };
        let write =
            |path: &str, text: &str| fs::write(directory.path().join(path), text).expect("it is there");
        let mut second = 0;
        assert_eq!(at(second), Some((400, 1000)));
        for (path, text) in &texts {
            for garbage in ["", "1 00", "inactive_fi"] {
                write(path, garbage);
                assert_eq!(at(second + 59), Some((400, 1000)), "{path}: {garbage:?}");
            }
            // That it cannot be opened or read is the same.
            fs::remove_file(directory.path().join(path)).expect("it is there");
            fs::create_dir(directory.path().join(path)).expect("it is a directory now");
            assert_eq!(at(second + 59), Some((400, 1000)), "{path}");
            let without = if path.ends_with("stat") { Some((500, 1000)) } else { None };
            assert_eq!(at(second + 120), without, "{path}: not for ever");
            fs::remove_dir(directory.path().join(path)).expect("it is there");
            assert_eq!(at(second + 121), without, "{path}: it is gone");
            write(path, text);
            second += 200;
            assert_eq!(at(second), Some((400, 1000)), "{path}");
        }
        write(&texts[0].0, "max");
        assert_eq!(at(second), None, "that there is none is believed at once");
    }

    #[test]
    fn garbage_and_missing_files_are_no_usage() {
        assert_eq!(usage_of(&[]), None);
        for garbage in ["", "\u{0}", "-5", "99999999999999999999999", "many", "12 34"] {
            let files = [
                ("proc/self/cgroup", "no colons\n1:\n\n0::/\n3:memory:relative\n"),
                ("sys/fs/cgroup/memory.max", "100"),
                ("sys/fs/cgroup/memory.current", garbage),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", garbage),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "5"),
            ];
            assert_eq!(usage_of(&files), None, "{garbage:?}");
            let stat = format!("inactive_file {garbage}\ninactive_file");
            let files = [
                files[0],
                files[1],
                ("sys/fs/cgroup/memory.current", "70"),
                ("sys/fs/cgroup/memory.stat", &stat),
            ];
            assert_eq!(usage_of(&files), Some((70, 100)), "{garbage:?}");
        }
    }
}
