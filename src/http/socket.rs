//! A client's socket as the protocol sees it: counted, and telling its connection when bytes come and go.

use super::connection::Connection;
use bytes::{Buf, Bytes};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Up to this many bytes are copied together and written in one piece: the system takes longer over a list of pieces.
const GATHERED_BYTES_MAX: usize = 4096;

thread_local! {
    /// Where they are copied to.
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A TCP stream, the bytes already read from it to tell the protocols apart, and the connection it belongs to.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// Read before the protocol was known; handed out first.
    unread: Bytes,
    /// The client has closed its side, or the connection is broken.
    ended: bool,
    connection: Arc<Connection>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>) -> Socket {
        Socket { stream, unread: Bytes::new(), ended: false, connection }
    }

    /// Gives bytes back that were read to look at.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// Whether nothing more can come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    #[inline]
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => self.connection.sent(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.connection.stalled(),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if !socket.unread.is_empty() {
            let length = socket.unread.len().min(buffer.remaining());
            buffer.put_slice(&socket.unread[..length]);
            socket.unread.advance(length);
            if socket.unread.is_empty() {
                socket.unread = Bytes::new(); // gives the memory back
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut socket.stream).poll_read(context, buffer));
        let received = buffer.filled().len() - before;
        if received > 0 {
            socket.connection.received(received);
        } else {
            socket.ended = true;
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let written = Pin::new(&mut socket.stream).poll_write(context, bytes);
        socket.wrote(&written);
        written
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let written = if length <= GATHERED_BYTES_MAX {
            GATHERED.with_borrow_mut(|gathered| {
                gathered.clear();
                pieces.iter().for_each(|piece| gathered.extend_from_slice(piece));
                Pin::new(&mut socket.stream).poll_write(context, gathered)
            })
        } else {
            Pin::new(&mut socket.stream).poll_write_vectored(context, pieces)
        };
        socket.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Both protocols flush the socket only when their own buffers are empty: the reader is no longer behind.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        socket.connection.flushed();
        Pin::new(&mut socket.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.is_cut() {
            // Without this the kernel would go on offering the rest to a reader that does not read. It fails only
            // where the socket is gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}
