//! Settings of the machine that decide how memory behaves here, for whoever explains that: huge pages, overcommitting,
//! mappings, swap.

use super::Root;

/// What the machine says; none where it does not, or not so that it can be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// When ordinary memory is made of huge pages.
    pub huge_pages: Option<HugePagePolicy>,
    /// How address space is granted.
    pub overcommit: Option<Overcommit>,
    /// Mappings that a process may have.
    pub mappings_max: Option<u64>,
    /// Those that this process has.
    pub mappings: Option<u64>,
    /// Bytes of swap; 0: it is off.
    pub swap_bytes: Option<u64>,
    /// Bytes of this process that were swapped out.
    pub swapped_bytes: Option<u64>,
}

/// `transparent_hugepage/enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePagePolicy {
    /// Wherever they fit.
    Always,
    /// Where they are asked for.
    Advised,
    /// Nowhere.
    Never,
}

/// `vm.overcommit_memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overcommit {
    /// 0: what is plainly too much is refused.
    Heuristic,
    /// 1: everything is granted.
    Always,
    /// 2: what was granted never exceeds a limit.
    Never {
        /// That limit, in bytes.
        limit_bytes: u64,
        /// Bytes granted.
        granted_bytes: u64,
    },
}

impl System {
    /// Reads what the machine says.
    pub fn read(root: &Root) -> System {
        let text = |path: &str| root.read(path).unwrap_or_default();
        let (meminfo, status) = (text("proc/meminfo"), text("proc/self/status"));
        System {
            huge_pages: huge_pages(&text("sys/kernel/mm/transparent_hugepage/enabled")),
            overcommit: overcommit(&text("proc/sys/vm/overcommit_memory"), &meminfo),
            mappings_max: text("proc/sys/vm/max_map_count").trim().parse().ok(),
            mappings: root.read("proc/self/maps").map(|maps| maps.lines().count() as u64),
            swap_bytes: line(&meminfo, "SwapTotal:"),
            swapped_bytes: line(&status, "VmSwap:"),
        }
    }
}

/// `always [madvise] never`: the one in brackets holds.
fn huge_pages(text: &str) -> Option<HugePagePolicy> {
    let (_, rest) = text.split_once('[')?;
    match rest.split_once(']')?.0 {
        "always" => Some(HugePagePolicy::Always),
        "madvise" => Some(HugePagePolicy::Advised),
        "never" => Some(HugePagePolicy::Never),
        _ => None,
    }
}

fn overcommit(mode: &str, meminfo: &str) -> Option<Overcommit> {
    match mode.trim() {
        "0" => Some(Overcommit::Heuristic),
        "1" => Some(Overcommit::Always),
        "2" => Some(Overcommit::Never {
            limit_bytes: line(meminfo, "CommitLimit:")?,
            granted_bytes: line(meminfo, "Committed_AS:")?,
        }),
        _ => None,
    }
}

/// `Name:  16 kB`, in bytes.
pub(super) fn line(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn system(files: &[(&str, &str)]) -> System {
        let directory = tree(files);
        System::read(&Root::new(directory.path()))
    }

    #[test]
    fn every_setting_is_read_from_its_file() {
        let files = [
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("proc/sys/vm/overcommit_memory", "2\n"),
            ("proc/sys/vm/max_map_count", "65530\n"),
            ("proc/self/maps", "a\nb\nc\n"),
            ("proc/meminfo", "SwapTotal:   8 kB\nCommitLimit:  200 kB\nCommitted_AS: 100 kB\n"),
            ("proc/self/status", "Name:\tmaas\nVmSwap:\t      4 kB\n"),
        ];
        let expected = System {
            huge_pages: Some(HugePagePolicy::Advised),
            overcommit: Some(Overcommit::Never { limit_bytes: 200 << 10, granted_bytes: 100 << 10 }),
            mappings_max: Some(65530),
            mappings: Some(3),
            swap_bytes: Some(8 << 10),
            swapped_bytes: Some(4 << 10),
        };
        assert_eq!(system(&files), expected);
    }

    #[test]
    fn settings_are_known_by_their_names() {
        let huge = |text| system(&[("sys/kernel/mm/transparent_hugepage/enabled", text)]).huge_pages;
        assert_eq!(huge("[always] madvise never"), Some(HugePagePolicy::Always));
        assert_eq!(huge("always madvise [never]"), Some(HugePagePolicy::Never));
        let overcommit = |text| system(&[("proc/sys/vm/overcommit_memory", text)]).overcommit;
        assert_eq!(overcommit("0\n"), Some(Overcommit::Heuristic));
        assert_eq!(overcommit("1\n"), Some(Overcommit::Always));
        assert_eq!(overcommit("2\n"), None, "without its numbers it says nothing");
    }

    #[test]
    fn a_machine_that_says_nothing_or_nonsense_is_unknown() {
        assert_eq!(system(&[]), System::default());
        let files = [
            ("sys/kernel/mm/transparent_hugepage/enabled", "sometimes [maybe"),
            ("proc/sys/vm/overcommit_memory", "3"),
            ("proc/sys/vm/max_map_count", "-1"),
            ("proc/meminfo", "SwapTotal: many kB\nSwapTotal\n"),
            ("proc/self/status", "VmSwap: 99999999999999999999 kB"),
        ];
        assert_eq!(system(&files), System::default());
    }
}
