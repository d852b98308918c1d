//! The workers' way to ask the control plane for the addresses of a name that a workload claims.
//!
//! No worker waits for an answer, or for room to ask: a connection is held until the answer comes
//! through the worker's command channel ([`Command::Resolved`]), and a question that finds the
//! queue full is refused at once.
//!
//! [`Command::Resolved`]: crate::commands::Command::Resolved

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::sniff::Name;

/// Questions that the control thread has not taken up. It takes each in microseconds; the queue
/// bridges the time in which it writes to a slow client or is not scheduled.
const QUEUE_MAX: usize = 4_096;

/// The addresses of a name are wanted.
#[derive(Debug)]
pub struct Question {
    /// The name, as a workload has shown it.
    pub name: Name,
    /// The workload, whose share the question is taken from.
    pub source: IpAddr,
    /// The worker that is told the answer.
    pub worker: usize,
    /// Which of its connections waits, in the worker's own terms.
    pub connection: u64,
}

/// What comes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These addresses, at least one.
    Addresses(Arc<[IpAddr]>),
    /// The name has none, or nobody has answered.
    Nothing,
    /// So many names are asked for, by this source or by all, that this one was not.
    NoRoom,
}

/// The end that the workers have.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<Question>);

/// The end that the control plane has.
pub type Receiver = mpsc::Receiver<Question>;

/// A queue of questions.
#[must_use]
pub fn channel() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    (Sender(sender), receiver)
}

impl Sender {
    /// Asks, if there is room; returns whether there was.
    #[must_use]
    pub fn ask(&self, question: Question) -> bool {
        self.0.try_send(question).is_ok()
    }
}
