//! Measures the proxy with pooled buffers against the same proxy with plain ones.
//!
//! The proxy is a process of its own with one worker thread, started anew for each case, kind of buffers and round; the load
//! is here, on another. Kinds take turns, and who begins changes with each round. Figures are medians over the rounds with
//! the least and the most, and count from after a first connection to the end of the case.

use super::{Failure, flag, in_process, runtime};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Connections that a bulk transfer has at a time.
const BULK_CONNECTIONS: usize = 4;

/// Short connections that are open at a time.
const SHORT_CONNECTIONS: usize = 64;

/// What a short connection, or one that then idles, sends and gets back.
const REQUEST_BYTES: usize = 1024;

/// The first byte of a connection says what its target does: send as many bytes as the next eight say, or echo.
const DOWNLOAD: u8 = b'D';
const ECHO: u8 = b'E';

/// One comparison.
struct Case {
    name: &'static str,
    load: Load,
    /// Flags of the proxy, besides the kind of buffers.
    flags: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Load {
    Bulk,
    Short,
    Idle,
}

/// How much of each load.
#[derive(Clone, Copy)]
struct Amounts {
    bulk_bytes: u64,
    short: usize,
    idle: usize,
}

const CASES: [Case; 5] = [
    Case { name: "bulk", load: Load::Bulk, flags: &[] },
    Case { name: "bulk, growing", load: Load::Bulk, flags: &["--grow"] },
    Case { name: "short", load: Load::Short, flags: &[] },
    Case { name: "idle", load: Load::Idle, flags: &[] },
    Case { name: "idle, held while bytes flow", load: Load::Idle, flags: &["--hold", "flow"] },
];

/// What takes turns; pooled twice, so that it is seen what a difference means.
const KINDS: [&str; 3] = ["plain", "pooled", "pooled"];

/// Figures of one run, by name.
type Figures = BTreeMap<&'static str, f64>;

pub(super) fn run(words: &[String]) -> Result<(), Failure> {
    let rounds: usize = flag(words, "--rounds", 7)?;
    let amounts = Amounts {
        bulk_bytes: flag::<u64>(words, "--bulk-mib", 2048)? << 20,
        short: flag(words, "--short", 4000)?,
        idle: flag(words, "--idle", 1000)?,
    };
    let runtime = runtime(1)?;
    let target = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve_target(listener));
        Ok::<_, Failure>(address)
    })?;
    let mut text = String::from(
        "| case | figure | plain | pooled | pooled / plain (least–most) | pooled / pooled (least–most) |\n|---|---|---|---|---|---|\n",
    );
    in_process::tell(&mut text, rounds.max(1))?;
    for case in &CASES {
        let mut runs: [Vec<Figures>; KINDS.len()] = Default::default();
        for round in 0..rounds.max(1) {
            for turn in 0..KINDS.len() {
                let kind = (round + turn) % KINDS.len();
                runs[kind].push(measure(case, KINDS[kind], target, amounts, &runtime)?);
            }
        }
        tell(&mut text, case, &runs);
    }
    print!("{text}");
    Ok(())
}

/// One line for each figure of a case.
fn tell(text: &mut String, case: &Case, [plain, pooled, again]: &[Vec<Figures>; KINDS.len()]) {
    for name in plain[0].keys() {
        let of = |runs: &[Figures]| -> Vec<f64> { runs.iter().map(|figures| figures[name]).collect() };
        tell_row(text, &format!("{} | {name}", case.name), [&of(plain), &of(pooled), &of(again)]);
    }
}

/// A row: medians, and ratios of the same rounds.
pub(super) fn tell_row(text: &mut String, head: &str, [plain, pooled, again]: [&[f64]; KINDS.len()]) {
    let [theirs, ours] = [plain, pooled].map(|figures| rounded(median(figures)));
    let [over_plain, over_itself] = [ratio(pooled, plain), ratio(pooled, again)];
    let _ = writeln!(text, "| {head} | {theirs} | {ours} | {over_plain} | {over_itself} |");
}

/// The median of the rounds' ratios, the least and the most.
fn ratio(over: &[f64], under: &[f64]) -> String {
    let ratios: Vec<f64> = over.iter().zip(under).map(|(over, under)| over / under).collect();
    let least = ratios.iter().copied().fold(f64::MAX, f64::min);
    let most = ratios.iter().copied().fold(f64::MIN, f64::max);
    match median(&ratios) {
        of_rounds if of_rounds.is_finite() => format!("{of_rounds:.3} ({least:.3}–{most:.3})"),
        _ => String::new(), // of nothing over nothing
    }
}

pub(super) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub(super) fn rounded(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        1.0.. => format!("{figure:.2}"),
        _ => format!("{figure:.4}"),
    }
}

