//! What a client of HTTP/2 is told before its first request.
//!
//! Some clients send no request before they have seen the server's SETTINGS, and the
//! acknowledgement of their own. So a client that pauses gets both from Egret. What the two ends
//! say to each other about it later is kept back: neither has asked for it.

use crate::gate::Micros;
use crate::http2::{self, GREETING, NextFrame, SETTINGS_ACK};

/// How long a client may take from its preface to its first request. Most send both at once, and
/// then see nothing but the server's own SETTINGS.
const GREETING_US: Micros = 50_000;

/// The most SETTINGS and PINGs that a client is answered before its first request. The rest of them
/// the server answers.
const ANSWERED_MAX: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    state: State,
    /// What the client has sent before its first request, and was not answered by Egret.
    unanswered: Vec<Said>,
    /// What the client has been answered by Egret, and will be by the upstream.
    answered: Vec<Said>,
    /// The upstream's next frame answers this one of them.
    swallowed: Option<usize>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    NotDue,
    Due(Micros),
    Sent,
    Acknowledged,
}

/// What a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Settings,
    Ping([u8; 8]),
}

/// What a client that has sent no request yet is told.
pub(super) enum Wait {
    /// Nothing before this time, which is to be kept.
    SetsDue(Micros),
    NotDue,
    Greets(Vec<u8>),
}

impl Greeting {
    /// No request has come by `now`.
    pub(super) fn wait(&mut self, now: Micros) -> Wait {
        match self.state {
            State::NotDue => {
                let due = now + GREETING_US;
                self.state = State::Due(due);
                Wait::SetsDue(due)
            }
            State::Due(at) if at <= now => {
                self.state = State::Sent;
                Wait::Greets([&GREETING[..], &self.answer()].concat())
            }
            State::Due(_) | State::Sent | State::Acknowledged => Wait::NotDue,
        }
    }

    /// The client has sent SETTINGS before its first request: what it is told.
    pub(super) fn client_settings(&mut self) -> Vec<u8> {
        self.said(Said::Settings)
    }

    /// The client has sent a PING before its first request: what it is told.
    pub(super) fn client_ping(&mut self, data: [u8; 8]) -> Vec<u8> {
        self.said(Said::Ping(data))
    }

    fn said(&mut self, said: Said) -> Vec<u8> {
        if self.unanswered.len() + self.answered.len() < ANSWERED_MAX {
            self.unanswered.push(said);
        }
        match self.state {
            State::Sent | State::Acknowledged => self.answer(),
            State::NotDue | State::Due(_) => Vec::new(),
        }
    }

    fn answer(&mut self) -> Vec<u8> {
        self.answered.extend(&self.unanswered);
        let frames = self.unanswered.drain(..).flat_map(|said| match said {
            Said::Settings => SETTINGS_ACK.to_vec(),
            Said::Ping(data) => http2::pong(data),
        });
        frames.collect()
    }

    /// The client has acknowledged SETTINGS; whether Egret's.
    pub(super) fn acknowledged(&mut self) -> bool {
        let is_own = self.state == State::Sent;
        if is_own {
            self.state = State::Acknowledged;
        }
        is_own
    }

    /// What goes before a frame of Egret's own, where the upstream has said nothing.
    pub(super) fn before_others(&mut self) -> Vec<u8> {
        match self.state {
            State::Sent | State::Acknowledged => Vec::new(),
            State::NotDue | State::Due(_) => {
                self.state = State::Sent;
                GREETING.to_vec()
            }
        }
    }

    /// Something that the upstream will say is kept back.
    pub(super) fn swallows(&self) -> bool {
        !self.answered.is_empty()
    }

    /// Whether it is the upstream's next frame.
    pub(super) fn swallows_next(&mut self, frame: NextFrame) -> bool {
        let is_answered = |said: &Said| match frame {
            NextFrame::SettingsAck(_) => *said == Said::Settings,
            NextFrame::Pong(_) => matches!(said, Said::Ping(_)),
            NextFrame::Unknown | NextFrame::Other(_) => false,
        };
        self.swallowed = self.answered.iter().position(is_answered);
        self.swallowed.is_some()
    }

    /// It was.
    pub(super) fn swallowed(&mut self) {
        if let Some(at) = self.swallowed.take() {
            self.answered.remove(at);
        }
    }
}
