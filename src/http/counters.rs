//! Requests counted by method, route and status, and their durations: per slot, so that no two threads write one
//! cache line. Summed when somebody asks.

use super::error::Code;
use crate::metrics::{DURATION_BUCKETS, RequestCount, RequestDurations};
use crate::slot::PerSlot;
use axum::http::{Method, StatusCode};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Methods that are told apart; any other counts as the last.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
/// Statuses that are told apart; any other counts as the last.
const STATUSES: [u16; 24] = [
    200, 201, 204, 206, 304, 400, 404, 405, 408, 409, 411, 412, 413, 414, 415, 416, 417, 422, 431, 500, 501,
    503, 507, 0,
];
const BUCKETS: usize = DURATION_BUCKETS.len() + 1;

/// What is counted of the service's requests.
#[derive(Debug)]
pub(super) struct Counters {
    /// Route templates; the last place, beyond them, is for requests that match none.
    templates: Vec<String>,
    /// What is shown from the start: (method, route, status of its success).
    documented: Vec<(usize, usize, u16)>,
    slots: PerSlot<SlotCounters>,
}

#[derive(Debug)]
struct SlotCounters {
    /// By route, method, status.
    requests: Box<[AtomicU64]>,
    /// By route, method, bucket.
    durations: Box<[AtomicU64]>,
    /// By route, method: nanoseconds.
    sums: Box<[AtomicU64]>,
    /// By code.
    refused: [AtomicU64; Code::ALL.len()],
}

/// A request's method and route, as places in the counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    route: usize,
    method: usize,
}

fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn method_place(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

impl Counters {
    /// Counters for `templates`, showing `documented` (method, template, status of success) from the start.
    pub(super) fn new(templates: Vec<String>, documented: &[(String, String, u16)]) -> Counters {
        let routes = templates.len() + 1;
        let place = |(method, template, status): &(String, String, u16)| {
            let route =
                templates.iter().position(|known| known == template).expect("what is documented is a route");
            (method_place(method), route, *status)
        };
        let documented = documented.iter().map(place).collect();
        let slots = PerSlot::new(|_| SlotCounters {
            requests: zeros(routes * METHODS.len() * STATUSES.len()),
            durations: zeros(routes * METHODS.len() * BUCKETS),
            sums: zeros(routes * METHODS.len()),
            refused: [const { AtomicU64::new(0) }; Code::ALL.len()],
        });
        Counters { templates, documented, slots }
    }

    /// Where to count a request; `route` is the number of its template, none where it matches none.
    pub(super) fn place(&self, method: &Method, route: Option<usize>) -> Place {
        Place { route: route.unwrap_or(self.templates.len()), method: method_place(method.as_str()) }
    }

    /// Counts one answered request.
    pub(super) fn count(&self, place: Place, status: StatusCode, took: Duration) {
        let counters = self.slots.mine();
        let pair = place.route * METHODS.len() + place.method;
        let known = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        counters.requests[pair * STATUSES.len() + known].fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = DURATION_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1);
        counters.durations[pair * BUCKETS + bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counters.sums[pair].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Counts one request that was refused for lack of room.
    pub(super) fn count_refused(&self, code: Code) {
        self.slots.mine().refused[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, of: impl Fn(&SlotCounters) -> &AtomicU64) -> u64 {
        self.slots.iter().map(|slot| of(slot).load(Ordering::Relaxed)).sum()
    }

    fn template(&self, route: usize) -> String {
        self.templates.get(route).map_or_else(|| "unmatched".to_owned(), String::clone)
    }

    /// All pairs of method and route that were documented or seen.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let documented: BTreeSet<_> =
            self.documented.iter().map(|(method, route, _)| (*route, *method)).collect();
        let all = (0..=self.templates.len())
            .flat_map(|route| (0..METHODS.len()).map(move |method| (route, method)));
        all.filter(move |(route, method)| {
            let pair = route * METHODS.len() + method;
            documented.contains(&(*route, *method))
                || (0..BUCKETS).any(|bucket| self.sum(|slot| &slot.durations[pair * BUCKETS + bucket]) > 0)
        })
    }

    /// Requests by method, route and status: what is documented, and what was seen.
    pub(super) fn requests(&self) -> Vec<RequestCount> {
        let mut rows = Vec::new();
        for (route, method) in self.pairs() {
            let first = (route * METHODS.len() + method) * STATUSES.len();
            for (at, status) in STATUSES.into_iter().enumerate() {
                let count = self.sum(|slot| &slot.requests[first + at]);
                if count > 0 || self.documented.contains(&(method, route, status)) {
                    rows.push(RequestCount {
                        method: METHODS[method],
                        route: self.template(route),
                        status,
                        count,
                    });
                }
            }
        }
        rows
    }

    /// Durations by method and route: what is documented, and what was seen.
    pub(super) fn durations(&self) -> Vec<RequestDurations> {
        let row = |(route, method): (usize, usize)| {
            let pair = route * METHODS.len() + method;
            let bucket = |at| self.sum(|slot| &slot.durations[pair * BUCKETS + at]);
            let sum = Duration::from_nanos(self.sum(|slot| &slot.sums[pair]));
            RequestDurations {
                method: METHODS[method],
                route: self.template(route),
                buckets: std::array::from_fn(bucket),
                sum_seconds: sum.as_secs_f64(),
            }
        };
        self.pairs().map(row).collect()
    }

    /// Refusals by code: every code that is one.
    pub(super) fn refused(&self) -> Vec<(&'static str, u64)> {
        let refusals = Code::ALL.iter().filter(|code| code.is_refusal());
        refusals.map(|code| (code.name(), self.sum(|slot| &slot.refused[*code as usize]))).collect()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn documented_routes_are_shown_from_the_start_and_others_once_seen() {
        let documented = [("GET".to_owned(), "/a".to_owned(), 200)];
        let counters = Counters::new(vec!["/a".to_owned()], &documented);
        let shown = |counters: &Counters| {
            counters
                .requests()
                .into_iter()
                .map(|row| (row.method, row.route, row.status, row.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(&counters), [("GET", "/a".to_owned(), 200, 0)]);
        counters.count(counters.place(&Method::GET, Some(0)), StatusCode::OK, Duration::from_micros(20));
        counters.count(counters.place(&Method::TRACE, None), StatusCode::NOT_FOUND, Duration::from_secs(100));
        let expected = [("GET", "/a".to_owned(), 200, 1), ("other", "unmatched".to_owned(), 404, 1)];
        assert_eq!(shown(&counters), expected);
        let durations = counters.durations();
        assert_eq!((durations[0].buckets[1], durations[1].buckets[BUCKETS - 1]), (1, 1));
        assert!((durations[1].sum_seconds - 100.0).abs() < 1e-9);
    }
}
