//! The guard around a gate: a panic in it ends one connection, and not the process.
//!
//! A gate reads bytes that peers choose, and nothing else. So what a panic in it leaves half-done
//! is the gate's own, and goes with it: from then on the gate has *failed*, lets nothing pass, and
//! the worker ends the connection. Every call of a gate goes through here. A panic anywhere else
//! ends the process; the panic hook tells the two apart by [`is_inside`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::{
    Action, Answered, Attribution, Gate, Logging, Micros, Outcome, Policy, Reply, Route, Tables,
};
use crate::access_log::Protocol;
use crate::metrics::{CloseReason, Detected};
use crate::relay::Side;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a gate: a panic is caught.
pub(crate) fn is_inside() -> bool {
    INSIDE.get()
}

/// See the module.
#[derive(Debug)]
pub(crate) enum GuardedGate {
    Sound(Gate),
    /// It has panicked, perhaps while the protocol was not known yet.
    Failed {
        detecting: bool,
    },
}

impl From<Gate> for GuardedGate {
    fn from(gate: Gate) -> Self {
        Self::Sound(gate)
    }
}

/// The calls of a gate that are guarded as they are. One that fails gives the default value.
macro_rules! guarded {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $value:ty)?;)*) => {
        impl GuardedGate {
            $(
                #[doc = concat!("See [`Gate::", stringify!($name), "`].")]
                pub(crate) fn $name(&mut self, $($argument: $type),*) $(-> $value)? {
                    self.enter(|gate| gate.$name($($argument),*)).unwrap_or_default()
                }
            )*
        }
    };
}

guarded! {
    fn dropped(side: Side);
    fn stop_observing(why: Detected) -> Option<Box<Attribution>>;
    fn take_attribution() -> Option<Box<Attribution>>;
    fn leg_replaced();
    fn unreachable(held: &[u8], policy: &Policy<'_>, why: CloseReason) -> Option<Box<Reply>>;
    fn replied();
    fn ended(side: Side);
    fn end_responses() -> bool;
    fn is_between_exchanges() -> bool;
    fn waits(side: Side) -> bool;
    fn own_frames() -> Option<Vec<u8>>;
    fn is_served() -> Option<CloseReason>;
    fn is_draining() -> bool;
    fn is_unframed() -> bool;
    fn unseen(side: Side) -> u64;
    fn skipped(side: Side, bytes: u64);
    fn head_since() -> Option<Micros>;
    fn late_head(held: &[u8], policy: &Policy<'_>) -> Option<Box<Reply>>;
    fn owes_response() -> bool;
    fn is_at_rest() -> bool;
    fn pop_unanswered(held: &[u8], moment: (Micros, Logging)) -> Option<Answered>;
}

impl GuardedGate {
    /// Shows the gate the bytes behind the first `passing`, which have been allowed, and adds up
    /// what it lets pass of them. Returns what it says then; [`Outcome::Pass`]: all may pass.
    /// `asks_on`: there is no upstream connection, so a gate that has let all pass may have more to
    /// say (see [`Gate::inspect`]).
    #[inline]
    pub(crate) fn inspect(
        &mut self,
        side: Side,
        (bytes, passing): (&[u8], &mut usize),
        asks_on: bool,
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Outcome {
        let outcome = self.enter(|gate| {
            loop {
                let rest = &bytes[*passing..];
                #[cfg(any(test, feature = "probe"))]
                planted::panic_at(rest);
                let outcome = gate.inspect(side, rest, policy, tables);
                let Outcome::Pass(bytes) = outcome else { return outcome };
                *passing += bytes;
                if bytes == rest.len() && !asks_on {
                    return outcome;
                }
            }
        });
        outcome.unwrap_or_else(|| Outcome::Act(Action::End(CloseReason::InternalError)))
    }

    /// See [`Gate::give_up`]. `None`: it has failed.
    pub(crate) fn give_up(
        &mut self,
        why: Detected,
        policy: &Policy<'_>,
    ) -> Option<Box<Attribution>> {
        self.enter(|gate| gate.give_up(why, policy))
    }

    /// It has failed: the connection must end, and what it shared with others is not to be trusted.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// All bytes pass, and nothing looks at them.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Sound(Gate::Open))
    }

    /// The bytes are HTTP/2, and gated.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Sound(Gate::Http2(_)))
    }

    /// Its name, for the simulation.
    #[cfg(feature = "probe")]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "failed",
            Self::Sound(Gate::Open) => "open",
            Self::Sound(Gate::Detect(detect)) if detect.is_observing() => "observing",
            Self::Sound(Gate::Detect(_)) => "detecting",
            Self::Sound(Gate::Tls(_)) => "tls",
            Self::Sound(Gate::Http1(http)) if http.is_observing() => "http1 observed",
            Self::Sound(Gate::Http1(_)) => "http1",
            Self::Sound(Gate::Http2(_)) => "http2",
        }
    }

    /// The protocol is not known yet, or was not when the gate failed.
    pub(crate) fn is_detecting(&self) -> bool {
        matches!(self, Self::Sound(Gate::Detect(_)) | Self::Failed { detecting: true })
    }

    /// See [`Gate::holds_nothing`]: only reads a field.
    pub(crate) fn holds_nothing(&self) -> bool {
        match self {
            Self::Sound(gate) => gate.holds_nothing(),
            Self::Failed { .. } => false,
        }
    }

    /// See [`Gate::route`]: only reads a field.
    pub(crate) fn route(&self) -> Option<&Rc<Route>> {
        match self {
            Self::Sound(gate) => gate.route(),
            Self::Failed { .. } => None,
        }
    }

    /// See [`Gate::protocol`]: only reads a field.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Sound(gate) => gate.protocol(),
            Self::Failed { .. } => Protocol::Tcp,
        }
    }

    /// See [`Gate::pop_ended`]: only takes what is there.
    pub(crate) fn pop_ended(&mut self) -> Option<Answered> {
        match self {
            Self::Sound(gate) => gate.pop_ended(),
            Self::Failed { .. } => None,
        }
    }

    /// Calls the gate; `None` if it has failed, now or before.
    #[inline]
    fn enter<R>(&mut self, call: impl FnOnce(&mut Gate) -> R) -> Option<R> {
        let Self::Sound(gate) = self else { return None };
        if let Gate::Open = gate {
            // It runs no code that could panic.
            return Some(call(gate));
        }
        INSIDE.set(true);
        // What is half-done is dropped below; the tables are the caller's to make anew.
        let result = catch_unwind(AssertUnwindSafe(|| call(gate)));
        INSIDE.set(false);
        if result.is_err() {
            *self = Self::Failed { detecting: self.is_detecting() };
        }
        result.ok()
    }
}

