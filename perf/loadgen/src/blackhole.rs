//! Connections that are to be closed without an answer: what a blocked workload sees.

use std::io;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use crate::exchange::Fault;
use crate::load::{Worker, watched};
use crate::payload::{Check, Stream};
use crate::record::End;
use crate::schedule::Turn;
use crate::watch::Slot;

/// Connect, send `message_bytes`, and wait for the end, again and again.
pub(crate) async fn until_closed(
    worker: Rc<Worker>,
    place: usize,
    number: usize,
    message_bytes: usize,
) {
    let slot = worker.watch.slot();
    let mut turns = worker.turns(place);
    let message = Stream::new(number, Check::Length).take(message_bytes);
    while let Some(turn) = turns.next().await {
        let result = one(&worker, &slot, number, message, turn).await;
        let mut record = worker.record.borrow_mut();
        match result {
            Ok(end) => record.ended(turn, message_bytes, end),
            Err(Some(fault)) => record.failed(fault),
            Err(None) => {}
        }
    }
    worker.missed(&turns);
}

/// One connection's end. `Err(None)`: it was not opened, which has been counted.
async fn one(
    worker: &Worker,
    slot: &Slot,
    number: usize,
    message: &'static [u8],
    turn: Turn,
) -> Result<End, Option<Fault>> {
    let mut stream = match worker.connector.open(number).await {
        // Reset between the handshake and our look at it: the connection stood.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            worker.opened();
            return Ok(End::Rst);
        }
        Err(error) => {
            worker.not_opened(&error).await;
            return Err(None);
        }
        Ok(stream) => stream,
    };
    worker.opened();
    let wait = async |stream: &mut TcpStream| Ok(end_of(stream, message).await);
    match watched(slot, &mut stream, turn.begun, wait).await? {
        Ok(0) => Ok(End::Fin),
        // It was let through, and somebody answers.
        Ok(_) => Err(Some(Fault::Mismatch)),
        Err(_) => Ok(End::Rst),
    }
}

async fn end_of(stream: &mut TcpStream, message: &'static [u8]) -> io::Result<usize> {
    if !message.is_empty() {
        stream.write_all(message).await.0?;
    }
    stream.read(vec![0; 1]).await.0
}
