//! The composition root: builds the rooms, binds, starts the tasks, and stops them in order.

use crate::clock::Now;
use crate::config::{Loaded, hide_credentials};
use crate::http::answer::Answerer;
use crate::http::listener::{self, Listener};
use crate::http::server::{self, Drained, Stop};
use crate::http::signal::Signal;
use crate::http::traffic::Traffic;
use crate::http::{self, VERSION};
use crate::limits;
use crate::memory::Heap;
use crate::pool::Pool;
use crate::pressure::{Gauge, SystemReading};
use crate::tasks;
use crate::units::ByteCount;
use anyhow::Context as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, error, info, warn};

/// Starts the service that `loaded` describes, and returns when it has ended: 0 when it was asked to stop and every
/// running request was answered, else 1.
pub fn serve(loaded: Loaded) -> ExitCode {
    log_panics();
    let served = runtime(loaded.config.worker_threads)
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(run(&loaded)));
    match served {
        Ok(Drained::Cleanly) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(Drained::DeadlinePassed { running }) => {
            error!(running, "stopped at the drain deadline; running requests were broken off");
            ExitCode::FAILURE
        }
        Ok(Drained::Aborted { running }) => {
            error!(running, "stopped at the second signal; running requests were broken off");
            ExitCode::FAILURE
        }
        Err(failure) => {
            error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

/// A runtime with as many workers as were asked for, or as there are CPUs. One worker needs no work stealing.
fn runtime(worker_threads: u32) -> std::io::Result<Runtime> {
    let mut builder = match worker_threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if worker_threads > 0 {
        builder.worker_threads(worker_threads as usize);
    }
    builder.enable_all().build()
}

/// A panic becomes one line of the log, in the log's own format.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string);
        error!(message, place, "panic");
    }));
}

async fn run(loaded: &Loaded) -> anyhow::Result<Drained> {
    let config = &loaded.config;
    let started = Now::read();
    let stop = stop_on_signals().context("listening for signals")?;
    // Bound before anything else is built: a port that is taken is found at once.
    let listener = listener::bind(&config.server.host, config.server.port).await?;
    let heap = Heap::new(&config.memory).context("making the pool")?;
    let gauge = Arc::new(Gauge::new(config.pressure.watermarks));
    read_system(&config.system_root(), config.pressure.psi, &gauge);
    let pool = Arc::new(Pool::with_gauge(heap, &config.pool, gauge));
    let backend = tasks::backend_link(&config.backend, started);
    let pushgateway = tasks::pushgateway_link(&config.prometheus, started);
    let traffic = Arc::new(Traffic::default());
    let answerer = Answerer::new(
        &http::Config {
            event_interval: config.pressure.interval,
            system_root: config.system_root(),
            ..config.server.clone()
        },
        pool.clone(),
        traffic.clone(),
        backend.clone(),
        pushgateway.clone(),
        started,
    );
    let api = answerer.api().clone();
    let text = {
        let api = api.clone();
        Arc::new(move || {
            let api = api.clone();
            Box::pin(async move { api.metrics_text().await })
                as std::pin::Pin<Box<dyn Future<Output = String> + Send>>
        })
    };
    let instance = instance(&listener, &config.server.host);
    let mut tasks = tasks::start(&config.backend, &config.prometheus, instance, text, backend, pushgateway)
        .context("starting the pushes")?;
    tasks.start_janitor(pool.clone(), config.memory.adaptive.interval).context("starting the janitor")?;
    tasks.keep_leases(pool.clone());
    tasks.watch_pressure(pool.clone(), &config.pressure);
    tasks.watch_leaks(pool.clone(), config.leaks);
    if config.memory.canaries {
        tasks.sweep_slabs(pool.clone());
    }
    let signal = Signal::default();
    {
        let signal = signal.clone();
        tasks.keep_readers_time(pool.clone(), Box::new(move || signal.cut_overdue_readers()));
    }
    summarise(loaded, listener.address(), &pool).await;

    let stopping = {
        let (api, shutdown) = (api.clone(), stop.shutdown.clone());
        tokio::spawn(async move {
            shutdown.cancelled().await;
            api.stop();
        })
    };
    let answer = move |request, arrival| answerer.clone().answer(request, arrival);
    let abort = stop.abort.clone();
    let drained = server::serve(listener, &config.server, traffic, signal, stop, answer).await;
    stopping.abort();
    tokio::select! {
        biased;
        // The second signal ends also what a peer holds up.
        () = abort.cancelled(), if drained == Drained::Cleanly => Ok(Drained::Aborted { running: 0 }),
        () = tasks.stop() => Ok(drained),
    }
}

