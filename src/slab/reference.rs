//! What one has of a slab: its bytes, until it is given back.

use super::allocator::SlabAllocator;
use super::error::SlabError;
use super::sites::Site;
use super::{SlabId, detached};
use crate::memory::OwnedSlab;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// A slab that is in use: plain bytes, `&slab[..]` and `&mut slab[..]`. Dropping it gives it back.
///
/// It borrows its allocator, or shares it, where it came from [`SlabAllocator::allocate_shared`]: then it is
/// `SlabRef<'static>`, and can be sent anywhere and stay as long as it likes.
///
/// The compiler refuses to use a slab that was given back, and one that outlives its allocator:
///
/// ```compile_fail,E0382
/// # use maas::slab::SlabAllocator;
/// let allocator = SlabAllocator::builder(64, 10).build().unwrap();
/// let slab = allocator.allocate().unwrap();
/// allocator.deallocate(slab).unwrap();
/// println!("{}", slab[0]); // moved
/// ```
///
/// ```compile_fail,E0505
/// # use maas::slab::SlabAllocator;
/// let allocator = SlabAllocator::builder(64, 10).build().unwrap();
/// let slab = allocator.allocate().unwrap();
/// drop(allocator); // borrowed
/// println!("{}", slab[0]);
/// ```
///
/// A slab that borrows its allocator cannot leave for a thread that may outlive it; a shared one can:
///
/// ```compile_fail,E0597
/// # use maas::slab::SlabAllocator;
/// let allocator = SlabAllocator::builder(64, 10).build().unwrap();
/// let slab = allocator.allocate().unwrap();
/// std::thread::spawn(move || println!("{}", slab[0]));
/// ```
///
/// ```
/// # use maas::slab::SlabAllocator;
/// let allocator = std::sync::Arc::new(SlabAllocator::builder(64, 10).build()?);
/// let slab = allocator.allocate_shared()?;
/// std::thread::spawn(move || slab[0]).join().expect("no panic");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a slab that is dropped is free again"]
pub struct SlabRef<'a> {
    owner: Owner<'a>,
    memory: Memory,
    /// The allocator's resets when it was given out.
    resets: u32,
    /// Of [`super::sites::Sites`]; none without debugging.
    site: Option<u64>,
}

/// Who keeps the allocator.
pub(super) enum Owner<'a> {
    Borrowed(&'a SlabAllocator),
    Shared(Arc<SlabAllocator>),
}

impl Deref for Owner<'_> {
    type Target = SlabAllocator;

    #[inline]
    fn deref(&self) -> &SlabAllocator {
        match self {
            Owner::Borrowed(allocator) => allocator,
            Owner::Shared(allocator) => allocator,
        }
    }
}

/// Where the bytes are.
pub(super) enum Memory {
    Slab(OwnedSlab),
    /// Of Rust's own allocator.
    Fallback(Box<[u8]>),
    /// Given back.
    None,
}

impl<'a> SlabRef<'a> {
    #[inline]
    pub(super) fn new(owner: Owner<'a>, memory: Memory, site: Option<u64>) -> SlabRef<'a> {
        let resets = owner.resets();
        SlabRef { owner, memory, resets, site }
    }

    /// The bytes. Indexing the reference is the same with a panic in place of the error.
    ///
    /// # Errors
    /// [`SlabError::InvalidReference`] after [`SlabRef::release`], and after the allocator was reset.
    pub fn bytes(&self) -> Result<&[u8], SlabError> {
        if self.resets != self.owner.resets() {
            return Err(SlabError::InvalidReference);
        }
        match &self.memory {
            Memory::Slab(slab) => Ok(self.owner.slab_bytes(slab)),
            Memory::Fallback(bytes) => Ok(bytes),
            Memory::None => Err(SlabError::InvalidReference),
        }
    }

    /// The bytes, to be written: all of them count as written then.
    ///
    /// # Errors
    /// As [`SlabRef::bytes`].
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], SlabError> {
        let all = 0..self.size();
        self.part_mut(all)
    }

