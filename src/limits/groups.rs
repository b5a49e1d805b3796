//! The control groups that we are in, version 1 or 2, from our own up to the top.

use super::{Root, Told};
use std::path::{Component, Path, PathBuf};

/// Groups looked at in one tree, from our own up: deeper ones than that nobody makes.
const DEPTH_MAX: usize = 64;
/// Version 1 groups without a limit say a number near 2^63; nothing that has a limit says 2^60 or more.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// What the files of a group are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// A group, and those it lies in for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) directory: PathBuf,
    pub(super) version: Version,
}

impl Version {
    /// The file of a group's limit.
    pub(super) fn limit_file(self) -> &'static str {
        match self {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        }
    }
}

/// Every group that /proc/self/cgroup puts us in and that may have a memory limit, tree by tree, in each from our own up.
/// A line is `id:controllers:path`; version 2 has id 0 and no controllers.
pub(super) fn groups(root: &Root) -> Vec<Group> {
    let Some(lines) = root.read("proc/self/cgroup") else { return Vec::new() };
    let mut groups = Vec::new();
    for line in lines.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if id == "0" && controllers.is_empty() {
            for mount in ["sys/fs/cgroup", "sys/fs/cgroup/unified"] {
                groups.extend(up_the_tree(&root.0.join(mount), path, Version::Two));
            }
        } else if controllers.split(',').any(|controller| controller == "memory") {
            groups.extend(up_the_tree(&root.0.join("sys/fs/cgroup/memory"), path, Version::One));
        }
    }
    groups
}

/// The group at `path` below `mount` and all groups above it, the mount itself included: in a container the mount is
/// often the container's own group, whatever path the process is told.
fn up_the_tree(mount: &Path, path: &str, version: Version) -> Vec<Group> {
    // Outside of its namespace a path may read `/../other`: only plain names lead to a group below the mount.
    let names = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let own = mount.join(names.collect::<PathBuf>());
    let below = own.ancestors().take_while(|group| *group != mount).take(DEPTH_MAX);
    let up = below.chain([mount]);
    up.map(|group| Group { directory: group.to_owned(), version }).collect()
}

/// A number of bytes; `max`, a huge number and zero are no limit.
pub(super) fn limit(text: &str) -> Told<u64> {
    match text.trim() {
        "max" => Told::Nothing,
        text => match text.parse() {
            Ok(bytes) if (1..NO_LIMIT_BYTES).contains(&bytes) => Told::Is(bytes),
            Ok(_) => Told::Nothing,
            Err(_) => Told::Unreadable,
        },
    }
}
