//! `maas doctor`: what is wrong with a running service, or, where none answers, with this machine and the configuration.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{Settings, ask, refuse, say};
use crate::config::{Config, hide_credentials};
use crate::doctor::{self, Facts, Machine};

/// Whom to examine.
#[derive(Args)]
pub(super) struct Question {
    #[command(flatten)]
    settings: Settings,
    /// Address of the server to ask, such as http://127.0.0.1:3000, without a path; without it, the host and port of the
    /// configuration
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print what was found as one JSON object
    #[arg(long)]
    json: bool,
}

/// As `GET /doctor` answers.
#[derive(Debug, Deserialize, Serialize)]
struct Diagnosis {
    status: String,
    findings: Vec<Finding>,
    checked: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Finding {
    code: String,
    severity: String,
    summary: String,
    fix: String,
}

impl From<doctor::Diagnosis> for Diagnosis {
    fn from(diagnosis: doctor::Diagnosis) -> Diagnosis {
        let finding = |found: &doctor::Finding| Finding {
            code: found.code.to_owned(),
            severity: found.severity.name().to_owned(),
            summary: found.summary.clone(),
            fix: found.fix.clone(),
        };
        Diagnosis {
            status: diagnosis.status().to_owned(),
            findings: diagnosis.findings.iter().map(finding).collect(),
            checked: diagnosis.checked.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Why there is no answer to work with.
enum Unasked {
    /// Nobody answers there.
    Silent(String),
    /// What answers is no service of ours, or an older one.
    Stranger(String),
}

/// Asks, or looks itself; prints; exit code 1 where there is a problem.
pub(super) fn run(question: Question) -> ExitCode {
    let Question { settings, url, json } = question;
    let is_named = url.is_some();
    let (base, mut loaded) = match url {
        Some(url) => (ask::base(&url).map_err(Unasked::Stranger), Err(settings)),
        None => match settings.load() {
            Ok(loaded) => {
                let base = ask::address_of(&loaded.config.server).map_err(Unasked::Silent);
                (base, Ok(loaded))
            }
            Err(problems) => return refuse(&problems),
        },
    };
    let shown = base.as_ref().map_or_else(|_| String::new(), |base| hide_credentials(base));
    let (heading, diagnosis) = match base.and_then(|base| asked(&base)) {
        Ok(diagnosis) => (format!("{shown} answers"), diagnosis),
        Err(Unasked::Stranger(why)) => {
            say(io::stderr(), &format!("maas doctor: {why}\n"));
            return ExitCode::FAILURE;
        }
        Err(Unasked::Silent(why)) => {
            if let Err(settings) = loaded {
                loaded = match settings.load() {
                    Ok(loaded) => Ok(loaded),
                    Err(problems) => return refuse(&problems),
                };
            }
            let Ok(loaded) = loaded else { unreachable!("it was loaded, or refused") };
            for warning in &loaded.warnings {
                say(io::stderr(), &format!("maas: warning: {warning}\n"));
            }
            let heading = "No service answers; the machine and the configuration were looked at".to_owned();
            (heading, without_service(&loaded.config, is_named, &why))
        }
    };
    let text = if json {
        serde_json::to_string(&diagnosis).expect("text becomes JSON") + "\n"
    } else {
        told(&heading, &diagnosis)
    };
    say(io::stdout(), &text);
    if diagnosis.status == "problems" { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Asks the server at this address, which ends without a slash.
fn asked(base: &str) -> Result<Diagnosis, Unasked> {
    let answer = ask::get(&format!("{base}/doctor")).map_err(Unasked::Silent)?;
    let shown = hide_credentials(base);
    if answer.status != reqwest::StatusCode::OK {
        return Err(Unasked::Stranger(format!("{shown} answered {} to GET /doctor", answer.status)));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| Unasked::Stranger(format!("what answers at {shown} is no MaaS: {error}")))
}

/// What can be told without a service. That one does not answer which was named is a problem; that none runs yet is not.
fn without_service(config: &Config, is_named: bool, why: &str) -> Diagnosis {
    let machine = Machine::read(&config.system_root());
    let facts = Facts { machine, settings: config.examined(), service: None };
    let mut diagnosis = doctor::examine(&facts);
    let severity = if is_named { doctor::Severity::Problem } else { doctor::Severity::Warning };
    let fix = "Start one with \"maas serve\", or name where it runs with --url.";
    let silent =
        doctor::Finding { code: "not-running", severity, summary: format!("{why}."), fix: fix.to_owned() };
    let at = diagnosis.findings.partition_point(|finding| finding.severity > severity);
    diagnosis.findings.insert(at, silent);
    diagnosis.checked.insert(0, "not-running");
    diagnosis.into()
}

/// What was found, in words.
fn told(heading: &str, diagnosis: &Diagnosis) -> String {
    let checks = diagnosis.checked.len();
    if diagnosis.findings.is_empty() {
        return format!("{heading}: {checks} checks, nothing found.\n");
    }
    let count = |severity: &str, one: &str, many: &str| {
        let count = diagnosis.findings.iter().filter(|finding| finding.severity == severity).count();
        (count > 0).then(|| format!("{count} {}", if count == 1 { one } else { many }))
    };
    let counts: Vec<String> = [
        count("problem", "problem", "problems"),
        count("warning", "warning", "warnings"),
        count("info", "note", "notes"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut text = format!("{heading}: {checks} checks, {}.\n", counts.join(", "));
    for Finding { code, severity, summary, fix } in &diagnosis.findings {
        // What a server says is printed as it stands, but for what would move the cursor.
        let line = format!("{severity}: {summary} [{code}]").replace(char::is_control, " ");
        let fix = fix.replace(char::is_control, " ");
        let _ = writeln!(text, "\n{line}\n  fix: {fix}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: &str, summary: &str) -> Finding {
        let [code, fix] = ["some-code", "Do something."].map(str::to_owned);
        Finding { code, severity: severity.to_owned(), summary: summary.to_owned(), fix }
    }

    #[test]
    fn findings_are_told_one_by_one_with_what_to_do() {
        let checked = vec!["some-code".to_owned(), "other".to_owned()];
        let none = Diagnosis { status: "ok".to_owned(), findings: Vec::new(), checked: checked.clone() };
        assert_eq!(told("http://a answers", &none), "http://a answers: 2 checks, nothing found.\n");
        let findings = vec![
            finding("problem", "A is broken."),
            finding("info", "B is\u{1b}[31m so."),
            finding("info", "C."),
        ];
        let some = Diagnosis { status: "problems".to_owned(), findings, checked };
        let expected = "It: 2 checks, 1 problem, 2 notes.\n\n\
            problem: A is broken. [some-code]\n  fix: Do something.\n\n\
            info: B is [31m so. [some-code]\n  fix: Do something.\n\n\
            info: C. [some-code]\n  fix: Do something.\n";
        assert_eq!(told("It", &some), expected);
    }

    #[test]
    fn without_a_service_that_is_the_first_thing_told_and_a_problem_where_it_was_named() {
        let config = Config::default();
        for (is_named, severity) in [(true, "problem"), (false, "warning")] {
            let diagnosis = without_service(&config, is_named, "cannot ask");
            let found = diagnosis.findings.iter().find(|finding| finding.code == "not-running");
            assert_eq!(found.map(|finding| finding.severity.as_str()), Some(severity));
            assert!(diagnosis.checked.contains(&"not-running".to_owned()));
            assert_eq!(
                is_named,
                diagnosis.status == "problems" && diagnosis.findings[0].code == "not-running"
            );
        }
    }
}
