//! `/healthz/ready` and `/healthz/live`: what an orchestrator probes.
//!
//! Ready means: every worker accepts, and no drain has begun. Live means: the control thread
//! answers; a worker that dies takes the process with it, so there is nothing else to tell.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::drain::{Drain, Phase};

/// The health server's routes.
pub(super) fn router(drain: Drain) -> Router {
    Router::new()
        .route("/healthz/ready", get(ready))
        .route("/healthz/live", get(async || "live\n"))
        .with_state(drain)
}

async fn ready(State(drain): State<Drain>) -> (StatusCode, &'static str) {
    match drain.phase() {
        Phase::Starting => {
            (StatusCode::SERVICE_UNAVAILABLE, "starting: not every worker accepts yet\n")
        }
        Phase::Serving => (StatusCode::OK, "ready\n"),
        Phase::Draining => {
            (StatusCode::SERVICE_UNAVAILABLE, "draining: no new connections are accepted\n")
        }
    }
}
