//! Logs go to standard error: lines for people, or with `LOG_FORMAT=json` one JSON object each. `RUST_LOG` says how
//! much. Control characters in what is logged are escaped by the formatter.

use std::env;
use std::io::{self, IsTerminal};

use tracing::warn;
use tracing_subscriber::EnvFilter;

/// What is logged where `RUST_LOG` says nothing. The verifier of certificates logs each failed handshake as an error;
/// ours is the one line for each change of a link's state, which says the same. HTTP/2 warns of what clients do wrong,
/// as often as they like.
const DEFAULT_FILTER: &str = "info,rustls_platform_verifier=off,h2=error";

/// Starts logging, as the environment wants it. A wish that cannot be understood is a warning: logs that are off
/// or too many are no reason not to start. Returns whether lines are JSON.
pub(super) fn start() -> bool {
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let Wishes { filter, json, colours, warnings } =
        wishes(variable("RUST_LOG"), variable("LOG_FORMAT"), variable("NO_COLOR"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours && io::stderr().is_terminal());
    // An error means that something else in the process logs already, which is as good.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    warnings.iter().for_each(|warning| warn!("{warning}"));
    json
}

struct Wishes {
    filter: EnvFilter,
    json: bool,
    colours: bool,
    warnings: Vec<String>,
}

fn wishes(rust_log: Option<String>, log_format: Option<String>, no_colour: Option<String>) -> Wishes {
    let mut warnings = Vec::new();
    let wanted = rust_log.filter(|wanted| !wanted.trim().is_empty());
    let filter = wanted.and_then(|wanted| match EnvFilter::try_new(&wanted) {
        Ok(filter) => Some(filter),
        Err(error) => {
            warnings.push(format!("RUST_LOG={wanted:?} is not a filter ({error}): {DEFAULT_FILTER} is used"));
            None
        }
    });
    let json = match log_format.as_deref() {
        Some("json") => true,
        None | Some("" | "text") => false,
        Some(other) => {
            warnings.push(format!("LOG_FORMAT={other:?} is unknown, expected json or text: text is used"));
            false
        }
    };
    Wishes {
        filter: filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER)),
        json,
        colours: no_colour.is_none_or(|value| value.is_empty()),
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(rust_log: Option<&str>, log_format: Option<&str>) -> (String, bool, usize) {
        let wishes = wishes(rust_log.map(str::to_owned), log_format.map(str::to_owned), None);
        (wishes.filter.to_string(), wishes.json, wishes.warnings.len())
    }

    #[test]
    fn info_is_logged_as_text_unless_something_else_is_wished() {
        let default = EnvFilter::new(DEFAULT_FILTER).to_string();
        assert_eq!(wish(None, None), (default.clone(), false, 0));
        assert_eq!(wish(Some(""), Some("")), (default.clone(), false, 0));
        assert_eq!(wish(Some("debug"), Some("json")), ("debug".to_owned(), true, 0));
    }

    #[test]
    fn a_wish_that_is_not_understood_is_a_warning() {
        let default = EnvFilter::new(DEFAULT_FILTER).to_string();
        assert_eq!(wish(Some("maas=loudest"), None), (default.clone(), false, 1));
        assert_eq!(wish(Some("info"), Some("xml")), ("info".to_owned(), false, 1));
    }
}
