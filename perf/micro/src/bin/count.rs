//! Does one operation so many times, for valgrind to count its instructions.
//!
//!     count OPERATION CALLS    do it
//!     count --list             the operations' names, one a line
//!
//! `perf/instructions.sh` runs it; by itself it prints nothing of interest.

use std::process::ExitCode;

use egret_micro::{OPERATIONS, Operation};

const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--list"] => OPERATIONS.iter().for_each(|operation| println!("{}", operation.name)),
        [name, calls] => match (Operation::find(name), calls.parse()) {
            (Some(operation), Ok(calls)) => {
                let mut call = operation.prepare(calls);
                measured_calls(&mut call, calls);
            }
            _ => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

/// The counter is told to count inside this function and nowhere else, so it must stay one.
#[inline(never)]
fn measured_calls(call: &mut dyn FnMut(), calls: usize) {
    (0..calls).for_each(|_| call());
}

fn usage() -> ExitCode {
    eprintln!("usage: count OPERATION CALLS | count --list");
    ExitCode::from(EXIT_USAGE)
}
