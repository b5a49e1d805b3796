//! Guard pages: what stops a stray access at the end of a slab, and the one line that says which slab that was.
//!
//! A guard is a marker in the page tables where the kernel has them (Linux 6.13), which costs no mapping. Elsewhere it is
//! a page without access, which splits a mapping in two; those are bounded, because a process has only so many. Whoever
//! touches a guard is ended by the system, with SIGSEGV; before that the handler in `os.rs` asks here what to say.

use super::layout::Layout;
use super::os::{OsError, Reservation};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Guards that are mappings, at most. Each takes two of the 65,530 that a process has by default, so half of them stay
/// for everything else.
const GUARD_MAPPINGS_MAX: u64 = 16_384;

/// How the guards of one heap are made.
#[derive(Debug)]
pub(super) struct Guards {
    /// The kernel has no markers. Set once, by whoever finds out.
    without_markers: AtomicBool,
    /// Guards that may still be made as mappings.
    mappings_left: AtomicU64,
}

impl Guards {
    pub(super) fn new() -> Guards {
        Guards { without_markers: AtomicBool::new(false), mappings_left: AtomicU64::new(GUARD_MAPPINGS_MAX) }
    }

    /// Whether the kernel has markers, as far as is known.
    #[cfg(all(test, not(feature = "loom")))]
    pub(super) fn are_markers(&self) -> bool {
        !self.without_markers.load(Ordering::Relaxed)
    }

    /// Makes a guard of `page`. False if there can be no more of them: that is no failure, only less protection.
    ///
    /// # Errors
    /// [`OsError`] where the system has no memory for a marker; nothing changed then.
    pub(super) fn install(&self, region: &Reservation, page: Range<u64>) -> Result<bool, OsError> {
        if !self.without_markers.load(Ordering::Relaxed) {
            match region.install_guard_marker(page.clone()) {
                Err(error) if error.errno == rustix::io::Errno::INVAL => {
                    self.without_markers.store(true, Ordering::Relaxed);
                }
                outcome => return outcome.map(|()| true),
            }
        }
        // Relaxed: a number that only counts.
        let one_less = |left: u64| left.checked_sub(1);
        if self.mappings_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return Ok(false);
        }
        if region.forbid_access(page).is_err() {
            // The process has as many mappings as it may: those that are left are for memory, not for guards.
            self.mappings_left.store(0, Ordering::Relaxed);
            return Ok(false);
        }
        Ok(true)
    }
}

/// A region whose guards are told apart by address.
#[derive(Debug)]
struct Watched {
    /// First address and length.
    addresses: (usize, usize),
    layout: Layout,
    /// Cleared when the region goes. Relaxed: whoever touches a region that goes has no claim to a right answer.
    exists: AtomicBool,
}

/// Regions that can be watched in the life of a process: those of one heap with as many classes as there can be. A hit
/// in a region beyond them ends the process all the same, without the line.
const REGIONS_MAX: usize = 256;

/// Each place is filled once and never used again, so that a signal handler can read it at any time.
static WATCHED: [OnceLock<Watched>; REGIONS_MAX] = [const { OnceLock::new() }; REGIONS_MAX];

/// A region's place among those that are watched. Dropped before the region goes.
#[derive(Debug)]
pub(super) struct Watch(Option<&'static Watched>);

impl Watch {
    /// Has hits in the region told from now on.
    pub(super) fn begin(region: &Reservation, layout: Layout) -> Watch {
        super::os::tell_guard_hits();
        let length = usize::try_from(region.len()).expect("the region was reserved");
        let addresses = (region.address(&(0..0)) as usize, length);
        for place in &WATCHED {
            let mut is_mine = false;
            let watched = place.get_or_init(|| {
                is_mine = true;
                Watched { addresses, layout, exists: true.into() }
            });
            if is_mine {
                return Watch(Some(watched));
            }
        }
        Watch(None)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(watched) = self.0 {
            watched.exists.store(false, Ordering::Relaxed);
        }
    }
}

/// A line of text that is put together without memory from anywhere: for a signal handler.
pub(super) struct Line {
    bytes: [u8; 160],
    length: usize,
}

impl Line {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.length < self.bytes.len() {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
        }
    }

    fn number(&mut self, number: u64) {
        if number >= 10 {
            self.number(number / 10);
        }
        let digit = usize::try_from(number % 10).expect("a digit is small");
        self.text(&"0123456789"[digit..=digit]);
    }
}

/// What to say of a fault at `address`; none if it is not ours. Async-signal-safe: it takes no lock and no memory.
pub(super) fn line_about(address: usize) -> Option<Line> {
    let watched = WATCHED.iter().map_while(OnceLock::get).find(|watched| {
        let (start, length) = watched.addresses;
        watched.exists.load(Ordering::Relaxed) && (start..start + length).contains(&address)
    })?;
    let offset = (address - watched.addresses.0) as u64;
    let slab = watched.layout.slab_before(offset);
    let is_past_end = offset >= watched.layout.span(slab).end;
    let mut line = Line { bytes: [0; 160], length: 0 };
    line.text(if is_past_end { "maas: guard page hit behind slab " } else { "maas: no access to slab " });
    line.number(slab);
    line.text(" of class ");
    line.number(watched.layout.slab_bytes());
    line.text(": a stray read or write; the process ends\n");
    Some(line)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