/// A proxy in a process of its own.
struct Running {
    process: Child,
    lines: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Running {
    fn start(kind: &str, flags: &[&str], target: SocketAddr) -> Result<Running, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["127.0.0.1:0", &target.to_string(), "--workers", "1", "--buffers", kind])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("its output is piped")?);
        let mut first = String::new();
        lines.read_line(&mut first)?;
        let address = first.trim().strip_prefix("listening on ").ok_or("the proxy did not start")?.parse()?;
        Ok(Running { process, lines, address })
    }

    /// Its numbers, after a signal that asks for them.
    fn report(&mut self, signal: rustix::process::Signal) -> Result<BTreeMap<String, f64>, Failure> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal)?;
        let mut report = BTreeMap::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return Err("the proxy ended without a report".into());
            }
            let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
            report.extend(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))));
            if line.starts_with("report ") {
                return Ok(report);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

/// One run of one case with one kind of buffers.
fn measure(
    case: &Case,
    kind: &str,
    target: SocketAddr,
    amounts: Amounts,
    runtime: &tokio::runtime::Runtime,
) -> Result<Figures, Failure> {
    use rustix::process::Signal;
    let mut proxy = Running::start(kind, case.flags, target)?;
    let address = proxy.address;
    runtime.block_on(echo(address))?;
    let before = proxy.report(Signal::USR1)?;
    let begin = Instant::now();
    let open = runtime.block_on(run_load(case.load, address, amounts))?;
    let seconds = begin.elapsed().as_secs_f64();
    let after = proxy.report(Signal::INT)?;
    drop(open);
    let of = |report: &BTreeMap<String, f64>, name| report.get(name).copied().unwrap_or(0.0); // plain has no pool
    let grown = |name| of(&after, name) - of(&before, name);
    let (connections, mebibytes) = (grown("connections"), grown("forwarded_bytes") / f64::from(1 << 20));
    if after["failed"] > 0.0 {
        return Err(format!("{} connections failed: {}, {kind}", after["failed"], case.name).into());
    }
    let (units, cpu, rate) = match case.load {
        Load::Bulk => (mebibytes / 1024.0, "CPU ms a GiB", Some("GiB a second")),
        Load::Short => (connections, "CPU ms a connection", Some("connections a second")),
        Load::Idle => (connections, "CPU ms a connection", None),
    };
    let mut figures = Figures::from([
        (cpu, grown("cpu_us") / 1000.0 / units),
        ("allocations a connection", grown("allocations") / connections),
        ("buffers made a connection", (grown("large_allocations") + grown("created")) / connections),
        ("bytes allocated a connection", grown("allocated_bytes") / connections),
        ("resident KiB at the end", after["rss_kib"]),
        ("resident KiB at most", after["peak_rss_kib"]),
    ]);
    figures.insert("reuse rate", grown("reused") / grown("acquired").max(1.0));
    figures.extend(rate.map(|name| (name, units / seconds)));
    Ok(figures)
}

/// Runs a load; connections that are still open at its end are returned.
async fn run_load(load: Load, proxy: SocketAddr, amounts: Amounts) -> Result<Vec<TcpStream>, Failure> {
    match load {
        Load::Bulk => {
            let bytes = amounts.bulk_bytes / BULK_CONNECTIONS as u64;
            let all: Vec<_> = (0..BULK_CONNECTIONS).map(|_| tokio::spawn(download(proxy, bytes))).collect();
            for one in all {
                one.await??;
            }
            Ok(Vec::new())
        }
        Load::Short => {
            let each = amounts.short / SHORT_CONNECTIONS;
            let all: Vec<_> = (0..SHORT_CONNECTIONS).map(|_| tokio::spawn(echo_times(each, proxy))).collect();
            for one in all {
                one.await??;
            }
            Ok(Vec::new())
        }
        Load::Idle => {
            let mut open = Vec::new();
            for _ in 0..amounts.idle {
                open.push(exchange(proxy).await?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(open)
        }
    }
}

/// Reads so many bytes through the proxy.
async fn download(proxy: SocketAddr, bytes: u64) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_u8(DOWNLOAD).await?;
    stream.write_u64(bytes).await?;
    stream.shutdown().await?;
    let (mut room, mut read) = (vec![0; 256 << 10], 0);
    loop {
        match stream.read(&mut room).await? {
            0 => break,
            more => read += more as u64,
        }
    }
    if read == bytes { Ok(()) } else { Err(format!("{read} of {bytes} bytes came").into()) }
}

/// A whole connection: a request, its echo, the end.
async fn echo(proxy: SocketAddr) -> Result<(), Failure> {
    let mut stream = exchange(proxy).await?;
    stream.shutdown().await?;
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err("more came back than was sent".into()),
    }
}

/// So many whole connections, one after the other.
async fn echo_times(times: usize, proxy: SocketAddr) -> Result<(), Failure> {
    for _ in 0..times {
        echo(proxy).await?;
    }
    Ok(())
}

/// A request and its echo, on a connection that stays open.
async fn exchange(proxy: SocketAddr) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(proxy).await?;
    let mut request = [0x5A; REQUEST_BYTES];
    request[0] = ECHO;
    stream.write_all(&request).await?;
    let mut answer = [0; REQUEST_BYTES];
    stream.read_exact(&mut answer).await?;
    if answer == request { Ok(stream) } else { Err("the echo differs".into()) }
}

/// Answers as each connection's first byte says.
async fn serve_target(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let _ = answer(stream).await; // the other end tells what it misses
        });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let first = stream.read_u8().await?;
    if first == DOWNLOAD {
        let content = vec![0xA5; 256 << 10];
        let mut left = stream.read_u64().await?;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(content.len());
            stream.write_all(&content[..part]).await?;
            left -= part as u64;
        }
        return stream.shutdown().await;
    }
    stream.set_nodelay(true)?;
    let mut echoed = BytesMut::with_capacity(REQUEST_BYTES);
    echoed.put_u8(first);
    while stream.read_buf(&mut echoed).await? > 0 {
        stream.write_all_buf(&mut echoed).await?;
        echoed.clear();
    }
    stream.shutdown().await
}
