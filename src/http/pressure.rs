//! How full memory is, and will be: `GET /pressure`, and the same as events; and the header of answers that allocate.

use super::allocation::json;
use super::api::Api;
use super::error::{Problem, ProblemBody};
use super::query;
use crate::clock::Now;
use crate::pressure::{Action, Level, Outlook, Reading};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// On answers to requests that allocate: the level, from moderate on.
pub(super) const X_MAAS_PRESSURE: HeaderName = HeaderName::from_static("x-maas-pressure");
/// A proxy that collects answers before it hands them on passes one on as it comes that has this header, with `no`.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The routes that ask for memory: their answers carry the header, and what they make has an origin.
const ALLOCATING: [&str; 3] = ["/allocate", "/allocate/batch", "/arenas/{id}/allocate"];

/// Whether that method of a route asks for memory.
pub(super) fn is_allocating(method: &Method, template: &str) -> bool {
    *method == Method::POST && ALLOCATING.contains(&template)
}

/// A level as the value of a header; none where it is not told.
pub(super) fn header_of(level: Level) -> Option<HeaderValue> {
    (level > Level::Normal).then(|| HeaderValue::from_static(level.name()))
}

/// How full memory is at this instant, and what the last forecast says of the time to come.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pressure {
    /// `normal`, `moderate`, `high`, `critical` or `emergency`.
    level: &'static str,
    /// How full memory is: the pool, or what the system allows, whichever is fuller.
    ratio: f64,
    /// In use / `max_pool_size`.
    pool_ratio: f64,
    /// Used / limit of the control group that is nearest to its limit; null where there is none.
    #[schema(required)]
    system_ratio: Option<f64>,
    /// What decides the level: `pool`, `system`, or `psi`, where stalls for lack of memory raise it by a step.
    source: &'static str,
    /// How full memory will be in 30 seconds; null before the first forecast, as all that comes from one.
    #[schema(required)]
    predicted_30s: Option<f64>,
    /// … in 60 seconds.
    #[schema(required)]
    predicted_60s: Option<f64>,
    /// … in 120 seconds.
    #[schema(required)]
    predicted_120s: Option<f64>,
    /// How far the forecast is to be trusted, 0 to 1.
    #[schema(required)]
    confidence: Option<f64>,
    /// `decreasing`, `stable`, `increasing` or `critical`.
    #[schema(required)]
    trend: Option<&'static str>,
    /// Actual bytes allocated in a second, lately.
    #[schema(required)]
    allocation_bytes_per_second: Option<f64>,
    /// Actual bytes freed in a second, lately.
    #[schema(required)]
    free_bytes_per_second: Option<f64>,
    seconds_to: SecondsTo,
    /// `monitor`, `gentle_reclaim`, `aggressive_reclaim` or `emergency`: what the service does about it by itself. What the last
    /// forecast asked for, or what the level asks for now, whichever is more.
    recommended_action: &'static str,
}

/// Seconds until each level is reached: 0 where it is, null where it is not expected within an hour, or not surely enough to
/// tell, or nothing is known, or it was to be reached by now and is not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SecondsTo {
    #[schema(required)]
    moderate: Option<f64>,
    #[schema(required)]
    high: Option<f64>,
    #[schema(required)]
    critical: Option<f64>,
    #[schema(required)]
    emergency: Option<f64>,
}

/// To so many digits behind the point.
fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

/// Seconds until a level above normal is reached: 0 where it is, by whatever raised it.
pub(super) fn seconds_to(
    level: Level,
    reading: &Reading,
    outlook: Option<&Outlook>,
    now: Now,
) -> Option<f64> {
    if reading.level >= level {
        return Some(0.0);
    }
    let outlook = outlook?;
    let at = usize::from(level.number()).checked_sub(1).expect("normal is reached always");
    seconds_left(outlook.forecast.seconds_to[at], now.since(outlook.at).as_secs_f64())
}

/// What a forecast says a while later of the seconds to a level that is not reached: none where it did not say, or where that
/// was to be by now.
fn seconds_left(said: Option<f64>, age_seconds: f64) -> Option<f64> {
    /// 0 is said of a level that is reached, and of no other.
    const LEAST_SECONDS: f64 = 0.1;
    let left = said? - age_seconds;
    (left > 0.0).then(|| rounded(left.max(LEAST_SECONDS), 1))
}

/// What is done: what the forecast asked for when it was made, or what the level asks for now. A forecast is not read anew as it
/// ages, for nobody acts on that.
fn action(level: Level, outlook: Option<&Outlook>) -> Action {
    let foretold = outlook.map_or(Action::Monitor, |outlook| outlook.forecast.action);
    foretold.max(Action::of(level, None))
}

impl Pressure {
    fn new(reading: &Reading, outlook: Option<&Outlook>, now: Now) -> Pressure {
        let [_, moderate, high, critical, emergency] = Level::ALL
            .map(|level| (level > Level::Normal).then(|| seconds_to(level, reading, outlook, now)).flatten());
        let forecast = outlook.map(|outlook| &outlook.forecast);
        let predicted = |at: usize| forecast.map(|forecast| rounded(forecast.predicted[at], 4));
        let per_second = |bytes: fn(&Outlook) -> f64| outlook.map(|outlook| bytes(outlook).round());
        Pressure {
            level: reading.level.name(),
            ratio: rounded(reading.ratio, 4),
            pool_ratio: rounded(reading.pool_ratio, 4),
            system_ratio: reading.system_ratio.map(|ratio| rounded(ratio, 4)),
            source: reading.source.name(),
            predicted_30s: predicted(0),
            predicted_60s: predicted(1),
            predicted_120s: predicted(2),
            confidence: forecast.map(|forecast| rounded(forecast.confidence, 2)),
            trend: forecast.map(|forecast| forecast.trend.name()),
            allocation_bytes_per_second: per_second(|outlook| outlook.allocation_bytes_per_second),
            free_bytes_per_second: per_second(|outlook| outlook.free_bytes_per_second),
            seconds_to: SecondsTo { moderate, high, critical, emergency },
            recommended_action: action(reading.level, outlook).name(),
        }
    }

