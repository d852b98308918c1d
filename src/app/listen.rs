//! The listeners of all workers, and the privileges that they and the upstream sockets need.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail};

use super::instance;
use crate::config::{Capture, Config};
use crate::sys::kernel::Errno;
use crate::sys::socket::{Listener, Reach, Socket};
use crate::worker::KEEPALIVE;

/// One listener per worker and address, all on one port.
pub(super) fn bind(config: &Config, workers: usize) -> Result<Vec<Vec<Listener>>> {
    let mut port = config.listen.port;
    let mut addresses = Vec::new();
    for &ip in &config.listen.addresses {
        let address = SocketAddr::new(ip, port);
        let is_taken = |error: &Errno| *error == Errno::EADDRINUSE;
        match instance::patiently(|| Listener::probe(&address), is_taken) {
            Ok(bound) => {
                port = bound.port();
                addresses.push(bound);
            }
            Err(Errno::EAFNOSUPPORT) => {
                tracing::warn!(%address, "no such address family here, not listening");
            }
            Err(error) => return Err(bind_error(&address, error)),
        }
    }
    if addresses.is_empty() {
        bail!("none of listen.addresses can be bound on this host");
    }
    let reach = match config.listen.capture {
        Capture::Redirect => Reach::Own,
        Capture::Tproxy => Reach::Transparent,
    };
    let bind = |address: &SocketAddr| {
        Listener::bind(address, reach, KEEPALIVE).map_err(|error| bind_error(address, error))
    };
    (0..workers).map(|_| addresses.iter().map(bind).collect()).collect()
}

fn bind_error(address: &SocketAddr, error: Errno) -> anyhow::Error {
    let fix = match error {
        Errno::EADDRINUSE => {
            "the port is taken: another process (perhaps another Egret) listens there, see \
             `ss -ltnp`; stop it, or change listen.port"
        }
        Errno::EADDRNOTAVAIL => "no interface has this address: correct listen.addresses",
        Errno::EPERM => {
            "listen.capture: tproxy needs CAP_NET_RAW: run with that capability, or use redirect"
        }
        Errno::EACCES => "ports below 1024 need CAP_NET_BIND_SERVICE: use a higher listen.port",
        _ => "see listen in the configuration",
    };
    anyhow!("failed to listen on {address}: {error}; {fix}")
}

/// Where one worker, and so each of them, listens.
pub(super) fn addresses(listeners: &[Vec<Listener>]) -> Result<Vec<SocketAddr>> {
    let first = listeners.first().map_or(&[][..], Vec::as_slice);
    first.iter().map(|listener| Ok(listener.local_address()?)).collect()
}

/// A mark that cannot be set would fail every upstream connection.
pub(super) fn check_mark(config: &Config) -> Result<()> {
    let Some(mark) = config.upstream.mark else { return Ok(()) };
    let any = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
    let socket = Socket::for_connecting_to(&any).context("opening a socket")?;
    match socket.set_mark(mark) {
        Err(Errno::EPERM) => bail!(
            "upstream.mark: {mark} needs CAP_NET_RAW (before Linux 5.17 CAP_NET_ADMIN): run with \
             that capability, or set `upstream.mark: null` and exclude Egret's traffic by its \
             user id (scripts/redirect.sh up --uid)"
        ),
        result => result.context("setting upstream.mark"),
    }
}
