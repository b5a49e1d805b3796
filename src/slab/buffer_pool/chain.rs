//! Pieces that are read as one: what came in many reads, or from many places, without copying it together.

use super::Buffer;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;

/// Buffers and [`Bytes`] in a row, read as one [`Buf`]. A piece goes where it came from as soon as it is read.
///
/// Appending and reading are O(1) in the number of pieces. [`Buf::chunks_vectored`] tells many pieces at once, so that
/// `write_vectored` and tokio's `write_all_buf` send them in one system call. [`Buf::copy_to_bytes`] copies only what lies
/// in several pieces.
///
/// A chain has no bound of its own: its buffers count in their pool's limit, and foreign `Bytes` are their maker's.
///
/// ```
/// use bytes::{Buf, BufMut, Bytes};
/// use maas::slab::{BufferChain, BufferPool};
///
/// let pool = BufferPool::builder().build()?;
/// let mut body = pool.acquire(100)?;
/// body.put_slice(b"body");
/// let mut chain = BufferChain::new();
/// chain.push(Bytes::from_static(b"head, "));
/// chain.push(body);
/// assert_eq!((chain.remaining(), chain.chunk()), (10, &b"head, "[..]));
/// assert_eq!(chain.copy_to_bytes(6), "head, "); // the same bytes, not copied
/// chain.advance(4);
/// assert_eq!(pool.stats().in_use_bytes, 0); // it was read
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct BufferChain {
    /// None of them is empty.
    pieces: VecDeque<Piece>,
    /// Bytes in all of them.
    remaining: usize,
}

/// What a chain is made of.
pub enum Piece {
    /// A buffer's unread content.
    Buffer(Buffer),
    /// Bytes from anywhere.
    Bytes(Bytes),
}

impl BufferChain {
    /// A chain of nothing.
    pub fn new() -> BufferChain {
        BufferChain::default()
    }

    /// Appends a piece: a [`Buffer`] or [`Bytes`]. An empty one is dropped at once.
    pub fn push(&mut self, piece: impl Into<Piece>) {
        let piece = piece.into();
        let len = piece.remaining();
        if len > 0 {
            self.remaining += len;
            self.pieces.push_back(piece);
        }
    }

    /// Number of pieces that are not wholly read.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Gives all pieces back unread.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.remaining = 0;
    }

    /// The first `count` bytes of the first piece, not copied. Of a buffer that has more, the rest stays as `Bytes` too.
    fn split_first(&mut self, count: usize) -> Bytes {
        let mut bytes = match self.pieces.pop_front() {
            Some(Piece::Buffer(buffer)) => buffer.freeze(),
            Some(Piece::Bytes(bytes)) => bytes,
            None => Bytes::new(),
        };
        let first = bytes.split_to(count);
        self.remaining -= count;
        if !bytes.is_empty() {
            self.pieces.push_front(Piece::Bytes(bytes));
        }
        first
    }
}

impl Buf for BufferChain {
    #[inline]
    fn remaining(&self) -> usize {
        self.remaining
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], Piece::chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled =
            slices.iter_mut().zip(&self.pieces).map(|(slice, piece)| *slice = IoSlice::new(piece.chunk()));
        filled.count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "{count} bytes were read of {}", self.remaining);
        self.remaining -= count;
        while count > 0 {
            let piece = self.pieces.front_mut().expect("the pieces have as many bytes as remain");
            let read = count.min(piece.remaining());
            piece.advance(read);
            count -= read;
            if !piece.has_remaining() {
                self.pieces.pop_front();
            }
        }
    }

    /// Copies only where the bytes lie in several pieces.
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        assert!(count <= self.remaining, "{count} bytes were read of {}", self.remaining);
        if count <= self.chunk().len() {
            return if count == 0 { Bytes::new() } else { self.split_first(count) };
        }
        let mut copied = BytesMut::with_capacity(count);
        copied.put(self.take(count));
        copied.freeze()
    }
}

impl Buf for Piece {
    #[inline]
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        match self {
            Piece::Buffer(buffer) => buffer,
            Piece::Bytes(bytes) => bytes,
        }
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        match self {
            Piece::Buffer(buffer) => buffer.advance(count),
            Piece::Bytes(bytes) => bytes.advance(count),
        }
    }
}

impl<P: Into<Piece>> From<P> for BufferChain {
    fn from(piece: P) -> BufferChain {
        let mut chain = BufferChain::new();
        chain.push(piece);
        chain
    }
}

impl From<Buffer> for Piece {
    fn from(buffer: Buffer) -> Piece {
        Piece::Buffer(buffer)
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Piece {
        Piece::Bytes(bytes)
    }
}

/// Its length; never its bytes, which are somebody's.
impl fmt::Debug for Piece {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Piece::Buffer(_) => "Buffer",
            Piece::Bytes(_) => "Bytes",
        };
        out.debug_struct(kind).field("len", &self.remaining()).finish_non_exhaustive()
    }
}

/// Its length; never its bytes, which are somebody's.
impl fmt::Debug for BufferChain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BufferChain")
            .field("remaining", &self.remaining)
            .field("pieces", &self.pieces.len())
            .finish()
    }
}