/// Has the gauge read the limits of our control groups, and how much memory stalls, where the system tells either.
fn read_system(root: &limits::Root, psi: bool, gauge: &Gauge) {
    let memory = limits::Memory::find(root);
    let stalls = psi.then(|| limits::Stalls::find(root)).filter(limits::Stalls::is_told);
    debug!(groups = memory.has_groups(), stalls = stalls.is_some(), "the system tells of memory");
    if memory.has_groups() || stalls.is_some() {
        gauge.read_system_by(Box::new(move || {
            let now = Now::read();
            let usage = memory.usage(now);
            SystemReading {
                used_bytes: usage.map_or(0, |usage| usage.used_bytes),
                limit_bytes: usage.map_or(0, |usage| usage.limit_bytes),
                psi_avg10: stalls.as_ref().and_then(|stalls| stalls.some_avg10(now)),
            }
        }));
    }
}

/// What the Pushgateway calls us: the address where we can be scraped.
fn instance(listener: &Listener, host: &str) -> String {
    let port = listener.address().port();
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The first SIGTERM or SIGINT asks for a clean stop, the second for an immediate one.
fn stop_on_signals() -> std::io::Result<Stop> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = Stop::default();
    let told = stop.clone();
    tokio::spawn(async move {
        for token in [&told.shutdown, &told.abort] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "told to stop");
            token.cancel();
        }
    });
    Ok(stop)
}

/// Says what was started, one line a topic, and warns where it cannot hold.
async fn summarise(loaded: &Loaded, address: SocketAddr, pool: &Pool) {
    let config = &loaded.config;
    let file = loaded
        .file
        .as_ref()
        .map_or_else(|| "none, all defaults".to_owned(), |file| file.display().to_string());
    info!(version = VERSION, config = file, "maas");
    info!("listening on http://{address}, described at http://{address}/openapi.json");

    let stats = pool.stats().await;
    let _ = pool.health(&stats, Now::read()); // the first look: from here on it is known what is recent
    let limit = stats.heap.limit_bytes;
    info!(
        ready = %ByteCount(stats.heap.pool_size_bytes),
        classes = stats.heap.classes.len(),
        allocations_max = stats.allocations_max,
        "pool of {}", ByteCount(limit)
    );
    let metadata = stats.metadata_bytes_max + http::ORIGINS_BYTES_MAX;
    let inflight = stats.inflight_bytes_max;
    let whole = limit.saturating_add(metadata).saturating_add(inflight);
    match &loaded.limits.memory {
        Some(above) => {
            info!(
                limit = %ByteCount(above.bytes), source = %above.source,
                pool = limit, metadata_max = metadata, inflight_max = inflight, whole = %ByteCount(whole),
                "memory limit above us"
            );
            if whole > above.bytes {
                warn!(
                    "pool, metadata and bytes in flight can together reach {}, more than the memory limit of {}: the system may end the process when the pool is full",
                    ByteCount(whole),
                    ByteCount(above.bytes)
                );
            }
        }
        None => info!("no memory limit above us was found"),
    }
    if config.backend.is_configured() {
        info!(backend = hide_credentials(&config.backend.server_url), "pushing to a backend");
    } else {
        info!("no backend configured");
    }
    if config.prometheus.push_enabled {
        info!(pushgateway = hide_credentials(&config.prometheus.pushgateway_url), "pushing to a Pushgateway");
    }
}
