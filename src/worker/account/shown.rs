//! Whose a connection is and what it has shown, for those who look at open connections.

use super::Account;
use crate::gate::shown;
use crate::registry::Verdict;
use crate::registry::snapshot::Shown;
use crate::sniff::{Host, Name};
use crate::sys::kernel::Kernel;
use crate::worker::connection::Connection;
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// `destination_service_name`.
    pub(in crate::worker) fn cluster_name<'a>(&'a self, cx: &'a Context<K>) -> &'a str {
        match &self.account {
            Account::Labelled { series, .. } | Account::Tcp { series, .. } => {
                cx.metrics.series.cluster_name(*series)
            }
            Account::Requests => match self.gate.route() {
                Some(route) => &route.cluster.value.service_name,
                None => "",
            },
            Account::Unsettled | Account::Ended => "",
        }
    }

    /// The name that it has shown last, as far as that is kept.
    pub(in crate::worker) fn shown_name<'a>(&'a self, cx: &'a Context<K>) -> Option<&'a str> {
        match &self.account {
            Account::Labelled { series, .. } | Account::Tcp { series, .. } => {
                cx.metrics.series.shown_name(*series)
            }
            Account::Requests | Account::Unsettled => self.gate.route()?.name().map(Name::as_str),
            Account::Ended => None,
        }
    }

    /// Whether the policy in use blocks a connection that shows what this one has shown. No
    /// connection keeps its name for this: it stands in the labels of its series, or in the route
    /// of its last request. An IP address in the place of a name stands in no label, and neither
    /// does a name that found no room: then the address alone decides.
    pub(in crate::worker) fn is_forbidden(&self, cx: &Context<K>) -> bool {
        let host;
        let shown = match &self.account {
            Account::Labelled { series, protocol, .. } | Account::Tcp { series, protocol, .. } => {
                let name = cx.metrics.series.shown_name(*series);
                host = name.and_then(|name| Host::parse(name.as_bytes()).ok());
                shown(*protocol, host.as_ref())
            }
            Account::Requests | Account::Unsettled => match self.gate.route() {
                Some(route) => Shown::Http(route.host.as_ref()),
                None => Shown::Nothing,
            },
            Account::Ended => return false,
        };
        let decision = cx.snapshot.decide(self.source.ip(), self.original_destination, shown);
        matches!(decision.verdict, Verdict::BlackHole)
    }
}
