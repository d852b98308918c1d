//! What the simulation (`tests/simulation`) asks of the product: faults that it plants, to see that
//! it finds them, and where the lives that it drew have been.
//!
//! Both need the feature `probe`, which the tests have and the product has not. Without it
//! [`planted!`] is `false` and [`met!`] is nothing, so neither costs an instruction.

/// Whether this thread is to make a mistake here.
#[cfg(feature = "probe")]
macro_rules! planted {
    ($fault:ident) => {
        $crate::probe::is_planted($crate::probe::Fault::$fault)
    };
}

#[cfg(not(feature = "probe"))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}

/// Counts that a connection in this phase and with this gate has met this event.
#[cfg(feature = "probe")]
macro_rules! met {
    ($phase:expr, $event:expr, $gate:expr) => {
        $crate::probe::meet(($phase, $event, $gate))
    };
}

#[cfg(not(feature = "probe"))]
macro_rules! met {
    ($phase:expr, $event:expr, $gate:expr) => {};
}

pub(crate) use {met, planted};

#[cfg(feature = "probe")]
pub use asked::*;

#[cfg(feature = "probe")]
mod asked {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use strum::VariantArray;

    /// A mistake, made where `planted!` names it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
    pub enum Fault {
        /// The end of the source is not passed on.
        FinForgotten,
        /// A half-close ends the other half, too.
        HalfCloseEndsBoth,
        /// A reset that the kernel reports as an end of input is taken for FIN.
        ResetTakenForFin,
        /// What must end by a reset is closed plainly.
        ResetClosedPlainly,
        /// A full send queue is taken for a loss.
        FullQueueTakenForLoss,
        /// Of a partial send the rest is forgotten.
        PartialSendForgotten,
        /// What came early is taken up in reverse.
        EarlyReversed,
        /// What a receive brings while the upstream is changed is thrown away.
        HeldBytesLost,
        /// A receive that was cancelled is not followed by a wait.
        DeafAfterCancel,
        /// A direction without a buffer is not remembered.
        StarvedForgotten,
        /// A buffer is not released.
        BufferLeaked,
        /// A socket is not closed.
        DescriptorLeaked,
        /// A slot is not given back.
        SlotLeaked,
        /// A connection is over although operations are in flight.
        ClosedInFlight,
        /// The upstream is closed although operations on it are in flight.
        LegClosedInFlight,
        /// The upstream is closed while the downstream's bytes are being sent to it.
        LegClosedUnderSend,
        /// A connect that only seems to have succeeded is believed.
        ConnectNotVerified,
        /// A gauge is not counted down.
        GaugeForgotten,
        /// A request is counted twice.
        RequestCountedTwice,
        /// A connection's end is counted twice.
        CloseCountedTwice,
        /// Bytes that pass by splice are counted twice.
        SplicedCountedTwice,
        /// A new generation is not taken up.
        SnapshotStale,
        /// The address decides although a name can.
        NameNotAwaited,
        /// What the workload shows after a connect by address passes without a name.
        LateNameIgnored,
        /// A request passes before its head is whole.
        HeadPassedEarly,
        /// The second request is judged by the first one's route.
        LastRouteKept,
        /// The next request passes before the response to the last one has ended.
        ResponseNotAwaited,
        /// A refusal is said in the middle of a response.
        RefusedInResponse,
        /// The gate is not told what passed by splice.
        SpliceUntold,
        /// A later stream of HTTP/2 goes the first one's way.
        StreamByFirstRoute,
        /// A frame of Egret's own is put into another one.
        FrameInFrame,
        /// A connection of HTTP/2 that carries no further request ends with those that have passed.
        StreamsCutShort,
        /// An idle connection is kept.
        IdleKept,
        /// A drain ends connections in the middle of an exchange.
        DrainCutsShort,
    }

    /// A phase, an event, a gate.
    pub type Met = (&'static str, &'static str, &'static str);

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
        static MET: RefCell<BTreeMap<Met, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// From now on this thread makes this mistake, or none.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    pub(crate) fn is_planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    pub(crate) fn meet(met: Met) {
        MET.with_borrow_mut(|all| *all.entry(met).or_default() += 1);
    }

    /// How often this thread has met what, since it was asked last.
    #[must_use]
    pub fn take_met() -> BTreeMap<Met, u64> {
        MET.take()
    }
}
