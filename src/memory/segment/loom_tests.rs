//! Records under the model checker: who sees which byte.

use super::*;
use loom::{cell::UnsafeCell, sync::Arc, thread};

/// A slab of one byte, so that loom sees every unsynchronised access to it.
struct Slab {
    record: SegmentRecord,
    byte: UnsafeCell<u8>,
}

#[allow(unsafe_code)]
impl Slab {
    fn held() -> Arc<Slab> {
        let slab = Arc::new(Slab { record: SegmentRecord::default(), byte: UnsafeCell::new(0) });
        assert!(slab.record.claim());
        slab
    }
    fn read(&self) -> u8 {
        // SAFETY: loom checks what the record promises.
        self.byte.with(|byte| unsafe { *byte })
    }
    fn write(&self, value: u8) {
        // SAFETY: loom checks what the record promises.
        self.byte.with_mut(|byte| unsafe { *byte = value });
    }
}

#[test]
fn loom_bytes_never_change_under_a_holder() {
    crate::sync::model(|| {
        let slab = Slab::held();
        let reader = {
            let slab = Arc::clone(&slab);
            thread::spawn(move || {
                if slab.record.hold().is_ok() {
                    let first = slab.read();
                    assert_eq!(slab.read(), first);
                    assert!(slab.record.release().is_none());
                }
            })
        };
        if let Ok(access) = slab.record.begin_write() {
            slab.write(7);
            access.end(1);
        }
        reader.join().expect("no panic");
    });
}

#[test]
fn loom_the_last_holder_scrubs_and_the_next_owner_reads_zero() {
    crate::sync::model(|| {
        let slab = Slab::held();
        let access = slab.record.begin_write().expect("the only holder");
        slab.write(7);
        access.end(1);
        slab.record.hold().expect("held");
        let drop_one = |slab: &Slab| {
            assert_eq!(slab.read(), 7, "a holder reads what was written until it lets go");
            if let Some(last) = slab.record.release() {
                slab.write(0);
                last.make_free();
            }
        };
        let other = {
            let slab = Arc::clone(&slab);
            thread::spawn(move || drop_one(&slab))
        };
        drop_one(&slab);
        if slab.record.claim() {
            assert_eq!(slab.read(), 0, "never a byte of an earlier owner");
        }
        other.join().expect("no panic");
    });
}

/// A sweep looks at a free slab while somebody takes it, writes, and frees it again.
#[test]
fn loom_a_free_slab_is_looked_at_only_while_nobody_has_it() {
    crate::sync::model(|| {
        let slab = Slab::held();
        slab.record.release().expect("the only holder").make_free();
        let sweep = {
            let slab = Arc::clone(&slab);
            thread::spawn(move || {
                if let Some(access) = slab.record.close_free() {
                    assert_eq!(slab.read(), 0, "a free slab reads as zero");
                    access.make_free();
                }
            })
        };
        if slab.record.claim() {
            let access = slab.record.begin_write().expect("the only holder");
            access.raise_dirty(1);
            slab.write(7);
            access.end(1);
            let last = slab.record.release().expect("the only holder");
            slab.write(0);
            last.set_dirty(0);
            last.make_free();
        }
        sweep.join().expect("no panic");
    });
}

/// A sweep marks a slab that it takes for draining, while its last reader leaves and the next owner comes.
#[test]
fn loom_the_next_owner_of_a_slab_is_never_overdue() {
    crate::sync::model(|| {
        let slab = Slab::held();
        slab.record.hold().expect("held");
        assert!(slab.record.set_draining());
        assert!(slab.record.release().is_none());
        let sweep = {
            let slab = Arc::clone(&slab);
            thread::spawn(move || slab.record.mark_overdue())
        };
        let last = slab.record.release().expect("the only reader");
        slab.write(0);
        last.make_free();
        assert!(slab.record.claim());
        assert!(!slab.record.is_overdue() && !slab.record.is_draining());
        sweep.join().expect("no panic");
        assert!(!slab.record.is_overdue(), "the mark came too late and was left out");
        assert_eq!(slab.record.holders(), 1);
        slab.record.begin_write().expect("the only holder").end(1);
    });
}

/// Who guesses where a slab lies tries to read it, or to write it, while its owner writes and gives it back, and somebody
/// else takes it.
#[test]
fn loom_nobody_else_gets_in_while_a_slab_is_owned() {
    crate::sync::model(|| {
        let slab = Slab::held();
        let other = {
            let slab = Arc::clone(&slab);
            thread::spawn(move || {
                if slab.record.hold().is_ok() {
                    let _ = slab.read();
                    if let Some(last) = slab.record.release() {
                        last.make_free();
                    }
                }
            })
        };
        if slab.record.own() {
            slab.write(7);
            let access = slab.record.disown();
            slab.write(0);
            access.make_free();
            if slab.record.claim() {
                assert_eq!(slab.read(), 0, "the next one finds what the owner left");
            }
        } else if let Some(last) = slab.record.release() {
            last.make_free();
        }
        other.join().expect("no panic");
    });
}

/// A client gives hints about a block while its upload writes to it: the write is not turned away for that, and whoever lets
/// go last finds the hints.
#[test]
fn loom_hints_that_come_beside_a_write_are_kept_and_keep_nobody_out() {
    crate::sync::model(|| {
        let slab = Slab::held();
        let upload = {
            let slab = Arc::clone(&slab);
            thread::spawn(move || {
                let access = slab.record.begin_write().expect("the only holder");
                slab.write(7);
                access.end(1);
            })
        };
        assert!(slab.record.set_advised());
        assert!(!slab.record.set_advised(), "a second time is not new");
        upload.join().expect("no panic");
        assert_eq!((slab.record.writes(), slab.record.holders()), (1, 1));
        let last = slab.record.release().expect("the only holder");
        assert!(last.is_advised());
        slab.write(0);
        last.forget_advised();
        last.make_free();
        assert!(slab.record.claim() && !slab.record.is_advised());
    });
}
