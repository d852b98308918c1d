//! Command line, logging, exit codes; no logic.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use egret::config::LogFormat;
use egret::{app, check, control, load};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Exit code for a bad command line or configuration (EX_USAGE of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Exit code when another Egret has the port (EX_TEMPFAIL of sysexits.h).
const EXIT_TRY_AGAIN: u8 = 75;

/// A node-level egress proxy. It takes the outgoing TCP connections that netfilter hands to it,
/// lets each one pass or blocks it by a registry of known services, and counts it by name.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  egret check --config /etc/egret/egret.yaml       are the files good?
  egret run --config /etc/egret/egret.yaml         run the proxy
  egret explain 203.0.113.7:443 --host api.example.com
                                                   what would happen to this connection?

Egret does not install redirect rules: see scripts/redirect.sh --help.

Exit codes: 0 success, 1 failure, 64 bad command line or configuration, 75 another Egret has the
port.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy in the foreground, until SIGTERM or SIGINT
    #[command(after_help = "\
Changed files are read again while it runs. Log lines go to standard error.

Signals:
  SIGTERM, SIGINT  drain: accept no more, let open connections finish until drain.deadline,
                   then exit with 0; a second signal exits at once with 1. Before it serves, the
                   first one exits at once with 0
  SIGHUP           read the files now, and open the access log file again

Examples:
  egret run                                  config/egret.yaml, else /etc/egret/egret.yaml
  egret run --config /etc/egret/egret.yaml")]
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// Offer /debug/ on the admin server (for tests of the supervision)
        #[arg(long, hide = true)]
        debug_endpoints: bool,
    },
    /// Check the configuration, registry and workloads files; print every problem and its fix
    #[command(after_help = "\
It opens no port and changes nothing. Exit code: 0 good, warnings are printed; 64 an error.

Examples:
  egret check
  egret check --config new/egret.yaml && cp new/egret.yaml /etc/egret/egret.yaml")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print what would happen to a connection: the verdict, what decides, and why
    #[command(after_help = "\
It reads the files, opens no connection and resolves no names. It also says whether the connection
would wait for its name, and where Egret would connect. Documents that are refused are named on
standard error and left out, as they are at start; the exit code is 64 then.

Examples:
  egret explain 203.0.113.7:443
  egret explain '[2001:db8::7]:5432' --source 10.1.2.3
  egret explain 203.0.113.7:443 --host api.example.com
  egret explain 203.0.113.7:443 --host api.example.com --tls
  egret explain --batch calls.jsonl
                 {\"destination\": \"203.0.113.7:443\", \"host\": \"api.example.com\"} a line;
                 optional: \"source\", \"speaks\" (\"http\", \"tls\" or \"other\")")]
    Explain {
        #[command(flatten)]
        config: ConfigFile,
        /// The workload's address; default: an unknown workload
        #[arg(long, value_name = "IP")]
        source: Option<IpAddr>,
        /// The name that the workload shows, as Host (HTTP) or as SNI (TLS)
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// It speaks HTTP; default: both readings, where they differ
        #[arg(long)]
        http: bool,
        /// It speaks TLS
        #[arg(long, conflicts_with = "http")]
        tls: bool,
        /// Answer every line of this file: JSON in, JSON out
        #[arg(
            long,
            value_name = "FILE",
            conflicts_with_all = ["source", "host", "http", "tls", "destination"]
        )]
        batch: Option<PathBuf>,
        /// Where the workload connects to
        #[arg(value_name = "IP:PORT", required_unless_present = "batch")]
        destination: Option<SocketAddr>,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// Configuration file [default: config/egret.yaml, else /etc/egret/egret.yaml]
    #[arg(long = "config", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl ConfigFile {
    fn path(self) -> PathBuf {
        self.path.unwrap_or_else(check::default_config_file)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match arguments.command {
        Command::Run { config, debug_endpoints } => run(config.path(), debug_endpoints),
        Command::Check { config } => report(&check::check(&config.path())),
        Command::Explain { config, batch: Some(file), .. } => {
            report(&check::explain_batch(&config.path(), &file))
        }
        Command::Explain { config, source, host, http, tls, destination, batch: None } => {
            let destination = destination.expect("required without --batch");
            let speaks = match (http, tls) {
                (true, _) => Some(check::Speaks::Http),
                (_, true) => Some(check::Speaks::Tls),
                (false, false) => None,
            };
            let question = check::Question { source, destination, host, speaks };
            report(&check::explain(&config.path(), &question))
        }
    }
}

fn report(outcome: &check::Outcome) -> ExitCode {
    // A reader that has gone away (`| head`) has seen enough.
    let _ = std::io::stderr().write_all(outcome.problems.as_bytes());
    let _ = std::io::stdout().write_all(outcome.text.as_bytes());
    ExitCode::from(outcome.code)
}

fn run(config_file: PathBuf, debug_endpoints: bool) -> ExitCode {
    let signals = match control::Trap::set() {
        Ok(trap) => trap,
        Err(error) => {
            eprintln!("the signals cannot be taken: {error}");
            return ExitCode::FAILURE;
        }
    };
    let loaded = match load::load(&config_file, None) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            for diagnostic in diagnostics {
                eprintln!("{diagnostic}");
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let set_log_level = start_logging(&loaded.config.log);
    app::end_process_on_panic();
    let options = app::Options {
        config_file,
        signals: Some(signals),
        debug_endpoints: match debug_endpoints {
            true => control::DebugEndpoints::On,
            false => control::DebugEndpoints::Off,
        },
        set_log_level,
    };
    match app::App::start(loaded, options) {
        Ok(app) => {
            app.wait();
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "cannot start");
            match error.downcast_ref::<app::AlreadyRunning>() {
                Some(_) => ExitCode::from(EXIT_TRY_AGAIN),
                None => ExitCode::FAILURE,
            }
        }
    }
}

/// Sends events to standard error; returns the way to change the level.
fn start_logging(log: &egret::config::Log) -> control::SetLogLevel {
    let level = |name: &str| name.parse::<LevelFilter>().map_err(|error| error.to_string());
    let (filter, handle) = reload::Layer::new(level(&log.level).unwrap_or(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // The resolver's library tells of every packet; what comes of a question Egret says itself.
    let own = filter_fn(|event| !event.target().starts_with("hickory"));
    tracing_subscriber::registry().with(lines.with_filter(own.and(filter))).init();
    Box::new(move |name| {
        let level = level(name)?;
        handle.modify(|filter| *filter = level).map_err(|error| error.to_string())
    })
}