    /// At this instant; and the level.
    fn now(api: &Api, now: Now) -> (Level, Pressure) {
        let reading = api.pool.pressure(now);
        let outlook = api.pool.gauge().outlook();
        (reading.level, Pressure::new(&reading, outlook.as_deref(), now))
    }
}

/// How full memory is, and will be
///
/// The level is that of this instant; what is predicted is as old as the last look of the monitor, `pressure.interval` at
/// most.
#[utoipa::path(
    get, path = "/pressure", tag = "service",
    responses((status = 200, description = "Level and forecast", body = Pressure), (status = 400, response = ProblemBody))
)]
pub(super) async fn pressure(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let (_, body) = Pressure::now(&api, Now::read());
    Ok(json(StatusCode::OK, &body))
}

/// The same, told whenever it changes
///
/// Server-sent events named `pressure`, each with the body of `GET /pressure` at that instant as its data: one at once, one on
/// each change of level, and one every `pressure.interval`. Levels that are passed through before an event is sent are told as
/// one, with the level of then, which may be the one before. A comment now and then keeps the stream alive. It ends when the service stops.
#[utoipa::path(
    get, path = "/pressure/events", tag = "service",
    responses(
        (status = 200, description = "Events, until the client hangs up or the service stops", body = String, content_type = "text/event-stream"),
        (status = 400, response = ProblemBody), (status = 503, response = ProblemBody),
    )
)]
pub(super) async fn events(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    if api.is_stopping() {
        return Err(Problem::stopping());
    }
    let tell = |api: &Api, now| {
        let (level, body) = Pressure::now(api, now);
        (level, serde_json::to_string(&body).expect("text and numbers always serialise"))
    };
    let mut response = Response::new(Body::new(api.events.stream(&api, tell)?));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::pressure::{Forecast, Source, Watermarks};
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn what_a_forecast_says_gets_nearer_as_it_ages_and_never_is_there_before_it_is() {
        assert_eq!(seconds_left(Some(60.04), 5.0), Some(55.0));
        assert_eq!(seconds_left(Some(5.01), 5.0), Some(0.1));
        assert_eq!(seconds_left(Some(4.0), 5.0), None, "it was to be by now, and is not");
        assert_eq!((seconds_left(None, 5.0), seconds_left(Some(0.0), 0.0)), (None, None));
    }

    /// How full it is, what decides that, and what was forecast a second ago of a pool that was empty then.
    fn told(level: Level, source: Source, ratio: f64, forecast: Forecast) -> serde_json::Value {
        let reading = Reading { level, ratio, pool_ratio: ratio, system_ratio: None, source };
        let outlook =
            Outlook { at: Now(1), forecast, allocation_bytes_per_second: 0.0, free_bytes_per_second: 0.0 };
        let now = Now(1).after(Duration::from_secs(1));
        serde_json::to_value(Pressure::new(&reading, Some(&outlook), now)).expect("numbers serialise")
    }

    #[test]
    fn a_level_that_is_reached_is_so_by_whatever_raised_it() {
        let still = Forecast::still(0.7, &Watermarks::default());
        let body = told(Level::High, Source::Psi, 0.7, still);
        let expected = json!({ "moderate": 0.0, "high": 0.0, "critical": null, "emergency": null });
        assert_eq!(body["seconds_to"], expected);
        // Held by hysteresis.
        assert_eq!(told(Level::Critical, Source::Pool, 0.89, still)["seconds_to"]["critical"], 0.0);
    }

    #[test]
    fn what_is_recommended_is_what_was_ordered_and_not_what_an_aged_forecast_would_order_now() {
        let soon = Forecast {
            seconds_to: [Some(20.0), Some(25.0), Some(30.5), Some(40.0)],
            action: Action::AggressiveReclaim,
            ..Forecast::still(0.3, &Watermarks::default())
        };
        let body = told(Level::Normal, Source::Pool, 0.3, soon);
        assert_eq!(
            (&body["recommended_action"], &body["seconds_to"]["critical"]),
            (&json!("aggressive_reclaim"), &json!(29.5))
        );
        let body = told(Level::Emergency, Source::Pool, 0.96, soon);
        assert_eq!(body["recommended_action"], "emergency", "the level asks for more by now");
    }

    #[test]
    fn the_header_tells_levels_from_moderate_on_where_memory_is_asked_for() {
        let told: Vec<_> = Level::ALL.into_iter().filter_map(header_of).collect();
        assert_eq!(told, ["moderate", "high", "critical", "emergency"]);
        for (method, template, is) in [
            (Method::POST, "/allocate", true),
            (Method::GET, "/allocate", false),
            (Method::POST, "/allocate/batch", true),
            (Method::POST, "/arenas/{id}/allocate", true),
            (Method::POST, "/deallocate/batch", false),
            (Method::DELETE, "/allocate/{id}", false),
            (Method::POST, "/allocate/{id}/renew", false),
            (Method::POST, "/arenas", false),
            (Method::GET, "/allocate/batch", false),
            (Method::GET, "/arenas/{id}/allocate", false),
        ] {
            assert_eq!(is_allocating(&method, template), is, "{method} {template}");
        }
    }
}
