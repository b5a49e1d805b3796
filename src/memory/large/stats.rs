//! The numbers of large blocks and free runs.

use super::super::runs::Counts;
use super::{Large, PAGE_METADATA_BYTES, TABLES};
use crate::memory::os::page_size;
use crate::units::ratio;

/// Numbers of large blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LargeStats {
    /// Segments in clients' hands, or still being read.
    pub segments: u64,
    /// Their bytes.
    pub used_bytes: u64,
    /// Bytes of segments that are being zeroed.
    pub scrubbing_bytes: u64,
    /// Bytes of segments that are out of use for good.
    pub retired_bytes: u64,
    /// Bytes of free pages that are held: they have memory.
    pub free_bytes: u64,
    /// Runs that these are.
    pub free_runs: u64,
    /// Bytes of the longest of them.
    pub largest_free_bytes: u64,
    /// Blocks that were given out.
    pub allocations: u64,
    /// Of these, all of whose memory was there: held free pages.
    pub free_list_hits: u64,
    /// Segments that came back.
    pub frees: u64,
    /// Of these, those that were joined with a free neighbour.
    pub coalesced_frees: u64,
    /// Free neighbours that were joined.
    pub coalesces: u64,
    /// Bytes of segments of 2 MiB and more that are in use.
    pub huge_eligible_bytes: u64,
    /// Of these, bytes in whole, aligned 2 MiB, for which huge pages are asked; 0 where they are not configured.
    pub huge_bytes: u64,
    /// Whether huge pages are asked for.
    pub huge_pages: bool,
}

impl LargeStats {
    /// How far the free memory is from being one run: 1 − longest / all; 0 where there is none.
    pub fn fragmentation_ratio(&self) -> f64 {
        if self.free_bytes == 0 { 0.0 } else { 1.0 - ratio(self.largest_free_bytes, self.free_bytes) }
    }

    /// Of the bytes that could lie in huge pages, the part for which the system is asked for them; 0 where there are none.
    pub fn huge_page_ratio(&self) -> f64 {
        ratio(self.huge_bytes, self.huge_eligible_bytes)
    }

    /// Bytes held from the budget.
    pub fn held_bytes(&self) -> u64 {
        self.used_bytes + self.scrubbing_bytes + self.retired_bytes + self.free_bytes
    }
}

impl Large {
    pub(in crate::memory) fn stats(&self) -> LargeStats {
        let account = self.lock();
        let Counts { allocations, hits, frees, coalesced_frees, coalesces } = account.runs.counts();
        let free = account.runs.held();
        LargeStats {
            segments: account.segments,
            used_bytes: account.used_pages * page_size(),
            scrubbing_bytes: account.scrubbing_pages * page_size(),
            retired_bytes: account.retired_pages * page_size(),
            free_bytes: free.pages() * page_size(),
            free_runs: free.count(),
            largest_free_bytes: free.longest() * page_size(),
            allocations,
            free_list_hits: hits,
            frees,
            coalesced_frees,
            coalesces,
            huge_pages: self.huge_pages,
            huge_eligible_bytes: account.eligible_pages * page_size(),
            huge_bytes: if self.huge_pages { account.huge_pages * page_size() } else { 0 },
        }
    }

    /// Bytes of records, roughly: pages of their tables that the most segments that there ever were can have touched, below
    /// the highest page that ever was in use; and the two indices of the free runs.
    pub(in crate::memory) fn metadata_bytes(&self) -> u64 {
        const RUN_BYTES: u64 = 2 * 2 * 16;
        let account = self.lock();
        let touched = account.segments_max * TABLES * page_size();
        touched.min(self.slabs.usable_pages() * PAGE_METADATA_BYTES) + account.runs.held().count() * RUN_BYTES
    }

    /// Bytes of records where each page was part of a segment at some time.
    pub(in crate::memory) fn metadata_bytes_max(&self) -> u64 {
        self.slabs.count() * PAGE_METADATA_BYTES
    }
}
