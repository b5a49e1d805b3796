//! Pressure stall information: how much of the time somebody waits for memory.
//!
//! The group nearest to us that tells it is the one that counts, for what its neighbours do is not ours to mend; where no
//! group does (version 1, and outside of a container), it is the machine. `some avg10` is the percentage of the last ten
//! seconds in which at least one task stood still for lack of memory.

use super::figure::Figure;
use super::groups::{Version, groups};
use super::{Root, Told, read_file};
use crate::clock::Now;
use std::path::PathBuf;

/// Reads how much memory stalls.
#[derive(Debug)]
pub struct Stalls {
    /// From the nearest that could be read when this was made on; the first that can be read counts.
    files: Vec<Figure<f64>>,
}

impl Stalls {
    /// Finds the files that tell it.
    pub fn find(root: &Root) -> Stalls {
        let of_groups = groups(root).into_iter().filter(|group| group.version == Version::Two);
        let mut files: Vec<PathBuf> =
            of_groups.map(|group| group.directory.join("memory.pressure")).collect();
        files.push(root.0.join("proc/pressure/memory"));
        let is_readable = |file: &PathBuf| matches!(read_file(file, some_avg10), Told::Is(_));
        let told = files.into_iter().skip_while(|file| !is_readable(file));
        Stalls { files: told.map(|file| Figure::new(file, some_avg10)).collect() }
    }

    /// Whether anything tells it.
    pub fn is_told(&self) -> bool {
        !self.files.is_empty()
    }

    /// `some avg10`, in percent; none where nobody tells it.
    pub fn some_avg10(&self, now: Now) -> Option<f64> {
        self.files.iter().find_map(|file| file.read(now))
    }
}

/// `some avg10=0.02 avg60=0.46 avg300=0.24 total=144673423`
fn some_avg10(text: &str) -> Told<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let number = some.and_then(|some| some.split(' ').find_map(|word| word.strip_prefix("avg10=")));
    match number.and_then(|number| number.trim().parse().ok()) {
        Some(percent) if (0.0..=100.0).contains(&percent) => Told::Is(percent),
        _ => Told::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;
    use std::fs;

    const MACHINE: (&str, &str) = (
        "proc/pressure/memory",
        "some avg10=1.50 avg60=0.46 avg300=0.24 total=144673423\nfull avg10=0.02 avg60=0.42 avg300=0.20 total=82756171\n",
    );

    const NOW: Now = Now(1_000_000_000);

    fn stalls_of(files: &[(&str, &str)]) -> Option<f64> {
        let directory = tree(files);
        let stalls = Stalls::find(&Root::new(directory.path()));
        assert_eq!(stalls.is_told(), stalls.some_avg10(NOW).is_some());
        stalls.some_avg10(NOW)
    }

    #[test]
    fn the_nearest_group_that_tells_it_counts_and_else_the_machine() {
        let groups = ("proc/self/cgroup", "4:memory:/one\n0::/pod/web\n");
        let web = ("sys/fs/cgroup/pod/web/memory.pressure", "some avg10=33.25 avg60=0 avg300=0 total=0\n");
        let pod = ("sys/fs/cgroup/pod/memory.pressure", "some avg10=2 avg60=0 avg300=0 total=0\n");
        assert_eq!(stalls_of(&[groups, web, pod, MACHINE]), Some(33.25));
        assert_eq!(stalls_of(&[groups, pod, MACHINE]), Some(2.0));
        assert_eq!(stalls_of(&[groups, MACHINE]), Some(1.5));
        assert_eq!(stalls_of(&[MACHINE]), Some(1.5));
        assert_eq!(stalls_of(&[groups]), None);
    }

    #[test]
    fn garbage_tells_nothing_and_what_lies_further_up_counts() {
        for garbage in [
            "",
            "\u{0}",
            "some",
            "some avg10=",
            "some avg10=NaN",
            "some avg10=-1",
            "some avg10=101 avg60=0",
            "full avg10=3",
        ] {
            let groups = ("proc/self/cgroup", "0::/\n");
            let own = ("sys/fs/cgroup/memory.pressure", garbage);
            assert_eq!(stalls_of(&[groups, own, MACHINE]), Some(1.5), "{garbage:?}");
            assert_eq!(stalls_of(&[groups, own]), None, "{garbage:?}");
        }
    }

    #[test]
    fn where_a_group_vanishes_or_tells_nothing_for_long_the_one_above_it_counts() {
        let directory = tree(&[
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.pressure", "some avg10=50.00 avg60=0 avg300=0 total=0\n"),
            MACHINE,
        ]);
        let stalls = Stalls::find(&Root::new(directory.path()));
        assert_eq!(stalls.some_avg10(NOW), Some(50.0));
        fs::write(directory.path().join("sys/fs/cgroup/a/memory.pressure"), "some").expect("it is there");
        let at = |seconds| stalls.some_avg10(NOW.after(std::time::Duration::from_secs(seconds)));
        assert_eq!((at(59), at(60)), (Some(50.0), Some(1.5)), "garbage is not believed at once");
        fs::remove_dir_all(directory.path().join("sys/fs/cgroup/a")).expect("it is there");
        assert_eq!(stalls.some_avg10(NOW), Some(1.5));
    }
}