    /// A part of the bytes, to be written: no other counts as written, so no other is zeroed when the slab is given back.
    /// What counts is kept for each 32nd of a slab.
    ///
    /// ```
    /// use maas::slab::SlabAllocator;
    ///
    /// let allocator = SlabAllocator::builder(1 << 20, 100).secure(true).build()?;
    /// let mut slab = allocator.allocate()?;
    /// slab.part_mut(0..16)?.fill(1); // 32 KiB are zeroed when it is given back, not 1 MiB
    /// assert_eq!((slab[15], slab[16]), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`SlabRef::bytes`].
    ///
    /// # Panics
    /// If the range is outside of the slab.
    #[inline]
    pub fn part_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], SlabError> {
        if self.resets != self.owner.resets() {
            return Err(SlabError::InvalidReference);
        }
        let size = self.owner.slab_size();
        assert!(range.start <= range.end && range.end <= size, "{range:?} is outside a slab of {size} bytes");
        match &mut self.memory {
            Memory::Slab(slab) => Ok(self.owner.slab_bytes_mut(slab, range)),
            Memory::Fallback(bytes) => Ok(&mut bytes[range]),
            Memory::None => Err(SlabError::InvalidReference),
        }
    }

    /// Bytes of the slab.
    pub fn size(&self) -> usize {
        self.owner.slab_size()
    }

    /// The slab's number, from 0 up to the capacity; none where it is from Rust's own allocator, or was given back.
    pub fn id(&self) -> Option<u64> {
        match &self.memory {
            Memory::Slab(slab) => Some(slab.index()),
            _ => None,
        }
    }

    /// Whether there is a slab: it was not given back, and the allocator was not reset.
    pub fn is_valid(&self) -> bool {
        self.bytes().is_ok()
    }

    /// Whether the bytes are from Rust's own allocator, as all slabs were in use.
    pub fn is_fallback(&self) -> bool {
        matches!(self.memory, Memory::Fallback(_))
    }

    /// Where and when it was allocated; none where the allocator does not debug.
    pub fn allocation_backtrace(&self) -> Option<Site> {
        self.site.and_then(|site| self.owner.sites().get(site))
    }

    /// Gives the slab back, and says whether all was well with it. Dropping it does the same without a word.
    ///
    /// # Errors
    /// [`SlabError::DoubleFree`] the second time; [`SlabError::Corrupted`] where something wrote beyond its end: it is out of
    /// use then; [`SlabError::InvalidReference`] where the allocator was reset: it is given back all the same.
    pub fn release(&mut self) -> Result<(), SlabError> {
        let is_old = self.resets != self.owner.resets();
        let outcome =
            self.owner.take_back(std::mem::replace(&mut self.memory, Memory::None), self.site.take());
        self.owner.given_back(if is_old && outcome.is_ok() {
            Err(SlabError::InvalidReference)
        } else {
            outcome
        })
    }

    /// Keeps the slab in use and forgets the reference: the id is all there is of it, for code that keeps numbers.
    /// [`SlabAllocator::attach`] makes it a reference again.
    ///
    /// # Errors
    /// [`SlabError::InvalidReference`] where there is no slab: it was released, or the allocator reset.
    pub fn detach(mut self) -> Result<SlabId, SlabError> {
        if !self.is_valid() {
            return Err(SlabError::InvalidReference);
        }
        let memory = std::mem::replace(&mut self.memory, Memory::None);
        Ok(self.owner.keep(detached::Kept { memory, site: self.site.take() }))
    }

    /// The same slab, by a reference that shares the allocator instead of borrowing it: for what was waited for, or attached,
    /// and is to be sent elsewhere.
    ///
    /// ```
    /// use maas::slab::SlabAllocator;
    /// use std::{sync::Arc, thread, time::Duration};
    ///
    /// let allocator = Arc::new(SlabAllocator::builder(64, 10).build()?);
    /// let waits = {
    ///     let allocator = Arc::clone(&allocator);
    ///     thread::spawn(move || allocator.allocate_timeout(Duration::from_secs(1))?.into_shared(&allocator))
    /// };
    /// let slab = waits.join().expect("no panic")?; // `SlabRef<'static>`
    /// assert_eq!(slab.len(), 64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SlabError::InvalidReference`] where it is of another allocator, which has it back then.
    pub fn into_shared(mut self, allocator: &Arc<SlabAllocator>) -> Result<SlabRef<'static>, SlabError> {
        if !self.is_of(allocator) {
            return Err(SlabError::InvalidReference);
        }
        let memory = std::mem::replace(&mut self.memory, Memory::None);
        let (resets, site) = (self.resets, self.site.take());
        Ok(SlabRef { owner: Owner::Shared(Arc::clone(allocator)), memory, resets, site })
    }

    /// Whether it came from there.
    pub(super) fn is_of(&self, allocator: &SlabAllocator) -> bool {
        std::ptr::eq::<SlabAllocator>(&*self.owner, allocator)
    }
}

impl Deref for SlabRef<'_> {
    type Target = [u8];

    /// # Panics
    /// If the slab was released, or the allocator reset.
    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes().expect("the slab was released, or its allocator reset")
    }
}

impl DerefMut for SlabRef<'_> {
    /// # Panics
    /// If the slab was released, or the allocator reset.
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes_mut().expect("the slab was released, or its allocator reset")
    }
}

impl AsRef<[u8]> for SlabRef<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for SlabRef<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Its number and size; never its bytes, which may be secret.
impl fmt::Debug for SlabRef<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SlabRef")
            .field("id", &self.id())
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl Drop for SlabRef<'_> {
    #[inline]
    fn drop(&mut self) {
        let outcome = match std::mem::replace(&mut self.memory, Memory::None) {
            Memory::None => return,
            Memory::Slab(slab) if self.site.is_none() => self.owner.take_slab_back(slab),
            memory => self.owner.take_back(memory, self.site.take()),
        };
        if outcome.is_err() {
            let _ = self.owner.given_back(outcome); // counted and logged there
        }
    }
}
