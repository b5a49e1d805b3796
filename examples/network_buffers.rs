//! Messages from a TCP connection, each in a block of its size: read once, handed to another thread without a copy,
//! and free when that one is done. The pool's limit bounds what a peer can make the receiver hold.
//!
//! ```text
//! cargo run --no-default-features --example network_buffers
//! ```

use bytes::Bytes;
use maas::memory::{BlockError, Config, Heap};
use std::error::Error;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

const MESSAGES: u32 = 20_000;
/// Messages that wait for the worker at most.
const QUEUE: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let heap = Arc::new(Heap::new(&Config {
        slab_sizes: vec![256, 1024, 4096, 16_384, 65_536],
        max_pool_size: 4 << 20,
        ..Config::default()
    })?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let (sender, receiver) = sync_channel(QUEUE);

    let client = thread::spawn(move || send_messages(TcpStream::connect(address)?));
    let worker = thread::spawn(move || add_up(&receiver));
    let ended = receive(&heap, listener.accept()?.0, &sender);
    drop(sender);
    client.join().map_err(|_| "the client panicked")??;
    let (messages, sum) = worker.join().map_err(|_| "the worker panicked")?;

    println!("{messages} messages, sum of their bytes {sum}");
    println!(
        "the connection ended: {}",
        ended.map_or_else(|error| error.to_string(), |()| "cleanly".to_owned())
    );
    let stats = heap.stats();
    for class in stats.classes.iter().filter(|class| class.allocations > 0) {
        println!(
            "blocks of {:>6} bytes: {:>6} given out, {:>3} slabs made, {:.2} % reused",
            class.slab_size_bytes,
            class.allocations,
            class.created,
            100.0 * class.reused as f64 / class.allocations as f64
        );
    }
    println!(
        "{} bytes were in use at once at most, {} are now; the limit is {}",
        stats.peak_in_use_bytes, stats.in_use_bytes, stats.limit_bytes
    );
    Ok(())
}

/// Messages of all sizes, then one that claims to be of 3 GiB. A message is its length, four bytes, and its bytes.
fn send_messages(socket: TcpStream) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(4711);
    let mut out = BufWriter::new(socket);
    let content: Vec<u8> = (0..40_000_usize).map(|at| at.to_le_bytes()[0]).collect();
    for _ in 0..MESSAGES {
        let length = if random.u8(..) < 8 { random.usize(4096..40_000) } else { random.usize(40..900) };
        out.write_all(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes())?;
        out.write_all(&content[..length])?;
    }
    out.write_all(&(3_u32 << 30).to_be_bytes())?;
    out.flush()
}

/// Reads messages until the peer has no more, or claims what is never granted.
fn receive(heap: &Arc<Heap>, socket: TcpStream, worker: &SyncSender<Bytes>) -> Result<(), Box<dyn Error>> {
    let mut from = BufReader::new(socket);
    loop {
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        let mut block = loop {
            match heap.shared_block(u32::from_be_bytes(length).into()) {
                // The worker has it all: not reading any further makes the peer wait too.
                Err(BlockError::Memory(_)) => thread::sleep(Duration::from_millis(1)),
                outcome => break outcome?,
            }
        };
        from.read_exact(&mut block)?;
        worker.send(block.into_bytes())?;
    }
}

/// The worker: has each message for as long as it needs it, and drops it.
fn add_up(messages: &Receiver<Bytes>) -> (u64, u64) {
    messages.iter().fold((0, 0), |(count, sum), message| {
        (count + 1, sum + message.iter().map(|byte| u64::from(*byte)).sum::<u64>())
    })
}
