//! What the system above us allows: how much memory before it kills us, how many open files.
//!
//! A container's memory limit is written in the control groups (cgroup) above our process, and each group up the
//! tree may hold one; the smallest of them and of the machine's RAM is what really bounds us. Every reader takes
//! the root of the file system, so that tests feed it fixture trees. What is missing or cannot be read counts as
//! no limit: a strange machine must never keep the service from starting.
//!
//! ```text
//!   groups.rs   the control groups that we are in, up the tree
//!   usage.rs    how full their limits are, at any instant
//!   figure.rs   a number in a file that is read again and again
//!   psi.rs      how much somebody waits for memory
//!   system.rs   what the machine is set to
//! ```

mod figure;
mod groups;
mod psi;
mod system;
mod usage;

pub use psi::Stalls;
pub use system::{HugePagePolicy, Overcommit, System};
pub use usage::{Memory, Usage};

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::units::ByteCount;

/// The directory that stands for `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// The limits of this process, as far as the system tells them; `None` = no limit, or none that can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The smallest memory limit above us.
    pub memory: Option<MemoryLimit>,
    /// Files, sockets included, that may be open at once.
    pub open_files: Option<u64>,
}

/// A memory limit and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes at most.
    pub bytes: u64,
    /// Who says so.
    pub source: LimitSource,
}

/// What can be read below a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Below {
    /// Control groups that we are in, or how much memory stalls.
    #[default]
    Something,
    /// Neither.
    Nothing,
    /// The root is no directory.
    NoDirectory,
}

/// A look at the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What was found at all.
    pub below: Below,
    /// The limits that hold here.
    pub limits: Limits,
}

/// Who sets a memory limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// This file of a control group.
    File(PathBuf),
    /// The memory the machine has.
    Ram,
}

/// Bytes read of a file: the longest, `memory.stat`, has 2 to 4 KiB.
const FILE_BYTES_MAX: usize = 16 << 10;

impl Default for Root {
    fn default() -> Root {
        Root(PathBuf::from("/"))
    }
}

impl Root {
    /// Takes `path` for `/`.
    pub fn new(path: impl Into<PathBuf>) -> Root {
        Root(path.into())
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok()
    }
}

impl Below {
    /// Looks below a root.
    pub fn look(root: &Root) -> Below {
        if !root.0.is_dir() {
            Below::NoDirectory
        } else if Memory::find(root).has_groups() || Stalls::find(root).is_told() {
            Below::Something
        } else {
            Below::Nothing
        }
    }
}

impl Look {
    /// Looks below a root. Raises nothing.
    pub fn take(root: &Root) -> Look {
        Look { below: Below::look(root), limits: Limits::read(root) }
    }
}

impl Limits {
    /// Reads the limits of this process. Raises nothing.
    pub fn read(root: &Root) -> Limits {
        Limits { memory: memory(root), open_files: open_files() }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, {}", ByteCount(self.bytes), self.source)
    }
}

impl fmt::Display for LimitSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitSource::File(path) => write!(out, "{}", path.display()),
            LimitSource::Ram => out.write_str("RAM"),
        }
    }
}

/// The smallest memory limit above this process: of its control groups, version 1 or 2, up to the top, and of RAM.
/// Of equal ones a group's comes first, because it is the one that somebody set.
pub fn memory(root: &Root) -> Option<MemoryLimit> {
    let ram = root.read("proc/meminfo").and_then(|text| total_memory(&text));
    let ram = ram.map(|bytes| MemoryLimit { bytes, source: LimitSource::Ram });
    group_limits(root).into_iter().chain(ram).min_by_key(|limit| limit.bytes)
}

/// Files that may be open at once: the soft limit of this process; `None` = no limit.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the soft limit of open files to the hard one, as any process may, and returns what holds then. Where the
/// system refuses, the limit stays as it was.
pub fn raise_open_files() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    // A refusal is no failure: the limit that is read next is the one that connections are bounded by.
    let _ = setrlimit(Resource::Nofile, raised);
    open_files()
}

/// `MemTotal:  16384 kB` of /proc/meminfo, in bytes.
fn total_memory(text: &str) -> Option<u64> {
    system::line(text, "MemTotal:").filter(|bytes| *bytes > 0)
}

/// Every limit of the groups that we are in.
fn group_limits(root: &Root) -> Vec<MemoryLimit> {
    let limits = groups::groups(root).into_iter().filter_map(|group| {
        let source = group.directory.join(group.version.limit_file());
        match read_file(&source, groups::limit) {
            Told::Is(bytes) => Some(MemoryLimit { bytes, source: LimitSource::File(source) }),
            Told::Nothing | Told::Unreadable => None,
        }
    });
    limits.collect()
}

/// What a file of the system says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told<T> {
    Is(T),
    /// That there is none, or there is no such file: its group is gone, or has no such thing.
    Nothing,
    /// It is not known this time: too many files are open, it was read half-written, or somebody wrote garbage.
    Unreadable,
}

/// What `find` finds in the first [`FILE_BYTES_MAX`] bytes of a file.
fn read_file<T>(path: &Path, find: impl FnOnce(&str) -> Told<T>) -> Told<T> {
    let mut bytes = [0; FILE_BYTES_MAX];
    match read_into(path, &mut bytes) {
        Ok(length) => std::str::from_utf8(&bytes[..length]).map_or(Told::Unreadable, find),
        Err(error) if is_gone(&error) => Told::Nothing,
        Err(_) => Told::Unreadable,
    }
}

