//! The worker threads: each pins itself, makes its ring, says that it is ready, and serves.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::sys::kernel::Kernel;
use crate::sys::socket::Listener;
use crate::sys::thread;
use crate::sys::uring::SetupError;
use crate::worker::{Parts, Worker};

/// Whether a worker has its ring.
type Readiness = Result<(), SetupError>;

/// All workers.
#[derive(Debug)]
pub(super) struct Threads {
    running: Vec<JoinHandle<()>>,
    ready: (Sender<Readiness>, Receiver<Readiness>),
    end: Sender<()>,
    /// Lets each worker begin.
    go: Vec<Sender<()>>,
    /// One message for each worker that has ended.
    pub(super) ended: Receiver<()>,
}

impl Threads {
    pub(super) fn new() -> Self {
        let (end, ended) = channel();
        Self { running: Vec::new(), ready: channel(), end, go: Vec::new(), ended }
    }

    /// Starts a worker on `processor`, with what `make_kernel` makes on its thread.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn start<K: Kernel<Listener = Listener>>(
        &mut self,
        parts: Parts<Listener>,
        processor: Option<usize>,
        make_kernel: impl FnOnce() -> Result<K, SetupError> + Send + 'static,
    ) -> Result<()> {
        let id = parts.id;
        let (ready, end) = (self.ready.0.clone(), self.end.clone());
        let (go, begin) = channel();
        self.go.push(go);
        let run = move || {
            if let Some(Err(error)) = processor.map(thread::pin_to) {
                tracing::warn!(worker = id, %error, "the worker could not be pinned");
            }
            let slice = thread::lengthen_slice();
            // Nobody listens any more if another worker has failed, and the start with it.
            let kernel = match make_kernel() {
                Ok(kernel) => kernel,
                Err(error) => return drop(ready.send(Err(error))),
            };
            tracing::debug!(worker = id, ?processor, ?slice, ?kernel, "worker ready");
            let worker = Worker::new(parts, kernel);
            let _ = ready.send(Ok(()));
            // Until then connections wait in the listeners' queues. It never comes if the start
            // fails.
            if begin.recv().is_err() {
                return;
            }
            if let Err(error) = worker.run() {
                tracing::error!(worker = id, %error, "the ring has failed, ending the process");
                std::process::abort();
            }
            let _ = end.send(());
        };
        let name = format!("egret-worker-{id}");
        let thread = std::thread::Builder::new().name(name).spawn(run);
        self.running.push(thread.context("starting a worker thread")?);
        Ok(())
    }

    /// Waits until every worker has its ring.
    ///
    /// # Errors
    /// What keeps one of them from having it.
    pub(super) fn await_ready(&self) -> Result<()> {
        for _ in &self.running {
            self.ready.1.recv().context("a worker ended before it was ready")??;
        }
        Ok(())
    }

    /// Lets them accept.
    pub(super) fn go(&self) {
        for go in &self.go {
            // A worker that has gone has ended the process.
            let _ = go.send(());
        }
    }

    /// How many were started.
    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    /// Waits until all have ended.
    pub(super) fn join(self) {
        for worker in self.running {
            // A worker that panics has ended the process.
            let _ = worker.join();
        }
    }
}
