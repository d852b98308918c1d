//! The command line: one subcommand for the servers, one for each kind of load.
//!
//! `perf/run.sh` is written against these names.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::payload::MESSAGE_BYTES_MAX;

/// Puts load on a TCP path and measures it; serves the other end too.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  loadgen serve --address 127.0.0.1 --echo 7000 --sink 7001 --source 7002 --http 7003
  loadgen rr --target 127.0.0.1:7000 --connections 64 --message 64 --seconds 5
  loadgen rr --target 127.0.0.1:7000 --connections 64 --message 64 --seconds 5 --rate 20000 \\
             --hgrm rr.hgrm --hlog rr.hlog
  loadgen bulk --target 127.0.0.1:7001 --streams 2 --direction up --seconds 5

The result is one JSON line on stdout; latencies are in microseconds. With --rate a latency counts
from the moment at which the request was due, whether or not it could be sent then.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Be the other end: echo, sink, source and HTTP servers, until SIGTERM
    Serve(Serve),
    /// Requests and answers over kept connections, against an echo server
    Rr(Messages),
    /// Connect, one request, one answer, close; against an echo server
    Churn(Messages),
    /// As many bytes as will pass, to a sink or from a source
    Bulk(Bulk),
    /// `rr` beside `bulk` up flows: who pays for whom
    Mixed(Mixed),
    /// Connections with one exchange each, then silence, until SIGTERM
    Idle(Idle),
    /// Connect and wait to be closed; FIN and RST are counted
    Blackhole(BlackHole),
    /// HTTP/1.1 GETs over kept connections; the hosts in turn
    Http(Http),
}

/// The servers.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Addresses to listen on
    #[arg(long, required = true, value_delimiter = ',', value_name = "IP")]
    pub(crate) address: Vec<IpAddr>,
    /// Port that returns every byte
    #[arg(long, value_name = "PORT")]
    pub(crate) echo: Option<u16>,
    /// Port that reads and throws away
    #[arg(long, value_name = "PORT")]
    pub(crate) sink: Option<u16>,
    /// Port that writes until it is closed
    #[arg(long, value_name = "PORT")]
    pub(crate) source: Option<u16>,
    /// Port that answers HTTP/1.1 requests
    #[arg(long, value_name = "PORT")]
    pub(crate) http: Option<u16>,
    /// Length of an HTTP answer's body
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = message_bytes)]
    pub(crate) body: usize,
    /// Check what the sink reads against the stream that `bulk --verify` sends
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) cpus: Cpus,
}

/// One pinned thread for each core.
#[derive(Debug, Clone, Args)]
pub(crate) struct Cpus {
    /// Cores, a thread pinned to each; without it one thread that is not pinned
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) cpus: Vec<usize>,
}

/// What every load has.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Where to connect
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) target: SocketAddr,
    /// Source addresses, in turn over the connections
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub(crate) bind: Vec<IpAddr>,
    /// An exchange or a stream without progress for so long is an error (seconds)
    #[arg(long, default_value = "5", value_name = "S", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Compare every byte that comes back; a wrong one is an error of kind `mismatch`
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) cpus: Cpus,
}

/// How long, and where the histograms go.
#[derive(Debug, Clone, Args)]
pub(crate) struct Measurement {
    /// Length of the measurement (seconds)
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Load before it that is not measured (seconds)
    #[arg(long, default_value = "1", value_name = "S", value_parser = seconds_or_none)]
    pub(crate) warmup: Duration,
    /// Write the latency distribution here (HdrHistogram's text form, microseconds)
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
    /// Write an interval log here, one histogram a second (HdrHistogram V2, nanoseconds)
    #[arg(long, value_name = "FILE")]
    pub(crate) hlog: Option<PathBuf>,
}

/// Connections, and how often they are used.
#[derive(Debug, Clone, Args)]
pub(crate) struct Pace {
    /// Connections in use at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// Open loop: so many a second in all, due at even intervals; without it closed loop
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
}

/// `rr` and `churn`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Messages {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) measurement: Measurement,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Length of a request, and of its answer
    #[arg(long, value_name = "BYTES", value_parser = message_bytes)]
    pub(crate) message: usize,
}

/// Which way the bytes of `bulk` go.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Direction {
    /// To a sink
    Up,
    /// From a source
    Down,
}

/// `bulk`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Bulk {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) measurement: Measurement,
    /// Connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) streams: u32,
    /// Which way
    #[arg(long, default_value = "up")]
    pub(crate) direction: Direction,
}

/// `mixed`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Mixed {
    #[command(flatten)]
    pub(crate) messages: Messages,
    /// The sink of the bulk flows
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) bulk_target: SocketAddr,
    /// Bulk flows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) streams: u32,
}

/// `idle`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections to hold
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// Length of the one request, and of its answer
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = message_bytes)]
    pub(crate) message: usize,
}

/// `blackhole`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BlackHole {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) measurement: Measurement,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Bytes to send after connecting
    #[arg(long, default_value_t = 0, value_name = "BYTES", value_parser = message_bytes_or_none)]
    pub(crate) message: usize,
}

/// `http`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Http {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) measurement: Measurement,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Names for the Host field, in turn on every connection
    #[arg(long, required = true, value_name = "NAME")]
    pub(crate) host: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match seconds_or_none(text)? {
        Duration::ZERO => Err("must be above 0".to_owned()),
        duration => Ok(duration),
    }
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("must be between 0 and 86400 s (a day)".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.001..=10_000_000.0).contains(&rate) {
        return Err("must be between 0.001 and 10000000 a second".to_owned());
    }
    Ok(rate)
}

fn message_bytes(text: &str) -> Result<usize, String> {
    match message_bytes_or_none(text)? {
        0 => Err("must be above 0".to_owned()),
        bytes => Ok(bytes),
    }
}

fn message_bytes_or_none(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    if bytes > MESSAGE_BYTES_MAX {
        return Err(format!("must be at most {MESSAGE_BYTES_MAX}"));
    }
    Ok(bytes)
}
