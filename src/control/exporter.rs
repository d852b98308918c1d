//! `/metrics`, also as `/stats/prometheus` (Istio's path): the scrape over HTTP.
//!
//! Takes the numbers from the hub, which never waits for a worker. Changes nothing. A scrape may be
//! half a GiB of text: it is written by a thread of its own at the client's pace (see
//! `control::stream`), so that neither memory nor the other servers pay for it.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::stream;
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
) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::from_accept(accept.unwrap_or_default());
    let phase = drain.phase();
    match stream::start("egret-scrape", move |text| metrics.write(format, phase, text)) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, format.content_type())], Body::new(text)).into_response()
        }
        Err(error) => {
            tracing::debug!(%error, "no thread for a scrape");
            (StatusCode::SERVICE_UNAVAILABLE, "no thread for the scrape").into_response()
        }
    }
}