/// Fills the buffer from the beginning of a file, and returns how much there was. Signals interrupt nothing.
fn read_into(path: &Path, bytes: &mut [u8]) -> io::Result<usize> {
    let mut file = again_after_signals(|| fs::File::open(path))?;
    let mut length = 0;
    loop {
        match again_after_signals(|| file.read(&mut bytes[length..]))? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

fn again_after_signals<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Whether nothing is there any more. A file of a group that ends while it is open says so in its own way.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    pub(super) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().expect("files lie below the root")).expect("a directory");
            fs::write(path, text).expect("a fixture file");
        }
        directory
    }

    fn limit_of(files: &[(&str, &str)]) -> Option<(u64, String)> {
        let directory = tree(files);
        let limit = memory(&Root::new(directory.path()))?;
        let source = limit.source.to_string();
        let root = directory.path().display().to_string();
        Some((limit.bytes, source.strip_prefix(&root).unwrap_or(&source).to_owned()))
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:         1000 kB\nSwapTotal: 5 kB\n");

    #[test]
    fn without_groups_the_machine_is_the_limit() {
        assert_eq!(limit_of(&[MEMINFO]), Some((16384 << 10, "RAM".to_owned())));
    }

    #[test]
    fn the_smallest_limit_up_the_version_2_tree_wins_over_our_own_group() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/pods/pod7/web\n"),
            ("sys/fs/cgroup/pods/pod7/web/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/pod7/memory.max", "4194304\n"),
            ("sys/fs/cgroup/pods/memory.max", "8388608\n"),
        ];
        assert_eq!(limit_of(&files), Some((4 << 20, "/sys/fs/cgroup/pods/pod7/memory.max".to_owned())));
    }

    #[test]
    fn in_a_namespace_the_limit_stands_at_the_mount_itself() {
        for path in ["0::/", "0::/../../system.slice/other", "0::/docker/unknown/here"] {
            let files = [MEMINFO, ("proc/self/cgroup", path), ("sys/fs/cgroup/memory.max", "1048576")];
            assert_eq!(limit_of(&files), Some((1 << 20, "/sys/fs/cgroup/memory.max".to_owned())), "{path}");
        }
    }

    #[test]
    fn version_1_groups_are_walked_and_their_huge_number_is_no_limit() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/jobs/one\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "2097152\n"),
            ("sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let path = "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes";
        assert_eq!(limit_of(&files), Some((2 << 20, path.to_owned())));
    }

    #[test]
    fn a_group_limit_above_the_machine_leaves_the_machine_as_the_limit() {
        let files =
            [MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "1152921504606846975")];
        assert_eq!(limit_of(&files), Some((16384 << 10, "RAM".to_owned())));
    }

    #[test]
    fn garbage_and_missing_files_are_no_limit() {
        assert_eq!(limit_of(&[]), None);
        for garbage in ["", "\u{0}", "-5", "0", "99999999999999999999999", "many"] {
            let meminfo = format!("MemTotal: {garbage} kB\nMemTotal");
            let files = [
                ("proc/meminfo", meminfo.as_str()),
                ("proc/self/cgroup", "no colons\n1:\n\n0::\n7:memory\n3:memory:relative\n"),
                ("sys/fs/cgroup/memory.max", garbage),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", garbage),
            ];
            assert_eq!(limit_of(&files), None, "{garbage:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_cannot_be_read() {
        let directory = tree(&[("limit", "5"), ("no", "max")]);
        let told = |path: &str| read_file(&directory.path().join(path), groups::limit);
        assert_eq!((told("limit"), told("no")), (Told::Is(5), Told::Nothing));
        assert_eq!((told("gone"), told("limit/below")), (Told::Nothing, Told::Nothing));
        assert_eq!(told(""), Told::Unreadable, "a directory opens, and cannot be read");
        for (error, gone) in [(rustix::io::Errno::NODEV, true), (rustix::io::Errno::MFILE, false)] {
            assert_eq!(is_gone(&error.into()), gone, "{error}");
        }
    }

    #[test]
    fn a_root_without_groups_and_stalls_is_told_from_one_that_is_no_directory() {
        let stalls = ("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
        let groups = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")];
        let below = |files: &[(&str, &str)]| Below::look(&Root::new(tree(files).path()));
        assert_eq!((below(&groups), below(&[stalls])), (Below::Something, Below::Something));
        assert_eq!((below(&groups[..1]), below(&[MEMINFO])), (Below::Nothing, Below::Nothing));
        let directory = tree(&[MEMINFO]);
        for path in ["none", "proc/meminfo"] {
            assert_eq!(Below::look(&Root::new(directory.path().join(path))), Below::NoDirectory, "{path}");
        }
    }

    #[test]
    fn what_a_signal_interrupts_is_done_again() {
        let mut interrupted = 3;
        let done = again_after_signals(|| match interrupted {
            0 => Ok(7),
            _ => {
                interrupted -= 1;
                Err(io::ErrorKind::Interrupted.into())
            }
        });
        assert_eq!(done.expect("it is done in the end"), 7);
        assert!(again_after_signals(|| Err::<(), _>(io::ErrorKind::PermissionDenied.into())).is_err());
    }

    #[test]
    fn the_limits_of_this_process_can_be_read() {
        let limits = Limits::read(&Root::default());
        assert!(limits.memory.is_none_or(|limit| limit.bytes > 0));
        assert!(limits.open_files.is_none_or(|files| files > 0));
    }
}
