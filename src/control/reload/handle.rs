//! The reload thread from outside: how it is started, asked and ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// Whether a [`Message::HangUp`] waits to be read: a storm of signals is one reload.
    is_hung_up: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long the end of the process waits for the thread, which may hang in a file system.
const END_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Message {
    FilesChanged,
    Asked(oneshot::Sender<Outcome>),
    /// As Asked, but nobody waits; the flag is cleared when it is read.
    HangUp(Arc<AtomicBool>),
    /// What the names resolve to now; the sender is dropped when that is published.
    Resolved(Answers, oneshot::Sender<()>),
    Stop,
}

impl Handle {
    /// Starts the thread.
    pub(in crate::control) fn start(source: Source, target: Target) -> std::io::Result<Self> {
        let (inbox, messages) = channel();
        let status = Status {
            diagnostics: source.diagnostics.clone(),
            documents: source.first.refused.clone(),
            refused: Vec::new(),
        };
        let status = Arc::new(Mutex::new(status));
        let mut reloader = Reloader::new(source, target, Arc::clone(&status), inbox.clone());
        let thread = start_behind_workers("egret-reload", move || reloader.run(&messages))?;
        Ok(Self { inbox, status, is_hung_up: Arc::default(), thread: Some(thread) })
    }

    /// Asks for a reload now. The answer comes when it is done; it does not come when the thread
    /// has ended.
    pub(in crate::control) fn ask(&self) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        // A thread that has ended drops the reply, which the caller sees.
        let _ = self.inbox.send(Message::Asked(reply));
        outcome
    }

    /// Asks for a reload as soon as the thread has time. Never waits.
    pub(in crate::control) fn ask_soon(&self) {
        if !self.is_hung_up.swap(true, Ordering::AcqRel) {
            let _ = self.inbox.send(Message::HangUp(Arc::clone(&self.is_hung_up)));
        }
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
        let give_up = Instant::now() + END_PATIENCE;
        let has_ended = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        while !has_ended() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
