//! The admin server: what an operator may see and turn, on loopback.
//!
//! Only POST changes something. A page in a browser on the same host must not reach it: a request
//! for a foreign host name (DNS rebinding) or from a foreign origin is refused.

mod close;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use super::reload::Outcome;
use super::{DebugEndpoints, Shared, lock};
use crate::commands::{Command, CommandSender, ConnectionInfo, ConnectionPage};
use crate::config::{Config, Mode};
use crate::diagnostics::Severity;
use crate::load::Refused;

/// Connections in one answer, unless `limit` says otherwise.
const CONNECTIONS_SHOWN: usize = 1_000;
/// How long a worker may take to answer: it does so between two loop turns.
const WORKER_ANSWER: Duration = Duration::from_secs(1);

const INDEX: &str = "\
GET  /                      this list
GET  /config                the effective configuration
GET  /registry              generation, policy, services, names, what is wrong with the files
GET  /connections?limit=N   live connections, 1000 unless limit says otherwise
GET  /stats                 connect durations and loop turns since the start, as quantiles
GET  /log                   the log level
POST /log?level=debug       change it until the next start or reload that sets it
POST /reload                read the files now
POST /connections/close?..  reset connections: source=, destination=, service=, name=
POST /drain                 stop accepting, let open connections finish until the deadline
";

/// The admin server's routes; `ip` is the address that it listens on.
pub(super) fn router(shared: Arc<Shared>, ip: IpAddr) -> Router {
    let mut router = Router::new()
        .route("/", get(async || INDEX))
        .route("/config", get(config))
        .route("/registry", get(registry))
        .route("/connections", get(connections))
        .route("/connections/close", post(close::close))
        .route("/stats", get(stats))
        .route("/log", get(log_level).post(set_log_level))
        .route("/reload", post(reload))
        .route("/drain", post(drain));
    if shared.debug == DebugEndpoints::On {
        router = router
            .route("/debug/panic", post(async |s, which| harm(s, which, Command::Panic)))
            .route("/debug/hang", post(async |s, which| harm(s, which, Command::Hang)));
    }
    router
        .fallback(async || (StatusCode::NOT_FOUND, "unknown path; GET / lists the known ones\n"))
        .layer(from_fn(move |request: Request, next: Next| async move {
            match foreign(request.uri(), request.headers(), ip) {
                Some(what) => (StatusCode::FORBIDDEN, what).into_response(),
                None => next.run(request).await,
            }
        }))
        .with_state(shared)
}

/// The configuration in use, and, if there are any, the documents that are not taken.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InUse<'a> {
    #[serde(flatten)]
    config: &'a Config,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused_documents: Vec<Refused>,
}

