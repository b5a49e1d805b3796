//! Which CPUs are near which memory: the nodes of the machine, as far as this process runs on them.
//!
//! Linux lists nodes and their CPUs below `sys/devices/system/`. The reader takes the root of the file system, so that
//! tests feed it fixture trees. What is missing or cannot be read makes the machine one node: a strange machine must
//! never keep the service from starting, and on one node everything is equally near.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// CPUs with higher numbers are not looked at: Linux is built for 8192 at most.
const CPUS_MAX: usize = 8192;
/// Nodes with higher numbers are not looked at: Linux is built for 1024 at most.
const NODES_MAX: usize = 1024;

/// The nodes that have CPUs of ours. At least one; if it is only one, nothing is said about its CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// CPUs of each node, ascending. Empty where there is one node.
    nodes: Vec<Vec<usize>>,
}

impl Topology {
    /// A machine on which everything is equally near.
    pub fn one_node() -> Topology {
        Topology { nodes: Vec::new() }
    }

    /// Reads the nodes that this process may run on.
    pub fn of_this_process() -> Topology {
        // On a machine with more CPUs than the call can tell, all are taken for ours.
        let ours = rustix::thread::sched_getaffinity(None).ok();
        let is_ours =
            |cpu: usize| ours.is_none_or(|ours| cpu >= rustix::thread::CpuSet::MAX_CPU || ours.is_set(cpu));
        Topology::read(Path::new("/"), is_ours)
    }

    /// Reads the nodes below `root`, of whose CPUs only those count that are ours and online. Nodes that have none,
    /// such as those with memory alone, are left out. Raises nothing.
    pub fn read(root: &Path, is_ours: impl Fn(usize) -> bool) -> Topology {
        let system = root.join("sys/devices/system");
        let list = |path: &str, max| read_list(&system.join(path), max);
        let online = list("cpu/online", CPUS_MAX);
        let is_usable =
            |cpu: &usize| is_ours(*cpu) && online.as_ref().is_none_or(|online| online.contains(cpu));
        let mut seen = BTreeSet::new();
        let mut nodes = Vec::new();
        for node in list("node/online", NODES_MAX).unwrap_or_default() {
            let cpus = list(&format!("node/node{node}/cpulist"), CPUS_MAX).unwrap_or_default();
            // A CPU lies on one node; whatever the files say, it is counted once.
            let cpus: Vec<usize> =
                cpus.into_iter().filter(is_usable).filter(|cpu| seen.insert(*cpu)).collect();
            if !cpus.is_empty() {
                nodes.push(cpus);
            }
        }
        if nodes.len() > 1 { Topology { nodes } } else { Topology::one_node() }
    }

    /// The CPUs of each node where there are several nodes; nothing where there is one.
    pub fn several_nodes(&self) -> &[Vec<usize>] {
        &self.nodes
    }
}

/// The numbers of a file like `0-3,8,10-11`, ascending, those below `max`. None where it cannot be read, or is not
/// such a list.
fn read_list(path: &Path, max: usize) -> Option<BTreeSet<usize>> {
    let text = fs::read_to_string(path).ok()?;
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        numbers.extend((first..=last).take_while(|number| *number < max));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes_of(files: &[(&str, &str)], is_ours: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = directory.path().join("sys/devices/system").join(path);
            fs::create_dir_all(path.parent().expect("files lie below the root")).expect("a directory");
            fs::write(path, text).expect("a fixture file");
        }
        Topology::read(directory.path(), is_ours).several_nodes().to_vec()
    }

    const TWO_NODES: [(&str, &str); 4] = [
        ("cpu/online", "0-7\n"),
        ("node/online", "0-1\n"),
        ("node/node0/cpulist", "0-1,4-5\n"),
        ("node/node1/cpulist", "2-3,6-7\n"),
    ];

    fn all(_: usize) -> bool {
        true
    }

    #[test]
    fn a_machine_that_says_nothing_is_one_node() {
        assert_eq!(nodes_of(&[], all), [[0; 0]; 0]);
        assert_eq!(nodes_of(&[("node/online", "0-3\n")], all), [[0; 0]; 0], "nodes without their CPUs");
    }

    #[test]
    fn one_node_is_one_node() {
        assert_eq!(nodes_of(&[("node/online", "0\n"), ("node/node0/cpulist", "0-7\n")], all), [[0; 0]; 0]);
    }

    #[test]
    fn two_nodes_have_their_cpus() {
        assert_eq!(nodes_of(&TWO_NODES, all), [[0, 1, 4, 5], [2, 3, 6, 7]]);
    }

    #[test]
    fn node_numbers_may_have_holes() {
        let files = [
            ("node/online", "0,8,250-251\n"),
            ("node/node0/cpulist", "0-1\n"),
            ("node/node8/cpulist", "64\n"),
            ("node/node250/cpulist", "\n"),
            ("node/node251/cpulist", "128-129\n"),
        ];
        assert_eq!(nodes_of(&files, all), vec![vec![0, 1], vec![64], vec![128, 129]]);
    }

    #[test]
    fn a_node_with_memory_alone_is_left_out_and_one_without_memory_counts() {
        // What has memory is not looked at: CPUs are what threads run on.
        let files = [
            ("node/online", "0-2\n"),
            ("node/has_memory", "0,2\n"),
            ("node/node0/cpulist", "0-1\n"),
            ("node/node1/cpulist", "2-3\n"),
            ("node/node2/cpulist", "\n"),
        ];
        assert_eq!(nodes_of(&files, all), [[0, 1], [2, 3]]);
    }

    #[test]
    fn cpus_that_are_offline_or_not_ours_do_not_count() {
        let mut files = TWO_NODES;
        files[0].1 = "0-2,6\n";
        assert_eq!(nodes_of(&files, all), [[0, 1], [2, 6]]);
        assert_eq!(nodes_of(&TWO_NODES, |cpu| cpu % 2 == 1), [[1, 5], [3, 7]]);
        assert_eq!(nodes_of(&TWO_NODES, |cpu| cpu < 2), [[0; 0]; 0], "all of ours are on one node");
        assert_eq!(nodes_of(&TWO_NODES, |_| false), [[0; 0]; 0]);
    }

    #[test]
    fn a_cpu_is_counted_once_whatever_the_files_say() {
        let mut files = TWO_NODES;
        files[3].1 = "0-7\n";
        assert_eq!(nodes_of(&files, all), [[0, 1, 4, 5], [2, 3, 6, 7]]);
    }

    #[test]
    fn garbage_is_one_node() {
        for garbage in ["x", "1-", "-1", "3-1", "0-1-2", "0 1", "99999999999999999999999", "\u{0}"] {
            for at in 1..3 {
                let mut files = TWO_NODES;
                files[at].1 = garbage;
                assert_eq!(nodes_of(&files, all), [[0; 0]; 0], "{garbage:?} in {}", files[at].0);
            }
        }
        let mut files = TWO_NODES;
        (files[0].1, files[1].1) = ("x", "0-18446744073709551615");
        assert_eq!(nodes_of(&files, all).len(), 2, "endless ranges end, and bad lists of CPUs are no list");
    }

    #[test]
    fn the_nodes_of_this_process_can_be_read() {
        let nodes = Topology::of_this_process().several_nodes().len();
        assert!(nodes != 1, "one node is not told");
    }
}
