//! Text that a thread writes while a client reads it: an answer of any length in little memory.
//!
//! The writer fills a piece, hands it over through a short channel, and waits there while the
//! client reads slowly. When the client goes away the next hand-over fails, and the writing ends.
//! A thread, and not a task: writing is work for the processor, seconds of it for a large scrape,
//! and the control plane's one thread answers health probes meanwhile. It gives way to the workers.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::control::start_behind_workers;

/// Bytes of a piece at most, unless a single part is larger.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait for the client. One is written and one is sent meanwhile, so a text holds four
/// pieces, a quarter of a MiB.
const PIECES_WAITING: usize = 2;

/// What the thread hands over.
#[derive(Debug)]
enum Piece {
    Text(Bytes),
    /// The text is whole. Without it, the thread has failed.
    End,
}

/// The writing thread's end.
#[derive(Debug)]
pub(super) struct Pieces {
    filling: String,
    out: Sender<Piece>,
}

/// The client's end: the body of an answer.
#[derive(Debug)]
pub(super) struct Text {
    /// `None` after the end.
    pieces: Option<Receiver<Piece>>,
}

/// The text has ended before it was whole; the client sees its connection cut.
#[derive(Debug, thiserror::Error)]
#[error("the text ended before it was whole")]
pub(super) struct CutShort;

/// Begins to write on a thread with this name, which ends with the text or the client.
///
/// # Errors
/// When no thread can be had.
pub(super) fn start(
    thread: &str,
    write: impl FnOnce(&mut Pieces) -> fmt::Result + Send + 'static,
) -> std::io::Result<Text> {
    let (out, pieces) = channel(PIECES_WAITING);
    let mut text = Pieces { filling: String::with_capacity(PIECE_BYTES), out };
    start_behind_workers(thread, move || {
        // An error means that the client has gone, or finds the text cut short.
        let _ = write(&mut text).and_then(|()| text.end());
    })?;
    Ok(Text { pieces: Some(pieces) })
}

impl Pieces {
    fn end(mut self) -> fmt::Result {
        self.hand_over()?;
        self.out.blocking_send(Piece::End).map_err(|_| fmt::Error)
    }

    fn hand_over(&mut self) -> fmt::Result {
        if self.filling.is_empty() {
            return Ok(());
        }
        let text = std::mem::replace(&mut self.filling, String::with_capacity(PIECE_BYTES));
        self.out.blocking_send(Piece::Text(text.into())).map_err(|_| fmt::Error)
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.filling.len() + part.len() > PIECE_BYTES {
            self.hand_over()?;
        }
        self.filling.push_str(part);
        Ok(())
    }
}

impl Body for Text {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let Some(pieces) = &mut self.pieces else { return Poll::Ready(None) };
        let piece = ready!(pieces.poll_recv(context));
        if !matches!(piece, Some(Piece::Text(_))) {
            self.pieces = None;
        }
        Poll::Ready(match piece {
            Some(Piece::Text(text)) => Some(Ok(Frame::data(text))),
            Some(Piece::End) => None,
            None => Some(Err(CutShort)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// The next piece, waited for.
    fn next(text: &mut Text) -> Option<Result<Bytes, CutShort>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let frame = runtime.block_on(poll_fn(|context| Pin::new(&mut *text).poll_frame(context)));
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    #[test]
    fn a_text_arrives_whole_and_never_more_than_four_pieces_of_it_exist() {
        const LINE: &str = "a line of a scrape, of which there are very many\n";
        let lines = 40 * PIECE_BYTES / LINE.len();
        let written = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&written);
        let mut text = start("test-text", move |out| {
            (0..lines).try_for_each(|_| {
                counter.fetch_add(LINE.len(), Ordering::SeqCst);
                out.write_str(LINE)
            })
        })
        .unwrap();
        let mut read = 0;
        while let Some(piece) = next(&mut text) {
            // What was written and not read: this piece, those that wait, and the one being filled
            // with the part that did not fit any more.
            let exist = written.load(Ordering::SeqCst) - read;
            assert!(exist <= (PIECES_WAITING + 2) * PIECE_BYTES + LINE.len(), "{exist} bytes");
            let piece = piece.unwrap();
            assert!(piece.chunks(LINE.len()).all(|line| line == LINE.as_bytes()));
            read += piece.len();
        }
        assert_eq!(read, lines * LINE.len());
        assert!(next(&mut text).is_none());
    }

    #[test]
    fn the_writing_ends_when_the_client_has_gone() {
        let (ended, end) = mpsc::channel();
        let text = start("test-gone", move |out| {
            let result = std::iter::repeat("on and on").try_for_each(|part| out.write_str(part));
            ended.send(()).unwrap();
            result
        })
        .unwrap();
        drop(text);
        end.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_text_that_fails_is_no_whole_text() {
        let mut text = start("test-cut", |out| {
            out.write_str(&"x".repeat(PIECE_BYTES + 1))?;
            out.write_str("the rest")?;
            Err(fmt::Error)
        })
        .unwrap();
        assert!(next(&mut text).unwrap().is_ok_and(|piece| piece.len() == PIECE_BYTES + 1));
        assert!(next(&mut text).unwrap().is_err());
        assert!(next(&mut text).is_none());
    }
}
