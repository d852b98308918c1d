//! Behind a 101: the protocol that was agreed, which may be HTTP/2.

use super::{Departure, Http1};
use crate::gate::{Action, Outcome};
use crate::http1::Agreed;
use crate::http2::{PREFACE, Upgraded};
use crate::judge::Rules;
use crate::metrics::CloseReason;

/// An upgrade that was agreed, until the downstream speaks.
#[derive(Debug)]
pub(in crate::gate) struct Switched {
    agreed: Agreed,
    /// What the upstream has sent, if it is HTTP/2.
    pub(in crate::gate) frames: Upgraded,
}

impl Switched {
    /// A 101 has named this protocol. Requests of HTTP/2 are judged by `rules`.
    pub(super) fn to(agreed: Agreed, rules: Rules) -> Self {
        Self { agreed, frames: Upgraded::new(rules) }
    }
}

impl Http1 {
    /// What becomes of the first bytes of the downstream behind a 101. What was agreed is what they
    /// are: servers take HTTP/2 under more names than can be listed.
    pub(super) fn switched(&mut self, bytes: &[u8]) -> Result<Outcome, Departure> {
        let Some(switched) = self.switched.take() else { return Ok(Outcome::Pass(bytes.len())) };
        if bytes.starts_with(PREFACE) {
            return Err(Departure::Http2(switched));
        }
        if PREFACE.starts_with(bytes) {
            self.switched = Some(switched);
            return Ok(Outcome::Hold);
        }
        match switched.agreed {
            Agreed::Http2 => {
                self.switched = Some(switched);
                Ok(Outcome::Act(Action::End(CloseReason::BadRequest)))
            }
            Agreed::Other => Ok(Outcome::Pass(bytes.len())),
        }
    }
}
