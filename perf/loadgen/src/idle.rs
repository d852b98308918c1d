//! Connections that exchange one message each and then fall silent: what memory they cost is
//! measured from outside while they are held.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use monoio::io::AsyncReadRent;
use monoio::net::TcpStream;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::arguments::Idle;
use crate::connection::Connector;
use crate::exchange::{Echo, Exchange, Fault};
use crate::load::watched;
use crate::payload::Check;
use crate::runtime::{self, Share};
use crate::watch::Watch;

/// Connections that are opened at the same time: more would overflow a listen queue.
const OPENERS: usize = 64;

/// How often the end is looked for.
const STOP_POLL: Duration = Duration::from_millis(20);

/// Open the connections, say `ready`, hold them until SIGTERM or SIGINT.
pub(crate) fn run(options: &Idle) -> anyhow::Result<()> {
    let connections = options.connections as usize;
    runtime::require_descriptors(connections)?;
    let stop = Arc::new(AtomicBool::new(false));
    let at_signal = stop.clone();
    runtime::on_signals(&[Signal::SIGTERM, Signal::SIGINT], move |_| {
        at_signal.store(true, Ordering::Relaxed);
    })?;
    let opened = AtomicUsize::new(0);
    let ready = |count: usize| {
        if opened.fetch_add(count, Ordering::Relaxed) + count == connections {
            println!("ready");
        }
    };
    let held = runtime::on_each_core(&options.common.cpus, |share| {
        runtime::block_on(hold(options, share, &stop, &ready))?
    })?;
    let closed = held.iter().sum::<usize>();
    let result = json!({
        "profile": "idle",
        "connections": connections,
        "errors": { "closed": closed },
    });
    println!("{result}");
    Ok(())
}

/// This thread's share; returns how many were closed by the other side while they were held.
async fn hold(
    options: &Idle,
    share: Share,
    stop: &AtomicBool,
    ready: &impl Fn(usize),
) -> anyhow::Result<usize> {
    let numbers: VecDeque<_> = share.of(options.connections as usize).collect();
    let count = numbers.len();
    let opening = Rc::new(Opening {
        connector: Connector::new(&options.common),
        watch: Rc::new(Watch::new(options.common.timeout)),
        message_bytes: options.message,
        check: Check::from(options.common.verify),
        waiting: RefCell::new(numbers),
    });
    let watch = opening.watch.clone();
    monoio::spawn(async move { watch.run().await });
    let openers: Vec<_> = (0..OPENERS).map(|_| monoio::spawn(open_some(opening.clone()))).collect();
    let mut streams = Vec::with_capacity(count);
    for opener in openers {
        streams.extend(opener.await?);
    }
    ready(count);
    let closed = Rc::new(Cell::new(0));
    for mut stream in streams {
        let closed = closed.clone();
        monoio::spawn(async move {
            // Whatever comes now is no answer: nothing was asked.
            let _ = stream.read(vec![0; 1]).await;
            closed.set(closed.get() + 1);
        });
    }
    while !stop.load(Ordering::Relaxed) {
        monoio::time::sleep(STOP_POLL).await;
    }
    Ok(closed.get())
}

struct Opening {
    connector: Connector,
    watch: Rc<Watch>,
    message_bytes: usize,
    check: Check,
    waiting: RefCell<VecDeque<usize>>,
}

async fn open_some(opening: Rc<Opening>) -> anyhow::Result<Vec<TcpStream>> {
    let slot = opening.watch.slot();
    let mut streams = Vec::new();
    loop {
        let Some(number) = opening.waiting.borrow_mut().pop_front() else { return Ok(streams) };
        let mut stream = opening.connector.open(number).await?;
        let mut echo = Echo::new(number, opening.message_bytes, opening.check);
        let exchange = async |stream: &mut TcpStream| echo.run(stream).await;
        if let Err(fault) = watched(&slot, &mut stream, Instant::now(), exchange).await {
            bail!("connection {number} was not answered: {}", Fault::name(fault));
        }
        streams.push(stream);
    }
}
