//! `/metrics`, also as `/stats/prometheus` (Istio's path): the scrape over HTTP.
//!
//! Takes the numbers from the hub, which never waits for a worker. Changes nothing.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::drain::Drain;
use crate::metrics::{Format, MetricsHub};

/// The exporter's routes.
pub(super) fn router(metrics: MetricsHub, drain: Drain) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/stats/prometheus", get(scrape))
        .with_state((metrics, drain))
}

async fn scrape(
    State((metrics, drain)): State<(MetricsHub, Drain)>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::from_accept(accept.unwrap_or_default());
    let body = metrics.encode(format, drain.phase());
    ([(header::CONTENT_TYPE, format.content_type())], body)
}
