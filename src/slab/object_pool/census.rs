//! The census of a pool: which objects exist, what became of the others, and how many may be kept.

/// What is counted rarely: when objects come into being and cease to be, and when places move.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// In use, kept, or being made or dropped.
    pub(super) existing: usize,
    pub(super) kept_max: usize,
    /// Places that no shelf has.
    pub(super) places_free: usize,
    /// Places that shelves have beyond `kept_max`, since it was lowered.
    pub(super) places_owed: usize,
    /// Grows whenever somebody who waits should look again.
    pub(super) changes: u64,
    /// Objects made for a user; those that were kept before are counted by shelves.
    pub(super) acquired: u64,
    pub(super) created: u64,
    pub(super) dropped: u64,
    pub(super) refused: u64,
    pub(super) taken: u64,
}

impl Census {
    /// Nothing exists yet; all places are free.
    pub(super) fn new(kept_max: usize) -> Census {
        Census { kept_max, places_free: kept_max, ..Census::default() }
    }

    /// So many places from now on: free ones are taken away at once, the others are owed by the shelves.
    pub(super) fn set_kept_max(&mut self, kept_max: usize) {
        if kept_max >= self.kept_max {
            self.take_back_places(kept_max - self.kept_max);
        } else {
            let fewer = self.kept_max - kept_max;
            let at_once = fewer.min(self.places_free);
            self.places_free -= at_once;
            self.places_owed += fewer - at_once;
        }
        self.kept_max = kept_max;
    }

    /// Places that a shelf gave up: they pay what is owed first.
    pub(super) fn take_back_places(&mut self, places: usize) {
        let paid = places.min(self.places_owed);
        self.places_owed -= paid;
        self.places_free += places - paid;
    }

    pub(super) fn count_dropped(&mut self) {
        self.dropped += 1;
    }

    pub(super) fn count_refused(&mut self) {
        self.dropped += 1;
        self.refused += 1;
    }

    pub(super) fn count_taken(&mut self) {
        self.taken += 1;
    }
}
