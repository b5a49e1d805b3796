//! The guard over instruction counts: what the hot paths execute, counted by callgrind, against committed numbers. Counts
//! repeat where times do not, so a path that has become 3 % longer is seen at once, on any machine, however busy.
//!
//! ```text
//! cargo run --release --manifest-path benches/Cargo.toml --no-default-features --bin instructions               compares
//! cargo run --release --manifest-path benches/Cargo.toml --no-default-features --bin instructions -- --renew    writes them
//! ```
//!
//! It fails where a count differs from `benches/instructions.txt` by more than 2 %; also where it is smaller, or the
//! next change could lose what this one won. The numbers hold for one compiler: with another one, and where valgrind
//! is not installed, it says so and ends well.
//!
//! Each path runs in a process of its own, under callgrind, which counts only inside of that path's function in
//! `hot_paths.rs`. Callgrind itself and not a harness around it: those compare with the last run, which is in nobody's
//! repository, and bring a runner that must be installed in the same version.

mod hot_paths;

use hot_paths::{HOT_PATHS, OPERATIONS};
use std::fmt::Write;
use std::process::{Command, ExitCode};

/// Counts may differ by this part.
const TOLERANCE: f64 = 0.02;

/// The committed numbers.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");

/// The line of the file that names the compiler begins with this.
const COMPILER: &str = "# rustc ";

/// Version and target of the compiler, if one answers.
fn compiler() -> Option<String> {
    let told = Command::new("rustc").arg("-vV").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let line = |start: &str| told.lines().find_map(|line| line.strip_prefix(start));
    Some(format!("{} for {}", line("rustc ")?, line("host: ")?))
}

/// Instructions for each operation of a hot path.
fn count(name: &str, function: &str) -> Result<f64, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let ended = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(this)
        .args(["--run", name])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let collected: Option<f64> =
        told.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match collected {
        Some(instructions) if ended.status.success() && instructions > 0.0 => {
            Ok(instructions / OPERATIONS as f64)
        }
        _ => Err(format!("{name}: callgrind counted nothing:\n{told}")),
    }
}

/// The committed number of a path.
fn committed(file: &str, name: &str) -> Option<f64> {
    file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

/// What stands in the file for these counts.
fn render(compiler: &str, counts: &[(&str, f64)]) -> String {
    let mut file = format!(
        "# Instructions of the hot paths for each operation, counted by callgrind. They hold for this compiler only:\n\
         {COMPILER}{compiler}\n\
         # benches/src/instructions/main.rs says how to compare with them and how to renew them.\n"
    );
    for (name, count) in counts {
        writeln!(file, "{name}: {count:.1}").expect("text grows");
    }
    file
}

/// Compares counts with the file, a line for each; whether all are near enough.
fn compare(file: &str, counts: &[(&str, f64)]) -> (String, bool) {
    let (mut lines, mut good) = (String::new(), true);
    for &(name, now) in counts {
        let then = committed(file, name);
        let change = then.map(|then| now / then - 1.0);
        let near = change.is_some_and(|change| change.abs() <= TOLERANCE);
        good &= near;
        let then = then.map_or("none".to_owned(), |then| format!("{then:.1}"));
        let change = change.map_or(String::new(), |change| format!("{:+.1} %", change * 100.0));
        let told = if near { "" } else { "  <- more than 2 % from the committed number" };
        writeln!(lines, "{name:<28} {now:>9.1}  committed {then:>9}  {change:>8}{told}").expect("text grows");
    }
    (lines, good)
}

fn skipped(reason: &str) -> Result<bool, String> {
    println!("skipped: {reason}");
    Ok(true)
}

/// Whether the counts are good.
fn guard(renew: bool) -> Result<bool, String> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return skipped("valgrind is not installed");
    }
    let Some(compiler) = compiler() else { return skipped("rustc does not tell its version") };
    let file = std::fs::read_to_string(FILE).unwrap_or_default();
    let held = file.lines().find_map(|line| line.strip_prefix(COMPILER)).unwrap_or_default();
    if !renew && held != compiler {
        return skipped(&format!("the numbers are for rustc {held}, and this is rustc {compiler}"));
    }
    let counts: Vec<(&str, f64)> = HOT_PATHS
        .iter()
        .map(|path| Ok((path.name, count(path.name, path.function)?)))
        .collect::<Result<_, String>>()?;
    let (lines, good) = compare(&file, &counts);
    print!("{lines}");
    if renew {
        std::fs::write(FILE, render(&compiler, &counts)).map_err(|error| format!("{FILE}: {error}"))?;
        println!("renewed: {FILE}");
        return Ok(true);
    }
    Ok(good)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let renew = match arguments[..] {
        [] => false,
        ["--renew"] => true,
        ["--run", name] => {
            let path = HOT_PATHS.iter().find(|path| path.name == name).expect("it is one of our own names");
            (path.run)();
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("there is one flag: --renew");
            return ExitCode::from(2);
        }
    };
    match guard(renew) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!("where that is meant, renew the numbers with --renew and say why in the commit");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_may_differ_by_two_percent_either_way() {
        let file = render("1.0", &[("allocate", 1000.0), ("free", 50.0)]);
        assert!(compare(&file, &[("allocate", 1019.0), ("free", 49.1)]).1);
        assert!(!compare(&file, &[("allocate", 1021.0), ("free", 50.0)]).1);
        assert!(!compare(&file, &[("allocate", 979.0), ("free", 50.0)]).1);
    }

    #[test]
    fn a_path_without_a_committed_number_is_not_good() {
        let file = render("1.0", &[("free", 50.0)]);
        assert!(!compare(&file, &[("free at once", 50.0)]).1);
    }
}
