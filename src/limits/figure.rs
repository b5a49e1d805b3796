//! A number in a file of the system that is read again and again.
//!
//! That a file cannot be read now and then says nothing of what it would say: where no file can be opened any more, memory
//! is as full as before. So what was read last holds for a while; only a file that is not there, or says that there is no
//! such number, is believed at once.

use super::{Told, read_file};
use crate::clock::Now;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was read last holds for so long where the file cannot be read any more.
pub(super) const LAST_KEPT: Duration = Duration::from_secs(60);

/// The file, how to find the number in it, and what it was last and when.
#[derive(Debug)]
pub(super) struct Figure<T> {
    path: PathBuf,
    find: fn(&str) -> Told<T>,
    last: Mutex<Option<(T, Now)>>,
}

impl<T: Copy> Figure<T> {
    pub(super) fn new(path: PathBuf, find: fn(&str) -> Told<T>) -> Figure<T> {
        Figure { path, find, last: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The number; none where there is none, or it was not known for too long.
    pub(super) fn read(&self, now: Now) -> Option<T> {
        let told = read_file(&self.path, self.find);
        let mut last = self.last.lock();
        *last = match told {
            Told::Is(number) => Some((number, now)),
            Told::Nothing => None,
            Told::Unreadable => last.filter(|(_, at)| now.since(*at) < LAST_KEPT),
        };
        last.map(|(number, _)| number)
    }
}
