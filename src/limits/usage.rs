//! How full the memory limits of our control groups are.
//!
//! A limit may be set at our own group and at every group above it, where others count as well; the one that is fullest is
//! the one that ends us first, whichever is smallest. Used is what the system cannot take back by itself: pages of files
//! that nobody used lately (`inactive_file`) are not in it. The machine's own RAM is no limit here: others use it too, and
//! none of our clients should be deferred for what a neighbour does.
//!
//! The groups are found once. Each reading opens their files anew, so limits may change while we run; a group that vanishes
//! counts as one without a limit. A file takes 3 to 9 µs; a reading of four groups with limits 42 µs.

use super::groups::{Group, Version, groups, limit};
use super::{Root, read_file};
use std::path::PathBuf;

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
#[derive(Clone, Debug)]
pub struct Memory {
    groups: Vec<Files>,
}

/// The files of a group.
#[derive(Clone, Debug)]
struct Files {
    limit: PathBuf,
    used: PathBuf,
    statistics: PathBuf,
    /// What begins the line of the statistics that says how much is inactive, in the group and all below it.
    inactive_file: &'static str,
}

impl Memory {
    /// Finds the groups that we are in and that can have a limit.
    pub fn find(root: &Root) -> Memory {
        let files = groups(root).into_iter().map(|group| Files::of(&group));
        Memory { groups: files.filter(|files| files.limit.exists()).collect() }
    }

    /// Whether there are groups at all: else nothing will ever be read.
    pub fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// The fullest of all groups that have a limit; none where none has.
    pub fn usage(&self) -> Option<Usage> {
        let mut all: Vec<_> =
            self.groups.iter().filter_map(|files| Some((files.raw_usage()?, files))).collect();
        // Statistics are dear, and only make a group emptier: so the fullest is looked at first, and the others only where
        // their raw figures are above what was found.
        all.sort_by(|(one, _), (other, _)| other.is_fuller_than(one).cmp(&one.is_fuller_than(other)));
        let mut fullest: Option<Usage> = None;
        for (raw, files) in all {
            if fullest.is_some_and(|fullest| !raw.is_fuller_than(&fullest)) {
                break;
            }
            let used_bytes = raw.used_bytes.saturating_sub(files.inactive_file_bytes());
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
        let (used, inactive_file) = match group.version {
            Version::One => ("memory.usage_in_bytes", "total_inactive_file "),
            Version::Two => ("memory.current", "inactive_file "),
        };
        let file = |name: &str| group.directory.join(name);
        let statistics = file("memory.stat");
        Files { limit: file(group.version.limit_file()), used: file(used), statistics, inactive_file }
    }

    /// All that is used of the group's limit; none where it has none, or one of the two cannot be read.
    fn raw_usage(&self) -> Option<Usage> {
        let limit_bytes = read_file(&self.limit, limit)?;
        let used_bytes = read_file(&self.used, |text| text.trim().parse().ok())?;
        Some(Usage { used_bytes, limit_bytes })
    }

    /// Bytes of files that nobody used lately; 0 where that cannot be read.
    fn inactive_file_bytes(&self) -> u64 {
        let is_it = |line: &str| line.strip_prefix(self.inactive_file)?.trim().parse().ok();
        read_file(&self.statistics, |text| text.lines().find_map(is_it)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;
    use std::fs;

    fn usage_of(files: &[(&str, &str)]) -> Option<(u64, u64)> {
        let directory = tree(files);
        let usage = Memory::find(&Root::new(directory.path())).usage()?;
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
        let seen = || memory.usage().map(|usage| (usage.used_bytes, usage.limit_bytes));
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
