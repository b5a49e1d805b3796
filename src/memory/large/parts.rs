//! Very many free runs for one block: taken in parts, so that nobody else waits for the lock meanwhile.

use super::super::Heap;
use super::{SLICE_SEGMENTS_MAX, Taken};
use crate::memory::os::{OsError, page_size};

impl Heap {
    /// As [`Heap::take_pages`], of segments, for whoever has the turn and time: what is taken is the caller's at once, and
    /// goes back where the rest cannot be had. Nobody else takes pages meanwhile; who frees some does.
    pub(super) fn take_pages_in_parts(&self, pages: u64) -> Result<Option<Vec<Taken>>, OsError> {
        let (held, holes) = {
            let account = self.large.lock();
            (account.runs.held().pages(), account.runs.hole_pages())
        };
        let fresh = pages.saturating_sub(held);
        let fresh_bytes = fresh * page_size();
        if fresh > holes || fresh > 0 && !self.budget.take(fresh_bytes) {
            return Ok(None);
        }
        let mut taken = Vec::new();
        let outcome = self
            .take_parts(true, pages - fresh, &mut taken)
            .and_then(|is_all| Ok(is_all && self.take_parts(false, fresh, &mut taken)?));
        if !matches!(outcome, Ok(true)) {
            self.put_parts_back(&taken);
            self.budget.give_back(fresh_bytes);
            return outcome.map(|_| None);
        }
        self.large.lock().runs.note_taken(fresh == 0);
        Ok(Some(taken))
    }

    /// Takes so many pages of a kind, for which the budget was asked; false where there are fewer.
    fn take_parts(&self, held: bool, pages: u64, taken: &mut Vec<Taken>) -> Result<bool, OsError> {
        let mut left = pages;
        while left > 0 {
            let mut account = self.large.lock();
            let part = account.runs.take_part(held, left, SLICE_SEGMENTS_MAX);
            let Some(end) = part.iter().map(|taken| taken.pages.end).max() else { return Ok(false) };
            if !held && let Err(error) = self.large.slabs.commit(end - 1) {
                part.into_iter().for_each(|taken| account.runs.put_back(taken));
                return Err(error);
            }
            let count: u64 = part.iter().map(|taken| taken.pages.end - taken.pages.start).sum();
            account.use_pages(count);
            drop(account);
            left -= count;
            taken.extend(part);
        }
        Ok(true)
    }

    fn put_parts_back(&self, taken: &[Taken]) {
        for part in taken.chunks(SLICE_SEGMENTS_MAX) {
            let mut account = self.large.lock();
            for taken in part {
                account.used_pages -= taken.pages.end - taken.pages.start;
                account.runs.put_back(taken.clone());
            }
        }
    }
}
