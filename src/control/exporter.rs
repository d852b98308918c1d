//! `/metrics`, also as `/stats/prometheus` (Istio's path): the scrape over HTTP.
//!
//! Takes the numbers from the hub, which never waits for a worker. Changes nothing. The text is
//! written piece by piece, as fast as the scraper reads it: all of it may be some hundred MiB
//! (10 000 label sets of requests with three histograms each).

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::drain::Drain;
use crate::metrics::{Format, MetricsHub};

/// Bytes of one piece: large beside the cost of handing it over.
const PIECE_BYTES: usize = 128 * 1024;
/// Pieces that may wait for a scraper that reads slowly.
const PIECES_MAX: usize = 2;

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
    let (sender, pieces) = channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { sender, piece: String::with_capacity(PIECE_BYTES) };
        // An error is a scraper that has gone away.
        if metrics.write(format, drain.phase(), &mut out).is_ok() {
            let _ = out.hand_over();
        }
    });
    ([(header::CONTENT_TYPE, format.content_type())], Body::new(Text { pieces }))
}

/// Cuts what is written into pieces, and waits while too many of them are unread.
struct Pieces {
    sender: Sender<Bytes>,
    piece: String,
}

impl Pieces {
    fn hand_over(&mut self) -> fmt::Result {
        let next = String::with_capacity(PIECE_BYTES);
        let piece = std::mem::replace(&mut self.piece, next);
        self.sender.blocking_send(piece.into()).map_err(|_| fmt::Error)
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.piece.len() + text.len() > PIECE_BYTES && !self.piece.is_empty() {
            self.hand_over()?;
        }
        self.piece.push_str(text);
        Ok(())
    }
}

/// The pieces as the body of an answer.
struct Text {
    pieces: Receiver<Bytes>,
}

impl hyper::body::Body for Text {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn a_long_text_is_never_held_whole() {
        let (sender, mut pieces) = channel(PIECES_MAX);
        let writer = std::thread::spawn(move || {
            let mut out = Pieces { sender, piece: String::new() };
            for n in 0..200_000 {
                writeln!(out, "line {n} of a scrape that goes on and on").unwrap();
            }
            out.hand_over().unwrap();
        });
        let (mut bytes, mut largest) = (Vec::new(), 0);
        while let Some(piece) = pieces.blocking_recv() {
            largest = largest.max(piece.len());
            bytes.extend_from_slice(&piece);
        }
        writer.join().unwrap();
        assert!(largest <= PIECE_BYTES, "{largest}");
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 200_000);
        assert!(text.ends_with("line 199999 of a scrape that goes on and on\n"));
    }

    #[test]
    fn a_scraper_that_goes_away_ends_the_writing() {
        let (sender, pieces) = channel(PIECES_MAX);
        drop(pieces);
        let mut out = Pieces { sender, piece: String::new() };
        assert!((0..100_000).any(|_| out.write_str("more and more").is_err()));
    }
}
