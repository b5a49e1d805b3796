//! The command line: one file a command. `maas` alone is `maas serve`.
//!
//! Only here does the program ask its process for arguments, environment and directory.

mod ask;
mod check;
mod doctor;
mod healthcheck;
mod logs;
mod recommend;
mod replay;
mod serve;
mod show;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Flag, Loaded, Problems, Sources};
use crate::limits::{self, Look};

/// Exit code of a wrong configuration: EX_CONFIG of sysexits.h.
const WRONG_CONFIGURATION: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  maas                                        start with the defaults, config.toml, .env and the environment
  maas --port 8080                            start on another port
  maas --config /etc/maas.toml                start with this file
  maas --set memory.max_pool_size=512MiB      set any key; may be repeated, the later one wins
  maas config                                 print every key, its value and where it comes from
  maas config --check config.toml             check one file
  maas config --profile database              print what a profile sets
  maas healthcheck                            ask a running server whether it is up
  maas doctor                                 say what is wrong with it, and what to do about it
  maas recommend                              say which size classes fit what its clients ask for
  maas recommend --file sizes.txt             the same for sizes in a file, one a line
  maas replay trace.csv                       forecast a recorded trace of seconds,used_bytes,total_bytes";

const EXIT_CODES: &str = "\
Configuration: defaults < profile < config.toml < .env < environment < flags. Every key has a name in the environment:
  server.port is MAAS__SERVER__PORT, and SERVER_PORT for short; .env.example lists the short names.
Logs go to standard error: RUST_LOG=debug says more, LOG_FORMAT=json writes one JSON object a line.

Exit codes:
  0   done
  1   failed
  2   wrong command line
  78  wrong configuration";

#[derive(Parser)]
#[command(
    name = "maas",
    version,
    about = "Memory as a service: one bounded pool of memory that any process leases over HTTP",
    before_help = EXAMPLES,
    after_help = EXIT_CODES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Start the service (what `maas` alone does)
    Serve(Settings),
    /// Print every key, its value and where it comes from; the output is valid TOML
    Config {
        #[command(flatten)]
        settings: Settings,
        /// Check this file alone and print what is wrong with it
        #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "host", "port", "set"])]
        check: Option<PathBuf>,
        /// Print what this profile sets, and nothing else
        #[arg(long, value_name = "NAME", conflicts_with_all = ["config", "host", "port", "set", "check"])]
        profile: Option<String>,
    },
    /// Ask a running server whether it is up: exit code 0 on status 200, else 1
    Healthcheck {
        #[command(flatten)]
        settings: Settings,
        /// Whole URL to ask, such as http://127.0.0.1:3000/health (recommend's --url has no path); without it, /health at
        /// the host and port of the configuration
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Say what is wrong and what to do about it, of a running server, or where none answers of this machine: exit code 1 where
    /// there is a problem
    Doctor(doctor::Question),
    /// Say which size classes and pool size fit what clients ask for, ready to paste into config.toml
    Recommend(recommend::Question),
    /// Forecast a recorded trace of memory in use, row by row
    Replay {
        /// CSV of seconds,used_bytes,total_bytes, with or without that header; `-` is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// The flags that say what the configuration is.
#[derive(Args)]
struct Settings {
    /// File to read in place of config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address or host name to listen on (server.host)
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Port to listen on (server.port)
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    port: Option<String>,
    /// Set any key; may be repeated, the later one wins; --host and --port win over it
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => run(arguments),
        Err(error) => {
            // Nothing can be said where the terminal is gone.
            let _ = error.print();
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

fn run(arguments: Arguments) -> ExitCode {
    match arguments.command.unwrap_or(Command::Serve(arguments.settings)) {
        Command::Serve(settings) => serve::run(settings),
        Command::Config { check: Some(file), .. } => check::run(&file),
        Command::Config { profile: Some(name), .. } => show::profile(&name),
        Command::Config { settings, .. } => show::run(settings),
        Command::Doctor(question) => doctor::run(question),
        Command::Recommend(question) => recommend::run(question),
        Command::Replay { file } => replay::run(&file),
        Command::Healthcheck { settings, url } => healthcheck::run(settings, url),
    }
}

impl Settings {
    /// Loads the configuration of this process. First raises the limit of open files, which bounds connections.
    fn load(self) -> Result<Loaded, Problems> {
        limits::raise_open_files();
        config::load(&self.sources(), Look::take)
    }

    fn sources(self) -> Sources {
        let flag = |flag: &str, key: &str, value| Flag { flag: flag.to_owned(), key: key.to_owned(), value };
        let mut flags: Vec<Flag> =
            self.set.into_iter().map(|(key, value)| flag("--set", &key, value)).collect();
        flags.extend(self.host.map(|host| flag("--host", "server.host", host)));
        flags.extend(self.port.map(|port| flag("--port", "server.port", port)));
        // Relative to the working directory, wherever that is: it need not have a name to be read from.
        let directory = PathBuf::new();
        Sources { directory, file: self.config, environment: std::env::vars_os().collect(), flags }
    }
}

/// Says what is wrong with the configuration.
fn refuse(problems: &Problems) -> ExitCode {
    say(io::stderr(), &format!("maas: {problems}\n"));
    ExitCode::from(WRONG_CONFIGURATION)
}

/// Writes to the user. One who closes the pipe, as `head` does, has read enough.
fn say(mut out: impl Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as server.port=8080".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_become_settings_and_the_dedicated_ones_are_the_strongest() {
        let line = ["maas", "--port", "-1", "--set", "server.port=1", "--set", "server.host = h=x"];
        let arguments = Arguments::try_parse_from(line).expect("a right command line");
        let flags = arguments.settings.sources().flags;
        let pairs: Vec<(&str, &str)> =
            flags.iter().map(|flag| (flag.key.as_str(), flag.value.as_str())).collect();
        assert_eq!(pairs, [("server.port", "1"), ("server.host", " h=x"), ("server.port", "-1")]);
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            &["maas", "--set", "server.port"][..],
            &["maas", "--set", "=3"],
            &["maas", "launch"],
            &["maas", "--port", "1", "serve"],
            &["maas", "config", "--check", "a.toml", "--port", "1"],
        ] {
            assert!(Arguments::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
