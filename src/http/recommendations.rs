//! What to configure instead: `GET /stats/recommendations`.

use super::allocation::json;
use super::api::Api;
use super::error::{Problem, ProblemBody};
use super::query::Query;
use crate::memory::{CLASSES_MAX, Recommendation};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What the requests so far say about the configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Recommendations {
    /// The size classes that would have wasted least, ready to be `memory.slab_sizes`. Their largest holds the largest
    /// request so far that a class held; a larger one takes whole pages. Where there was none yet, those that there are.
    slab_sizes: Vec<u64>,
    /// With them, the part of the bytes given out that nobody would have asked for; null before the first request.
    #[schema(required)]
    waste_ratio: Option<f64>,
    /// The same of the size classes that there are.
    #[schema(required)]
    current_waste_ratio: Option<f64>,
    /// The most bytes ever in use and a quarter, times the growth of the slab that grows most with the new classes, in whole
    /// slabs of the largest; before the first request, the limit that there is.
    max_pool_size_bytes: u64,
    /// Requests that this comes from: every block of a size class allocated since the start.
    sample_count: u64,
}

impl From<Recommendation> for Recommendations {
    fn from(recommendation: Recommendation) -> Recommendations {
        let Recommendation { slab_sizes, waste_ratio, current_waste_ratio, max_pool_size_bytes, samples } =
            recommendation;
        Recommendations {
            slab_sizes,
            waste_ratio,
            current_waste_ratio,
            max_pool_size_bytes,
            sample_count: samples,
        }
    }
}

/// Size classes and pool size that fit the requests so far
#[utoipa::path(
    get, path = "/stats/recommendations", tag = "service",
    params(("classes" = Option<u64>, Query, description = "Size classes to recommend at most; without it, as many as there are", minimum = 1, maximum = 64)),
    responses((status = 200, description = "What to configure", body = Recommendations), (status = 400, response = ProblemBody))
)]
pub(super) async fn recommendations(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["classes"])?;
    let most = CLASSES_MAX as u64;
    let asked = query.whole("classes", 1..=most, &format!("it is a whole number from 1 to {most}"))?;
    let seen = api.pool.seen();
    let classes = asked.and_then(|classes| usize::try_from(classes).ok()).unwrap_or(seen.slab_sizes.len());
    let mut search = seen.search();
    while search.wants_more(classes) {
        search.add_class();
        // Each takes up to 0.1 ms, and others have their turn in between.
        tokio::task::yield_now().await;
    }
    Ok(json(StatusCode::OK, &Recommendations::from(seen.recommend(&search))))
}
