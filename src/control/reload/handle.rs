//! The reload thread from outside: how it is started, asked and ended.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::{Outcome, Reloader, Source, Status, Target};
use crate::control::dns::Offer;
use crate::control::start_behind_workers;
use crate::registry::Answers;

/// The way to the reload thread. When it is dropped the thread ends.
#[derive(Debug)]
pub(in crate::control) struct Handle {
    inbox: Sender<Message>,
    pub(in crate::control) status: Arc<Mutex<Status>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) enum Message {
    FilesChanged,
    Asked(oneshot::Sender<Outcome>),
    /// What the names resolve to now; the sender is dropped when that is published.
    Resolved(Answers, oneshot::Sender<()>),
    Stop,
}

impl Handle {
    /// Starts the thread.
    pub(in crate::control) fn start(source: Source, target: Target) -> std::io::Result<Self> {
        let (inbox, messages) = channel();
        let status = Status { diagnostics: source.diagnostics.clone(), refused: Vec::new() };
        let status = Arc::new(Mutex::new(status));
        let mut reloader = Reloader::new(source, target, Arc::clone(&status), inbox.clone());
        let thread = start_behind_workers("egret-reload", move || reloader.run(&messages))?;
        Ok(Self { inbox, status, thread: Some(thread) })
    }

    /// Asks for a reload now. The answer comes when it is done; it does not come when the thread
    /// has ended.
    pub(in crate::control) fn ask(&self) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        // A thread that has ended drops the reply, which the caller sees.
        let _ = self.inbox.send(Message::Asked(reply));
        outcome
    }

    /// The way for the resolver's answers.
    pub(in crate::control) fn offer(&self) -> Offer {
        let inbox = self.inbox.clone();
        Box::new(move |answers| {
            let (done, published) = oneshot::channel();
            // A thread that has ended drops the sender, as if they were published.
            let _ = inbox.send(Message::Resolved(answers, done));
            published
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.inbox.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