/// A panic that a test plants.
#[cfg(any(test, feature = "probe"))]
pub mod planted {
    use std::sync::OnceLock;

    static MARK: OnceLock<&'static [u8]> = OnceLock::new();

    /// From now on every gate of the process panics when it is shown `mark`.
    pub fn plant(mark: &'static [u8]) {
        let _ = MARK.set(mark);
    }

    pub(super) fn panic_at(bytes: &[u8]) {
        let is_planted = |mark: &&[u8]| memchr::memmem::find(bytes, mark).is_some();
        assert!(!MARK.get().is_some_and(is_planted), "this panic was planted by a test");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Detect;

    #[test]
    fn a_panic_leaves_a_gate_that_has_failed_and_lets_nothing_pass() {
        let mut gate = GuardedGate::from(Gate::Detect(Detect::held()));
        let fails = |_: &mut Gate| -> u32 { panic!("inside: {}", is_inside()) };
        assert_eq!(gate.enter(fails), None);
        assert!(!is_inside());
        assert!(gate.has_failed() && gate.is_detecting() && !gate.is_open());
        assert!(!gate.holds_nothing());
        assert_eq!(gate.unseen(Side::Upstream), 0);
        assert!(gate.stop_observing(Detected::Ended).is_none());
        assert_eq!(gate.enter(|_| ()), None, "it is not entered again");
    }

    #[test]
    fn this_thread_is_inside_while_the_gate_runs() {
        let mut gate = GuardedGate::from(Gate::Detect(Detect::held()));
        assert_eq!(gate.enter(|_| is_inside()), Some(true));
        assert!(!gate.has_failed());
    }
}
