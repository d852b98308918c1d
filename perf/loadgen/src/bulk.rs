//! Bulk flows: as many bytes as the path takes, in one direction.
//!
//! Every flow begins with the header of its [`Stream`], so that its reader can check the rest.
//! What is counted is what this end has written or read in the measurement; what a socket buffer
//! still holds at its end (some MiB) is the same at its beginning.

use std::rc::Rc;
use std::time::Instant;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use crate::arguments::Direction;
use crate::connection::{Connector, read_more};
use crate::exchange::Fault;
use crate::load::{Worker, watched};
use crate::payload::{Check, HEADER_BYTES, Stream};
use crate::watch::Slot;

/// One write or read, as iperf3's default for TCP.
pub(crate) const CHUNK_BYTES: usize = 128 << 10;

/// One flow until the end of the run; after a failure a new connection.
pub(crate) async fn flow(
    worker: Rc<Worker>,
    connector: Connector,
    number: usize,
    direction: Direction,
    check: Check,
) {
    let slot = worker.watch.slot();
    while Instant::now() < worker.window.until {
        let Some(mut stream) = worker.open(&connector, number).await else { continue };
        let result = match direction {
            Direction::Up => up(&worker, &slot, &mut stream, Stream::new(number, check)).await,
            Direction::Down => down(&worker, &slot, &mut stream, check).await,
        };
        if let Err(fault) = result {
            worker.record.borrow_mut().failed(fault);
        }
    }
}

async fn up(
    worker: &Worker,
    slot: &Slot,
    stream: &mut TcpStream,
    mut payload: Stream,
) -> Result<(), Fault> {
    let header = Box::new(payload.header());
    let mut now = Instant::now();
    watched(slot, stream, now, async |stream| Ok(stream.write_all(header).await.0?)).await?;
    worker.record.borrow_mut().bulk(now, HEADER_BYTES, 0);
    while now < worker.window.until {
        let chunk = payload.peek(CHUNK_BYTES);
        let write = async |stream: &mut TcpStream| Ok(stream.write(chunk).await.0?);
        let written = watched(slot, stream, now, write).await?;
        payload.advance(written);
        now = Instant::now();
        worker.record.borrow_mut().bulk(now, written, 0);
    }
    // The sink closes when it has read everything, so that its count is whole then.
    stream.shutdown().await?;
    let end = async |stream: &mut TcpStream| Ok(stream.read(vec![0; 1]).await.0?);
    match watched(slot, stream, now, end).await? {
        0 => Ok(()),
        _ => Err(Fault::Mismatch),
    }
}

async fn down(
    worker: &Worker,
    slot: &Slot,
    stream: &mut TcpStream,
    check: Check,
) -> Result<(), Fault> {
    let mut payload = Reader::new(check);
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    let mut now = Instant::now();
    while now < worker.window.until {
        buffer.clear();
        let read = async |stream: &mut TcpStream| Ok(read_more(stream, &mut buffer).await?);
        let count = watched(slot, stream, now, read).await?;
        now = Instant::now();
        worker.record.borrow_mut().bulk(now, 0, count);
        if count == 0 {
            return Err(Fault::Closed);
        }
        if !payload.matches(&buffer) {
            return Err(Fault::Mismatch);
        }
    }
    Ok(())
}

/// The reading end of a stream that says in its header which one it is.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Only the number of bytes matters.
    Unchecked,
    /// The header is not complete.
    Header(Vec<u8>),
    /// The rest is known.
    Checked(Stream),
}

impl Reader {
    pub(crate) fn new(check: Check) -> Self {
        match check {
            Check::Every => Self::Header(Vec::with_capacity(HEADER_BYTES)),
            Check::Length => Self::Unchecked,
        }
    }

    /// Whether these bytes go on as they must.
    pub(crate) fn matches(&mut self, mut bytes: &[u8]) -> bool {
        if let Self::Header(header) = self {
            let missing = (HEADER_BYTES - header.len()).min(bytes.len());
            header.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            let Ok(complete) = header.as_slice().try_into() else { return true };
            *self = Self::Checked(Stream::from_header(complete));
        }
        match self {
            Self::Unchecked | Self::Header(_) => true,
            Self::Checked(stream) => stream.matches(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_one_wrong_byte_wherever_the_stream_is_cut() {
        let mut stream = Stream::new(5, Check::Every);
        let mut bytes = stream.header().to_vec();
        bytes.extend_from_slice(stream.take(100));
        let good = |bytes: &[u8], cut: usize| {
            let mut reader = Reader::new(Check::Every);
            reader.matches(&bytes[..cut]) && reader.matches(&bytes[cut..])
        };
        assert!((0..=bytes.len()).all(|cut| good(&bytes, cut)));
        bytes[HEADER_BYTES + 50] ^= 0x10;
        assert!(!(0..=bytes.len()).any(|cut| good(&bytes, cut)));
    }
}