async fn config(State(shared): State<Arc<Shared>>) -> Response {
    let snapshot = shared.registry.current();
    let refused_documents = lock(&shared.reload.status).documents.clone();
    match serde_yaml::to_string(&InUse { config: &snapshot.config, refused_documents }) {
        Ok(yaml) => ([(header::CONTENT_TYPE, "application/yaml")], yaml).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn registry(State(shared): State<Arc<Shared>>) -> Response {
    let snapshot = shared.registry.current();
    let mode = match snapshot.config.outbound_traffic_policy.mode {
        Mode::AllowAny => "ALLOW_ANY",
        Mode::RegistryOnly => "REGISTRY_ONLY",
    };
    let (warnings, refused, documents) = {
        let status = lock(&shared.reload.status);
        let (warnings, errors) = (Severity::Warning, Severity::Error);
        (status.lines(warnings), status.lines(errors), status.documents.clone())
    };
    let answer = json!({
        "generation": snapshot.generation,
        "outboundTrafficPolicy": mode,
        "warnings": warnings,
        "refused": refused,
        "refusedDocuments": documents,
        "services": snapshot.services().collect::<Vec<_>>(),
        "names": shared.names.view(),
    });
    pretty(StatusCode::OK, &answer)
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

#[derive(Default, Serialize)]
struct Connections {
    connections: Vec<ConnectionInfo>,
    /// There are more than were asked for.
    truncated: bool,
    /// Workers that did not answer in time.
    unanswered: Vec<usize>,
}

async fn connections(
    State(shared): State<Arc<Shared>>,
    Query(Limit { limit }): Query<Limit>,
) -> Response {
    let limit = limit.unwrap_or(CONNECTIONS_SHOWN);
    let mut answer = Connections::default();
    for (id, worker) in shared.workers.iter().enumerate() {
        if collect(worker, limit, &mut answer).await.is_none() {
            answer.unanswered.push(id);
        }
    }
    pretty(StatusCode::OK, &answer)
}

/// Adds one worker's connections, page by page; `None` if it does not answer.
async fn collect(worker: &CommandSender, limit: usize, answer: &mut Connections) -> Option<()> {
    let mut from = Some(0);
    while let Some(slot) = from {
        let (reply, page) = oneshot::channel();
        worker.send(Command::Connections { from: slot, reply });
        let page: ConnectionPage = tokio::time::timeout(WORKER_ANSWER, page).await.ok()?.ok()?;
        let room = limit.saturating_sub(answer.connections.len());
        if page.connections.len() > room {
            answer.truncated = true;
        }
        answer.connections.extend(page.connections.into_iter().take(room));
        if answer.truncated {
            return Some(());
        }
        // A page that does not lead further would be asked for for ever.
        from = page.next.filter(|next| *next > slot);
    }
    Some(())
}

async fn stats(State(shared): State<Arc<Shared>>) -> Response {
    pretty(StatusCode::OK, &shared.metrics.latencies())
}

async fn log_level(State(shared): State<Arc<Shared>>) -> Response {
    pretty(StatusCode::OK, &json!({ "level": shared.log.level() }))
}

#[derive(Deserialize)]
struct Level {
    level: String,
}

async fn set_log_level(
    State(shared): State<Arc<Shared>>,
    Query(Level { level }): Query<Level>,
) -> Response {
    match shared.log.set(&level) {
        Ok(()) => {
            tracing::info!(level, "log level changed");
            pretty(StatusCode::OK, &json!({ "level": shared.log.level() }))
        }
        Err(error) => pretty(StatusCode::BAD_REQUEST, &json!({ "error": error })),
    }
}

async fn reload(State(shared): State<Arc<Shared>>) -> Response {
    match shared.reload.ask().await {
        Ok(outcome @ Outcome::Failure { .. }) => pretty(StatusCode::UNPROCESSABLE_ENTITY, &outcome),
        Ok(outcome) => pretty(StatusCode::OK, &outcome),
        Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the reload thread has ended\n").into_response()
        }
    }
}

async fn drain(State(shared): State<Arc<Shared>>) -> Response {
    let began = shared.begin_drain();
    if began {
        tracing::info!("draining on request");
    }
    let connections = shared.metrics.connections_active();
    pretty(StatusCode::ACCEPTED, &json!({ "began": began, "connections": connections }))
}

#[derive(Deserialize)]
struct Which {
    worker: usize,
}

/// Does a worker harm, to see what comes of it.
fn harm(
    State(shared): State<Arc<Shared>>,
    Query(Which { worker }): Query<Which>,
    harm: Command,
) -> Response {
    let Some(commands) = shared.workers.get(worker) else {
        return (StatusCode::NOT_FOUND, "no such worker\n").into_response();
    };
    commands.send(harm);
    StatusCode::ACCEPTED.into_response()
}

/// Why a request does not come from an operator on this host; `None` if it may.
fn foreign(uri: &Uri, headers: &HeaderMap, own: IpAddr) -> Option<&'static str> {
    let is_own = |authority: &Authority| is_own_host(authority.host(), own);
    if uri.authority().is_some_and(|authority| !is_own(authority)) {
        return Some("refused: foreign host; use localhost\n");
    }
    let read = |host: &HeaderValue| host.to_str().ok()?.parse::<Authority>().ok();
    let mut hosts = headers.get_all(header::HOST).iter();
    if !hosts.all(|host| read(host).as_ref().is_some_and(is_own)) {
        return Some("refused: foreign Host header; use localhost\n");
    }
    // Browsers send Origin with every POST of a page, also when the page is somebody else's.
    let read = |origin: &HeaderValue| origin.to_str().ok()?.parse::<Uri>().ok();
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let is_own_origin = |uri: Uri| uri.authority().is_some_and(is_own);
    if !origins.all(|origin| read(origin).is_some_and(is_own_origin)) {
        return Some("refused: foreign Origin header\n");
    }
    None
}

/// Whether `host` names this host without asking DNS: loopback, or the address listened on.
fn is_own_host(host: &str, own: IpAddr) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback() || ip == own,
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

/// JSON for people: on several lines, with one at the end.
fn pretty(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            (status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_own() {
        let own: IpAddr = "192.0.2.9".parse().unwrap();
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "192.0.2.9"] {
            assert!(is_own_host(host, own), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "192.0.2.8", "0.0.0.0", "[::]", ""] {
            assert!(!is_own_host(host, own), "{host}");
        }
    }

    #[test]
    fn a_foreign_host_or_origin_is_refused() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let verdict = |uri: &'static str, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            foreign(&Uri::from_static(uri), &map, own).is_none()
        };
        assert!(verdict("/drain", &[("host", "localhost:15000")]));
        assert!(verdict("/drain", &[("host", "[::1]:15000")]));
        assert!(verdict("/drain", &[]));
        assert!(verdict("/", &[("host", "localhost"), ("origin", "http://localhost:15000")]));
        assert!(!verdict("/drain", &[("host", "evil.example")]));
        assert!(!verdict("/drain", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(!verdict("/drain", &[("host", "")]));
        assert!(!verdict("http://evil.example/drain", &[("host", "localhost")]));
        assert!(!verdict("/", &[("host", "localhost"), ("origin", "http://evil.example")]));
        assert!(!verdict("/", &[("host", "localhost"), ("origin", "null")]));
    }
}
