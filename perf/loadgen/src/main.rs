//! `loadgen`: the load generator of the performance suite, and the servers it is used against.
//!
//! It knows how to ask, how to wait and how to count; what stands between it and the server is
//! none of its business. `perf/README.md` says what the profiles are for, `loadgen --help` how to
//! ask for them. One JSON line on stdout is the result.
//!
//! In reading order: [`arguments`] is the command line; [`runtime`] starts a thread with a ring
//! for each core; a [`load`] is what one connection does over and over, when its [`schedule`] says
//! so, through an [`exchange`] of known [`payload`] on a [`connection`]; [`record`] holds what
//! came of it, and [`report`] prints that. [`serve`] is the other end.
//!
//! Exit codes: 0 it ran (errors are counted in the line), 1 it could not measure, 64 wrong command
//! line (sysexits.h).

#![forbid(unsafe_code)]

mod arguments;
mod blackhole;
mod bulk;
mod connection;
mod exchange;
mod http;
mod idle;
mod load;
mod payload;
mod record;
mod report;
mod runtime;
mod schedule;
mod serve;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => {
            // What was asked for (help, version) goes to stdout, what was wrong to stderr.
            let code = if answer.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = answer.print();
            return ExitCode::from(code);
        }
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    runtime::raise_descriptor_limit()?;
    match command {
        Command::Serve(options) => serve::run(&options),
        Command::Idle(options) => idle::run(&options),
        command => load::run(&command),
    }
}
