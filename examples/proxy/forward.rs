//! The proxy: bytes go both ways through one buffer each, until both sides have said all.

use bytes::{Buf, BufMut, BytesMut};
use maas::slab::{Buffer, BufferPool};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// A target that does not answer in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where accepting fails, mostly for want of files, it is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that a buffer begins with.
const INITIAL_BYTES: usize = 16 << 10;

/// Bytes that a plain buffer grows to at most: as the pool's.
const PLAIN_BYTES_MAX: usize = 256 << 10;

/// How long a connection has a buffer for each direction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// From its beginning to its end.
    Connection,
    /// While bytes come; it has none while it waits for some.
    Flow,
}

/// Where buffers come from.
pub(super) trait Buffers: Send + Sync + 'static {
    /// Dropped, it goes back.
    type Buffer: Buf + BufMut + Send;

    /// An empty buffer.
    fn take(&self) -> io::Result<Self::Buffer>;

    /// Sees to it that all `size_bytes` of an empty buffer are room.
    fn make_room(&self, buffer: &mut Self::Buffer, size_bytes: usize);

    /// Puts an empty buffer of so many bytes in its place, or of as many as there may be; how many.
    fn grow(&self, buffer: &mut Self::Buffer, size_bytes: usize) -> io::Result<usize>;
}

impl Buffers for BufferPool {
    type Buffer = Buffer;

    fn take(&self) -> io::Result<Buffer> {
        self.acquire(INITIAL_BYTES).map_err(|error| io::Error::new(ErrorKind::OutOfMemory, error))
    }

    fn make_room(&self, buffer: &mut Buffer, size_bytes: usize) {
        debug_assert_eq!(buffer.room(), size_bytes, "all was read, so all is room");
    }

    fn grow(&self, buffer: &mut Buffer, size_bytes: usize) -> io::Result<usize> {
        let size_bytes = size_bytes.min(self.buffer_bytes_max());
        buffer.grow(size_bytes).map_err(|error| io::Error::new(ErrorKind::OutOfMemory, error))?;
        Ok(buffer.capacity())
    }
}

/// A `BytesMut` each, of the same size, used again and again as long as its connection has it.
pub(super) struct PlainBuffers;

impl Buffers for PlainBuffers {
    type Buffer = BytesMut;

    fn take(&self) -> io::Result<BytesMut> {
        Ok(BytesMut::with_capacity(INITIAL_BYTES))
    }

    fn make_room(&self, buffer: &mut BytesMut, size_bytes: usize) {
        buffer.clear();
        buffer.reserve(size_bytes); // what was read is room again: that allocates nothing
    }

    fn grow(&self, buffer: &mut BytesMut, size_bytes: usize) -> io::Result<usize> {
        let size_bytes = size_bytes.min(PLAIN_BYTES_MAX);
        buffer.clear();
        buffer.reserve(size_bytes);
        Ok(size_bytes)
    }
}

/// What happened.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) open: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) forwarded_bytes: AtomicU64,
}

/// Forwards connections to one target.
pub(super) struct Proxy<B> {
    target: SocketAddr,
    hold: Hold,
    /// A read that fills its buffer makes it grow.
    grows: bool,
    buffers: B,
    pub(super) counts: Counts,
}

impl<B: Buffers> Proxy<B> {
    pub(super) fn new(target: SocketAddr, hold: Hold, grows: bool, buffers: B) -> Proxy<B> {
        Proxy { target, hold, grows, buffers, counts: Counts::default() }
    }

    /// Accepts for ever, while fewer connections than `connections_max` are open.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener, connections_max: usize) {
        let room = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
            let client = match listener.accept().await {
                Ok((client, _)) => client,
                Err(error) => {
                    eprintln!("proxy: accepting: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let proxy = Arc::clone(&self);
            tokio::spawn(async move {
                let counts = &proxy.counts;
                counts.connections.fetch_add(1, Ordering::Relaxed);
                counts.open.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = proxy.forward(client).await {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    if !is_usual(&error) {
                        eprintln!("proxy: a connection ended early: {error}");
                    }
                }
                counts.open.fetch_sub(1, Ordering::Relaxed);
                drop(permit);
            });
        }
    }

    /// Forwards one connection. An error of either direction ends both.
    async fn forward(&self, client: TcpStream) -> io::Result<()> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.target));
        let target = connecting.await.map_err(|_| io::Error::from(ErrorKind::TimedOut))??;
        client.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_target, to_target) = target.into_split();
        tokio::try_join!(self.pump(from_client, to_target), self.pump(from_target, to_client))?;
        Ok(())
    }

    /// Forwards one direction until its end, and passes the end on.
    async fn pump(&self, from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut held = match self.hold {
            Hold::Connection => Some((self.buffers.take()?, INITIAL_BYTES)),
            Hold::Flow => None,
        };
        loop {
            from.readable().await?;
            let (mut buffer, mut size_bytes) = match held.take() {
                Some(held) => held,
                None => (self.buffers.take()?, INITIAL_BYTES),
            };
            loop {
                self.buffers.make_room(&mut buffer, size_bytes);
                let read = match from.try_read_buf(&mut buffer) {
                    Ok(0) => return to.shutdown().await,
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                to.write_all_buf(&mut buffer).await?;
                self.counts.forwarded_bytes.fetch_add(read as u64, Ordering::Relaxed);
                if self.grows && read == size_bytes {
                    size_bytes = self.buffers.grow(&mut buffer, 2 * size_bytes)?;
                }
            }
            held = (self.hold == Hold::Connection).then_some((buffer, size_bytes));
        }
    }
}

/// Ends of connections that nobody needs to hear of.
fn is_usual(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected)
}
