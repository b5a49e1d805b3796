//! The program under test: started on a free port, listened to, and ended whatever the test does.

use super::{Answer, Client, JSON, OCTETS, PATIENCE, Samples, description, wait_until};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use tempfile::TempDir;

/// How a server is to be started.
#[derive(Default)]
pub(crate) struct Starting {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A program that runs, or has ended. Killed when it is dropped.
pub(crate) struct Server {
    address: Option<SocketAddr>,
    process: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl Starting {
    /// Sets a key with `--set`.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Starting {
        self.arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        self
    }

    /// Sets a name of the environment, which is empty otherwise.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Starting {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it on a free port and waits until it listens.
    pub(crate) fn start(self) -> Server {
        self.start_at(0)
    }

    /// Starts it on this port and waits until it listens.
    pub(crate) fn start_at(self, port: u16) -> Server {
        let mut server = self.set("server.port", &port.to_string()).launch();
        wait_until("the server says where it listens", || {
            let log = server.log();
            let address = log.split("listening on http://").nth(1).and_then(|rest| rest.split(',').next());
            server.address = address.map(|address| address.parse().expect("an address and a port"));
            if server.address.is_none() && !server.is_running() {
                let code = server.exit_code();
                panic!("the server did not start, exit code {code}: {}", server.log());
            }
            server.address.is_some()
        });
        description(&server); // while it surely answers: some tests stop it
        server
    }

    /// Runs it with what was set and nothing else, and waits for its end: exit code and standard error.
    pub(crate) fn run_to_end(self) -> (i32, String) {
        let mut server = self.launch();
        let code = server.exit_code();
        (code, server.log())
    }

    fn launch(self) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_maas"));
        command.current_dir(directory.path()).env_clear();
        // Not the machine that tests run on: how full that is would change what is answered.
        command.env("MAAS__PRESSURE__CGROUP_ROOT", directory.path());
        command.envs(self.environment).args(self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the program was built for this test");
        let errors = process.stderr.take().expect("standard error is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let written = log.clone();
        let reader = std::thread::spawn(move || {
            let mut errors = BufReader::new(errors);
            let mut line = Vec::new();
            while errors.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                written.lock().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Server { address: None, process, log, reader: Some(reader), _directory: directory }
    }
}

impl Server {
    /// A server with the defaults.
    pub(crate) fn start() -> Server {
        Starting::default().start()
    }

    /// A server of ten slabs of 1024 bytes.
    pub(crate) fn of_ten_slabs() -> Server {
        Starting::default().environment("MAX_POOL_SIZE", "10240").environment("SLAB_SIZES", "1024").start()
    }

    /// How to start a server with something else than the defaults.
    pub(crate) fn with() -> Starting {
        Starting::default()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("a started server has said where it listens")
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// One call on a connection of its own.
    pub(crate) fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        self.connect().call(method, target, headers, body)
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.call("GET", target, &[], "")
    }

    pub(crate) fn delete(&self, target: &str) -> Answer {
        self.call("DELETE", target, &[], "")
    }

    pub(crate) fn post(&self, body: &str) -> Answer {
        self.call("POST", "/allocate", &[JSON], body)
    }

    /// Posts JSON to a route.
    pub(crate) fn post_to(&self, target: &str, body: &str) -> Answer {
        self.call("POST", target, &[JSON], body)
    }

    /// Posts raw bytes to `/allocate`, with this query, `?` included.
    pub(crate) fn store(&self, query: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("POST", &format!("/allocate{query}"), &[OCTETS], body)
    }

    /// One of the numbers in `/stats`, by its path of members.
    pub(crate) fn stat(&self, pointer: &str) -> Value {
        let stats = self.get("/stats").json();
        stats.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {stats}")).clone()
    }

    /// Allocates so many bytes, which must be granted: the allocation body.
    pub(crate) fn allocate(&self, size_bytes: u64) -> Value {
        let answer = self.post(&format!("{{\"size_bytes\":{size_bytes}}}"));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    pub(crate) fn samples(&self) -> Samples {
        Samples::parse(&self.get("/metrics").text())
    }

    /// Does something that must leave the pool as it is, and the service without an error of its own.
    pub(crate) fn untouched_by(&self, deed: impl FnOnce()) {
        let of_pool = || {
            let stats = self.get("/stats").json();
            (stats["memory"].clone(), stats["slab_sizes"].clone(), stats["peak_in_use_bytes"].clone())
        };
        let before = of_pool();
        deed();
        assert_eq!(of_pool(), before, "the pool has changed");
        wait_until("nothing is in flight", || self.get("/stats").json()["inflight_bytes"] == 0);
        let samples = self.samples();
        assert!(samples.server_errors().is_empty(), "the service failed: {:?}", samples.server_errors());
    }

    /// What was logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().clone()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} is logged"), || self.log().contains(text));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id()).expect("process ids are small");
        kill_process(Pid::from_raw(id).expect("not zero"), signal).expect("the program runs");
    }

    /// Waits until it has ended and all it said was read.
    pub(crate) fn exit_code(&mut self) -> i32 {
        wait_until("the program ends", || !self.is_running());
        self.reader.take().expect("the end is awaited once").join().expect("reading does not panic");
        let status = self.process.wait().expect("it has ended");
        status.code().expect("it ended by itself")
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.exit_code()
    }

    fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("the program is our child").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("what the server logged (waits are bounded by {PATIENCE:?}):\n{}", self.log());
        }
    }
}
