//! What all connections are told: how far the server has come, and that readers are overdue.
//!
//! Both stand in one word, so that a driver that was told nothing new finds that out with one comparison at every poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How far the server has come; it only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Stage {
    Serving,
    /// Connections from before end, new ones are answered.
    Draining,
    /// All connections end when they run no request.
    Finishing,
    /// All connections end at once.
    Aborting,
}

/// The low bits of the word are the [`Stage`]; the others count calls to overdue readers.
const STAGE_BITS: u32 = 2;
const STAGE: u32 = (1 << STAGE_BITS) - 1;

/// Speaks to all connections of a server. Clones speak to the same.
#[derive(Clone, Debug, Default)]
pub struct Signal(Arc<Spoken>);

#[derive(Debug, Default)]
struct Spoken {
    /// A [`Word`]. Written before everybody is woken, read by every driver at every poll (relaxed: the notification's own
    /// lock orders it for those who are woken).
    word: AtomicU32,
    changed: Arc<Notify>,
}

/// What was said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u32);

impl Word {
    #[inline]
    pub(super) fn stage(self) -> Stage {
        match self.0 & STAGE {
            0 => Stage::Serving,
            1 => Stage::Draining,
            2 => Stage::Finishing,
            _ => Stage::Aborting,
        }
    }
}

impl Signal {
    /// Ends every connection that has a reader whose time is over. Wakes all of them, so it is for when there are some.
    pub fn cut_overdue_readers(&self) {
        self.0.word.fetch_add(1 << STAGE_BITS, Relaxed);
        self.0.changed.notify_waiters();
    }

    pub(super) fn enter(&self, stage: Stage) {
        let entered = |word| Some(word & !STAGE | u32::from(stage as u8));
        // It always writes, so it never fails.
        let _ = self.0.word.fetch_update(Relaxed, Relaxed, entered);
        self.0.changed.notify_waiters();
    }

    #[inline]
    pub(super) fn word(&self) -> Word {
        Word(self.0.word.load(Relaxed))
    }

    /// Ready at the next word.
    pub(super) fn changed(&self) -> OwnedNotified {
        self.0.changed.clone().notified_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_to_readers_is_a_new_word_of_the_same_stage() {
        let signal = Signal::default();
        for stage in [Stage::Serving, Stage::Draining, Stage::Finishing, Stage::Aborting] {
            signal.enter(stage);
            let before = signal.word();
            assert_eq!(before.stage(), stage);
            signal.cut_overdue_readers();
            assert_ne!(signal.word(), before);
            assert_eq!(signal.word().stage(), stage);
        }
    }
}
