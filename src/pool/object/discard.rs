//! Content that is given up: zeros from one instant on, without memory for a second version, where nobody reads the first.

use super::broken::Cleaning;
use super::{Object, Objects};
use crate::pool::Written;
use crate::pool::id::Key;
use crate::pool::local::Local;
use crate::pool::place::ObjectNumber;
use crate::pool::table::LockedEntry;
use std::sync::Arc;

impl Local {
    /// Makes the content of a large object zeros, as one write more: at once for whoever reads, and its pages go back here or
    /// in the janitor's time. None, and nothing changed, where somebody else has this version or a segment of it, or an upload
    /// fills it.
    pub(in crate::pool) fn discard_object(
        &self,
        target: (u32, Key),
        entry: LockedEntry<'_>,
        number: ObjectNumber,
    ) -> Option<Written> {
        let is_lent = entry.is_lent();
        let outcome = self.objects().discard(number, is_lent)?;
        let version = outcome.version;
        if let Some(discarded) = outcome.discarded {
            entry.set_lent(true);
            drop(entry);
            let all = discarded.segments().range();
            self.clean_up(target, discarded, all, Cleaning::GiveBack);
        }
        Some(Written { version, whole: false })
    }
}

/// What became of a version.
struct Discarded {
    /// Writes counted from now on.
    version: u64,
    /// Its segments have something to give back; none where that is on its way already.
    discarded: Option<Arc<Object>>,
}

impl Objects {
    /// Makes a version read as zeros, under the lock of the entry that names it, whose segments may be lent.
    fn discard(&self, number: ObjectNumber, is_lent: bool) -> Option<Discarded> {
        self.look(number, |object| {
            let is_on_its_way = is_lent && object.writes() > 0 && object.reads_zero();
            if !is_on_its_way && (is_lent || Object::has_other_users(object)) {
                return None;
            }
            let version = object.writes() + 1;
            object.set_writes(version);
            object.set_blank(true);
            Some(Discarded { version, discarded: (!is_on_its_way).then(|| Arc::clone(object)) })
        })
    }
}
