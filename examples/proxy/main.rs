//! A TCP proxy whose buffers come from a pool.
//!
//! ```text
//! cargo run --release --example proxy -- 127.0.0.1:8080 127.0.0.1:80     forwards every connection both ways
//! cargo run --release --example proxy -- measure                         compares pooled with plain buffers
//! ```
//!
//! Statistics are printed every `--stats-seconds`, on SIGUSR1, and when SIGINT or SIGTERM ends it.
//! `forward.rs` is the proxy, and the part to copy; `counting.rs` counts what it allocates, `measure.rs` is the load,
//! and `in_process.rs` what a buffer costs by itself.

mod counting;
mod forward;
mod in_process;
mod measure;

use forward::{Buffers, Counts, Hold, PlainBuffers, Proxy};
use maas::slab::{BucketStats, BufferPool};
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: proxy LISTEN TARGET [--buffers plain|pooled] [--hold connection|flow] [--grow] \
    [--connections N] [--limit-mib N] [--workers N] [--stats-seconds N]\n       \
    proxy measure [--rounds N] [--bulk-mib N] [--short N] [--idle N]";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What can be set.
struct Options {
    listen: SocketAddr,
    target: SocketAddr,
    /// Buffers come from a pool; else each is a `BytesMut` of its own.
    is_pooled: bool,
    hold: Hold,
    grows: bool,
    connections_max: usize,
    limit_bytes: u64,
    /// Threads of the runtime; 0: as many as CPUs.
    workers: usize,
    stats_every: Option<Duration>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Options, Failure> {
        let [listen, target, flags @ ..] = words else { return Err(USAGE.into()) };
        let mut options = Options {
            listen: listen.parse()?,
            target: target.parse()?,
            is_pooled: true,
            hold: Hold::Connection,
            grows: false,
            connections_max: 10_000,
            limit_bytes: 256 << 20,
            workers: 0,
            stats_every: None,
        };
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            if flag == "--grow" {
                options.grows = true;
                continue;
            }
            let value = flags.next().ok_or(USAGE)?.as_str();
            match (flag.as_str(), value) {
                ("--buffers", "plain" | "pooled") => options.is_pooled = value == "pooled",
                ("--hold", "connection") => options.hold = Hold::Connection,
                ("--hold", "flow") => options.hold = Hold::Flow,
                ("--connections", _) => options.connections_max = value.parse()?,
                ("--limit-mib", _) => options.limit_bytes = value.parse::<u64>()? << 20,
                ("--workers", _) => options.workers = value.parse()?,
                ("--stats-seconds", _) => options.stats_every = Some(Duration::from_secs(value.parse()?)),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

/// The value after a flag, or what it is without one.
fn flag<T: FromStr>(words: &[String], name: &str, default: T) -> Result<T, Failure>
where
    T::Err: Into<Failure>,
{
    match words.iter().position(|word| word == name) {
        Some(at) => words.get(at + 1).ok_or(USAGE)?.parse().map_err(Into::into),
        None => Ok(default),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    raise_file_limit();
    let done = match words.first().map(String::as_str) {
        Some("measure") => measure::run(&words[1..]),
        _ => Options::parse(&words).and_then(serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Two sockets a connection: as many files as may be.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it stays as it is, fewer connections are possible; `accept` tells.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn runtime(workers: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if workers > 0 {
        builder.worker_threads(workers);
    }
    Ok(builder.enable_all().build()?)
}

fn serve(options: Options) -> Result<(), Failure> {
    let runtime = runtime(options.workers)?;
    if options.is_pooled {
        let pool = BufferPool::builder().limit_bytes(options.limit_bytes).build()?;
        let told = pool.clone();
        return runtime.block_on(forward_until_stopped(&options, pool, move |text| tell_pool(text, &told)));
    }
    runtime.block_on(forward_until_stopped(&options, PlainBuffers, |_| ()))
}

/// Forwards until a signal ends it, and prints the numbers whenever they are asked for.
async fn forward_until_stopped(
    options: &Options,
    buffers: impl Buffers,
    tell_buffers: impl Fn(&mut String),
) -> Result<(), Failure> {
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let proxy = Arc::new(Proxy::new(options.target, options.hold, options.grows, buffers));
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut asked = signal(SignalKind::user_defined1())?;
    let never = Duration::from_secs(u64::from(u32::MAX));
    let every = options.stats_every.unwrap_or(never).max(Duration::from_secs(1));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let forwarding = Arc::clone(&proxy).accept(listener, options.connections_max);
    tokio::pin!(forwarding);
    let tell = |counts: &Counts| {
        let mut text = String::new();
        tell_buffers(&mut text);
        tell_process(&mut text, counts);
        println!("{}", text.trim_end());
    };
    loop {
        tokio::select! {
            () = &mut forwarding => {}
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = asked.recv() => tell(&proxy.counts),
            _ = ticks.tick() => tell(&proxy.counts),
        }
    }
    tell(&proxy.counts);
    Ok(())
}

/// One line of `name=value`, the last of a report: `measure` reads it.
fn tell_process(text: &mut String, counts: &Counts) {
    let allocated = counting::allocated();
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_us = cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1000;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let status_kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let _ = writeln!(
        text,
        "report open={} connections={} failed={} forwarded_bytes={} allocations={} allocated_bytes={} \
         large_allocations={} large_allocated_bytes={} rss_kib={} peak_rss_kib={} cpu_us={cpu_us}",
        count(&counts.open),
        count(&counts.connections),
        count(&counts.failed),
        count(&counts.forwarded_bytes),
        allocated.calls,
        allocated.bytes,
        allocated.large_calls,
        allocated.large_bytes,
        status_kib("VmRSS"),
        status_kib("VmHWM"),
    );
}

/// One line of `name=value`, and one for each bucket in use.
fn tell_pool(text: &mut String, pool: &BufferPool) {
    let stats = pool.stats();
    let sum = |count: fn(&BucketStats) -> u64| stats.buckets.iter().map(count).sum::<u64>();
    let _ = writeln!(
        text,
        "pool limit_bytes={} in_use_bytes={} kept_bytes={} acquired={} created={} reused={} refused={}",
        stats.limit_bytes,
        stats.in_use_bytes,
        stats.kept_bytes,
        sum(|bucket| bucket.acquired),
        sum(|bucket| bucket.created),
        sum(|bucket| bucket.reused),
        stats.refused
    );
    for bucket in stats.buckets.iter().filter(|bucket| bucket.created > 0) {
        let _ = writeln!(
            text,
            "  {} bytes: {} created, {} reused ({:.2} %), {} in use, {} kept of {}, {} dropped, {} outgrown",
            bucket.size_bytes,
            bucket.created,
            bucket.reused,
            100.0 * bucket.reuse_rate(),
            bucket.in_use,
            bucket.kept,
            bucket.kept_limit,
            bucket.dropped,
            bucket.outgrown
        );
    }
}
