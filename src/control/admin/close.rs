//! `POST /connections/close`: an operator ends connections by hand.
//!
//! A request without a filter would end all connections of the node, so it is refused, and so is a
//! parameter that is not known: a slip of the keyboard must not widen what is ended.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::{Shared, WORKER_ANSWER, pretty};
use crate::commands::{Command, CommandSender, ConnectionFilter};
use crate::prefix;
use crate::sniff::Name;

const KNOWN: &str = "source, destination, service, name";

#[derive(Default, Serialize)]
struct Closed {
    /// Connections that were reset.
    closed: u64,
    /// Workers that did not answer in time.
    unanswered: Vec<usize>,
}

pub(super) async fn close(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let filter = match filter(&parameters) {
        Ok(filter) => Arc::new(filter),
        Err(error) => return pretty(StatusCode::BAD_REQUEST, &json!({ "error": error })),
    };
    let mut answer = Closed::default();
    for (id, worker) in shared.workers.iter().enumerate() {
        if close_on(worker, &filter, &mut answer.closed).await.is_none() {
            answer.unanswered.push(id);
        }
    }
    tracing::info!(?parameters, closed = answer.closed, "connections closed on request");
    pretty(StatusCode::OK, &answer)
}

/// Ends one worker's connections, a part at a time; `None` if it does not answer.
async fn close_on(
    worker: &CommandSender,
    filter: &Arc<ConnectionFilter>,
    closed: &mut u64,
) -> Option<()> {
    let mut from = Some(0);
    while let Some(slot) = from {
        let (reply, page) = oneshot::channel();
        worker.send(Command::Close { filter: Arc::clone(filter), from: slot, reply });
        let page = tokio::time::timeout(WORKER_ANSWER, page).await.ok()?.ok()?;
        *closed += page.closed;
        // A page that does not lead further would be asked for for ever.
        from = page.next.filter(|next| *next > slot);
    }
    Some(())
}

/// What the parameters mean, or what is wrong with them.
fn filter(parameters: &[(String, String)]) -> Result<ConnectionFilter, String> {
    let mut filter = ConnectionFilter::default();
    for (index, (parameter, text)) in parameters.iter().enumerate() {
        if parameters[..index].iter().any(|(earlier, _)| earlier == parameter) {
            return Err(format!("{parameter} is given twice"));
        }
        if text.is_empty() {
            return Err(format!("{parameter} has no value"));
        }
        let no_prefix = || {
            format!("{parameter}: `{text}` is neither an IP address nor a prefix like 10.0.0.0/8")
        };
        match parameter.as_str() {
            "source" => filter.source = Some(prefix::from_text(text).ok_or_else(no_prefix)?),
            "destination" => {
                if let Ok(address) = text.parse::<SocketAddr>() {
                    filter.destination = Some(prefix::canonical(address.ip().into()));
                    filter.port = Some(address.port());
                } else {
                    let no_prefix = || no_prefix() + ", nor ADDRESS:PORT";
                    filter.destination = Some(prefix::from_text(text).ok_or_else(no_prefix)?);
                }
            }
            "service" => filter.service = Some(text.as_str().into()),
            "name" => {
                let name = Name::parse(text.as_bytes());
                let no_name = |error| format!("name: `{text}` is no host name: {error}");
                filter.name = Some(name.map_err(no_name)?);
            }
            _ => return Err(format!("{parameter} is not known; known are {KNOWN}")),
        }
    }
    match filter == ConnectionFilter::default() {
        true => Err(format!("at least one of {KNOWN} is needed; POST /drain ends everything")),
        false => Ok(filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<ConnectionFilter, String> {
        let pair = |pair: &str| {
            let (parameter, text) = pair.split_once('=').unwrap();
            (parameter.to_owned(), text.to_owned())
        };
        filter(&query.split('&').filter(|text| !text.is_empty()).map(pair).collect::<Vec<_>>())
    }

    /// A connection of 10.0.0.7 to 192.0.2.1:443.
    fn takes(query: &str) -> bool {
        let ends = ("10.0.0.7:5000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
        read(query).unwrap().takes(ends, "*.example.com", Some("a.example.com"))
    }

    #[test]
    fn a_connection_is_taken_that_has_all_that_is_asked_for() {
        for query in [
            "source=10.0.0.7",
            "source=10.0.0.0/24",
            "source=::ffff:10.0.0.7",
            "destination=192.0.2.1",
            "destination=192.0.2.1:443",
            "destination=[::ffff:192.0.2.1]:443",
            "destination=0.0.0.0/0",
            "service=*.EXAMPLE.com",
            "name=A.example.com.",
            "source=10.0.0.7&destination=192.0.2.1:443&service=*.example.com&name=a.example.com",
        ] {
            assert!(takes(query), "{query}");
        }
        for query in [
            "source=10.0.0.8",
            "source=192.0.2.1",
            "source=::/0",
            "destination=10.0.0.7",
            "destination=192.0.2.1:80",
            "service=a.example.com",
            "name=b.example.com",
            "source=10.0.0.7&name=b.example.com",
        ] {
            assert!(!takes(query), "{query}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_parameter_is_said() {
        for (query, error) in [
            ("", "at least one of source, destination, service, name is needed"),
            ("sorce=10.0.0.7", "sorce is not known; known are source"),
            ("source=", "source has no value"),
            ("source=10.0.0.7&source=10.0.0.8", "source is given twice"),
            ("source=10.0.0.7:80", "`10.0.0.7:80` is neither an IP address nor a prefix"),
            ("destination=shop", "`shop` is neither an IP address nor a prefix"),
            ("destination=shop", "nor ADDRESS:PORT"),
            ("destination=10.0.0.0/33", "`10.0.0.0/33` is neither"),
            ("name=10.0.0.1", "name: `10.0.0.1` is no host name: "),
            ("name=a..b", "name: `a..b` is no host name: "),
        ] {
            let said = read(query).unwrap_err();
            assert!(said.contains(error), "{query}: {said}");
        }
    }
}
