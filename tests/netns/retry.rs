//! Reads and writes that a signal, or a freeze of the machine, does not end.

use std::io::{self, ErrorKind};

/// Makes the call again as long as it is interrupted. The kernel restarts no call on a socket that
/// has a timeout (signal(7)), and `Read::read` leaves that to its caller.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
