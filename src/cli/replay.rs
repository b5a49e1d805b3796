//! `maas replay`: a recorded trace of memory in use, forecast row by row as if it happened now.
//!
//! CSV in and CSV out, a row for a row. Each row is forecast from it and those before it, and written before the next one
//! is read, so that a trace that is still growing can be piped through.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use super::say;
use crate::pressure::{Forecast, Forecaster, Level, Sample, Watermarks};

/// What a row has; and the line that may stand above the first.
const COLUMNS: [&str; 3] = ["seconds", "used_bytes", "total_bytes"];

/// What is written above the first row.
const HEADER: &str = "seconds,level,predicted_30s,predicted_60s,predicted_120s,confidence,trend,\
                      seconds_to_critical,action\n";

/// A longer line is none of a trace.
const LINE_BYTES_MAX: u64 = 1024;

/// How much of what is wrong is shown.
const SHOWN_LETTERS_MAX: usize = 40;

/// Why a trace ended before its end.
enum Ended {
    /// Who reads has read enough.
    NobodyReads,
    Wrong(String),
}

/// Reads the trace in this file, or from standard input if it is `-`, and writes what was to be expected at each row.
pub(super) fn run(path: &Path) -> ExitCode {
    let ended = if path.as_os_str() == "-" {
        replay(io::stdin().lock(), &mut io::stdout().lock()).map_err(|ended| ended.at("standard input"))
    } else {
        replay_file(path)
    };
    match ended {
        Ok(()) | Err(Ended::NobodyReads) => ExitCode::SUCCESS,
        Err(Ended::Wrong(why)) => {
            say(io::stderr(), &format!("maas replay: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

fn replay_file(path: &Path) -> Result<(), Ended> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| Ended::Wrong(format!("cannot read {shown}: {error}")))?;
    // It can be opened all the same, and then its first line would be to blame.
    if file.metadata().is_ok_and(|what| what.is_dir()) {
        return Err(Ended::Wrong(format!("cannot read {shown}: it is a directory")));
    }
    // What another program still writes is no regular file: its rows are wanted when they come.
    let is_whole = file.metadata().is_ok_and(|what| what.is_file());
    let mut out = BufWriter::with_capacity(if is_whole { 1 << 16 } else { 0 }, io::stdout().lock());
    let ended = replay(BufReader::new(file), &mut out);
    let flushed = out.flush().map_err(Ended::from);
    ended.map_err(|ended| ended.at(&shown.to_string())).and(flushed)
}

impl Ended {
    fn at(self, place: &str) -> Ended {
        match self {
            Ended::Wrong(why) => Ended::Wrong(format!("{place}: {why}")),
            Ended::NobodyReads => Ended::NobodyReads,
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        match error.kind() {
            ErrorKind::BrokenPipe => Ended::NobodyReads,
            _ => Ended::Wrong(format!("cannot write: {error}")),
        }
    }
}

fn replay(mut lines: impl BufRead, out: &mut impl Write) -> Result<(), Ended> {
    let mut forecaster = Forecaster::new(Watermarks::default());
    let mut line = Vec::new();
    let mut number = 0_u64;
    let mut is_first = true;
    out.write_all(HEADER.as_bytes())?;
    loop {
        line.clear();
        number += 1;
        let wrong = |why: String| Ended::Wrong(format!("line {number}: {why}"));
        let read = (&mut lines).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| wrong(error.to_string()))? == 0 {
            return Ok(());
        }
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(wrong(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        let text = str::from_utf8(&line).map_err(|_| wrong("it is no text in UTF-8".to_owned()))?;
        // Editors that write a byte order mark do so at the start.
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        let is_header = std::mem::take(&mut is_first) && is_header(text);
        if is_header {
            continue;
        }
        let row = row(text, &mut forecaster).map_err(wrong)?;
        out.write_all(row.as_bytes())?;
    }
}

fn is_header(text: &str) -> bool {
    let names = text.split(',').map(|name| name.trim().trim_matches('"'));
    names.map(str::to_ascii_lowercase).eq(COLUMNS)
}

/// The row that answers this one.
fn row(text: &str, forecaster: &mut Forecaster) -> Result<String, String> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let [seconds, used, total] = fields[..] else {
        return Err(format!("it has {} fields; expected {}", fields.len(), COLUMNS.join(",")));
    };
    let sample = Sample {
        seconds: seconds.parse().map_err(|_| format!("seconds: {} is not a number", shown(seconds)))?,
        used_bytes: bytes(used).map_err(|why| format!("used_bytes: {why}"))?,
        total_bytes: bytes(total).map_err(|why| format!("total_bytes: {why}"))?,
    };
    forecaster.record(sample).map_err(|error| error.to_string())?;
    let forecast = forecaster.forecast().expect("a sample was recorded");
    Ok(told(seconds, forecaster.level(), &forecast))
}

/// Whole bytes; `1024.0`, as programs write that calculate in floating point, is 1024.
fn bytes(text: &str) -> Result<u64, String> {
    if let Ok(bytes) = text.parse() {
        return Ok(bytes);
    }
    let number: f64 = text.parse().map_err(|_| format!("{} is not a number of bytes", shown(text)))?;
    if number < 0.0 || number.fract() != 0.0 || number >= 2f64.powi(64) || number.is_nan() {
        return Err(format!("{} is not a whole number of bytes below 2^64", shown(text)));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was looked at above")]
    Ok(number as u64)
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(SHOWN_LETTERS_MAX).collect::<String>())
}

fn told(seconds: &str, level: Level, forecast: &Forecast) -> String {
    let [soon, later, last] = forecast.predicted;
    let critical = forecast.seconds_to[usize::from(Level::Critical.number()) - 1];
    let critical = critical.map_or_else(String::new, |seconds| format!("{seconds:.1}"));
    format!(
        "{seconds},{},{soon:.4},{later:.4},{last:.4},{:.4},{},{critical},{}\n",
        level.name(),
        forecast.confidence,
        forecast.trend.name(),
        forecast.action.name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed(trace: &[u8]) -> Result<String, String> {
        let mut out = Vec::new();
        match replay(trace, &mut out) {
            Ok(()) => Ok(String::from_utf8(out).expect("it writes text")),
            Err(Ended::Wrong(why)) => Err(why),
            Err(Ended::NobodyReads) => Err("nobody reads".to_owned()),
        }
    }

    #[test]
    fn each_row_is_answered_by_one_and_headers_blank_lines_and_line_ends_of_windows_by_none() {
        let rows = "0.0,still,0.5000,0.5000,0.5000,0.0000,stable,,monitor\n";
        let expected = HEADER.to_owned() + &rows.replace("still", "normal");
        for trace in [
            "0.0,50,100",
            "0.0, 50 ,100\n",
            "seconds,used_bytes,total_bytes\n0.0,50,100\n",
            "\u{feff}Seconds,used_bytes,\"total_bytes\"\r\n\r\n0.0,50.0,1e2\r\n",
        ] {
            assert_eq!(replayed(trace.as_bytes()).as_ref(), Ok(&expected), "{trace:?}");
        }
        assert_eq!(replayed(b""), Ok(HEADER.to_owned()));
    }

    #[test]
    fn what_is_full_is_zero_seconds_away_and_more_than_all_is_all() {
        let out = replayed(b"0,95,100\n1,300,100\n").expect("a trace");
        let expected = "0,emergency,0.9500,0.9500,0.9500,0.0000,stable,0.0,emergency\n";
        assert!(out.contains(expected) && out.contains("1,emergency,1.0000,"), "{out}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_what_came_before_it_was_answered() {
        for (trace, expected) in [
            (&b"0,1,2\n1,1\n"[..], "line 2: it has 2 fields; expected seconds,used_bytes,total_bytes"),
            (b"0,1,2,3", "line 1: it has 4 fields"),
            (b"time,used,total\n", "line 1: seconds: \"time\" is not a number"),
            (b"0,1,2\nseconds,used_bytes,total_bytes\n", "line 2: seconds: \"seconds\" is not a number"),
            (b"0,-1,2", "line 1: used_bytes: \"-1\" is not a whole number of bytes"),
            (b"0,1.5,2", "line 1: used_bytes: \"1.5\" is not a whole number"),
            (b"0,1,NaN", "line 1: total_bytes: \"NaN\" is not a whole number"),
            (b"0,1,1e20", "line 1: total_bytes: \"1e20\" is not a whole number of bytes below 2^64"),
            (b"0,1,", "line 1: total_bytes: \"\" is not a number of bytes"),
            (b"0,1,0", "line 1: a sample has total_bytes = 0"),
            (b"inf,1,2", "line 1: the time of a sample is inf"),
            (b"\n5,1,2\n4,1,2\n", "line 3: a sample of 4 s comes after one of 5 s"),
            (b"0,1,\xff\n", "line 1: it is no text in UTF-8"),
        ] {
            let why = replayed(trace).expect_err("it is wrong");
            assert!(why.starts_with(expected), "{trace:?}: {why}");
        }
        let endless = vec![b'1'; 5000];
        assert_eq!(replayed(&endless), Err("line 1: it is longer than 1024 bytes".to_owned()));
        let mut out = Vec::new();
        assert!(replay(&b"0,1,2\nx,1,2\n"[..], &mut out).is_err());
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 2);
    }
}
