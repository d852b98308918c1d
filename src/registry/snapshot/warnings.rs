//! What is wrong with service entries that are each right by themselves: two of them claim the
//! same, or the configuration leaves one without effect.

use ipnet::IpNet;

use super::index::Taken;
use super::service::Service;
use crate::config::{Config, Mode, Names, Unverified};
use crate::diagnostics::{DIAGNOSTICS_MAX, Diagnostic, Finding, Severity};
use crate::prefix;
use crate::registry::service_entry::{ByAddress, Origin, Port, Reach, Resolution, ServiceEntry};
use crate::upstream_guard::{self, Refused};

/// The warnings of one snapshot, bounded: an operator reads a few.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    diagnostics: Vec<Diagnostic>,
    left_out: usize,
}

impl Warnings {
    /// `loser` claims what `winner` has.
    pub(super) fn conflict(&mut self, loser: &Service, winner: &Service, taken: &Taken) {
        // Two hosts of one entry may have one address; one host of two entries has the endpoints of
        // both.
        let is_same = (&loser.entry, &loser.origin) == (&winner.entry, &winner.origin);
        if is_same || loser.shares_endpoints(winner) {
            return;
        }
        let Origin { file, line } = &winner.origin;
        if taken.is_name && loser.namespace() != winner.namespace() {
            let message = format!(
                "{} has {} port {} for workloads of its own namespace only: {} has it for all \
                 others ({}:{line})",
                loser.entry,
                taken.what,
                loser.port,
                winner.entry,
                file.display()
            );
            let fix = "the older entry wins, as in Istio; remove it from one of them";
            return self.add(&loser.origin, message, fix);
        }
        let message = format!(
            "{} loses {} port {} to {} ({}:{line})",
            loser.entry,
            taken.what,
            loser.port,
            winner.entry,
            file.display()
        );
        let fix = "the older entry wins, then the first by name; remove it from one of them";
        self.add(&loser.origin, message, fix);
    }

    /// What `names` leaves of a port that is found by its name only.
    pub(super) fn effect_of(
        &mut self,
        names: &Names,
        entry: &ServiceEntry,
        port: &Port,
        reach: Reach,
    ) {
        let has_address = !entry.addresses.is_empty() || !entry.allocated.is_empty();
        let by_address = match reach.by_address {
            ByAddress::Nothing | ByAddress::AsHost => false,
            ByAddress::ListedWithSni => entry.addresses.iter().any(prefix::is_single),
            ByAddress::Listed | ByAddress::Resolved | ByAddress::Any => true,
        };
        if by_address {
            return;
        }
        let (name, number) = (entry.full_name(), port.number);
        let is_claim = entry.resolution == Resolution::None;
        let (message, fix) = if !names.enabled {
            let message = format!("{name} port {number} matches nothing: names.enabled is false");
            (message, "set names.enabled, or declare TCP and list the service's `addresses`")
        } else if is_claim && !has_address && names.unverified == Unverified::Block {
            let message = format!(
                "{name} has neither endpoints nor addresses: connections that match it on port \
                 {number} are blocked, because names.unverified is block"
            );
            (
                message,
                "use resolution DNS, or list the service's `addresses`, or set names.unverified to \
                           resolve",
            )
        } else {
            return;
        };
        self.add(&entry.origin, message, fix);
    }

    /// What `config` lets workloads do by claiming a name of `entry`.
    pub(super) fn reach_of_claims(&mut self, config: &Config, entry: &ServiceEntry) {
        let is_open = config.outbound_traffic_policy.mode == Mode::RegistryOnly
            && config.names.unverified.follows_claim()
            && entry.resolution == Resolution::None;
        if !is_open {
            return;
        }
        let is_claimed = |(port, reach): (&Port, Reach)| {
            // Every address is the entry's own, which is said elsewhere.
            let is_any = reach.by_address == ByAddress::Any;
            let reads_names = config.names.enabled && reach.by_name.is_some();
            (reads_names && !is_any).then(|| port.number.to_string())
        };
        let ports: Vec<String> = entry.reachable_ports().filter_map(is_claimed).collect();
        if ports.is_empty() {
            return;
        }
        let message = format!(
            "{} lets a workload reach any address on port {} by claiming one of its hosts",
            entry.full_name(),
            ports.join(", ")
        );
        let fix = "set names.unverified to resolve or block, or use resolution DNS";
        self.add(&entry.origin, message, fix);
    }

    /// `entry` lists addresses to connect to, and Egret connects to none of them.
    pub(super) fn effect_of_guard(
        &mut self,
        rules: upstream_guard::Rules<'_>,
        entry: &ServiceEntry,
    ) {
        let judge = |to: IpNet| upstream_guard::leads_nowhere(&prefix::canonical(to), rules);
        let why = match entry.resolution {
            Resolution::None => first_of_all(entry.addresses.iter().copied().map(judge)),
            Resolution::Static => {
                first_of_all(entry.listed_endpoints().map(IpNet::from).map(judge))
            }
            // What its names resolve to is not known yet.
            Resolution::Dns | Resolution::DynamicDns => return,
        };
        let Some(why) = why else { return };
        let message = format!(
            "{} leads only to addresses that Egret does not connect to ({})",
            entry.full_name(),
            why.label()
        );
        self.add(&entry.origin, message, "list them in upstream.allow, if workloads may go there");
    }

    fn add(&mut self, origin: &Origin, message: String, fix: &str) {
        if self.diagnostics.len() >= DIAGNOSTICS_MAX {
            self.left_out += 1;
            return;
        }
        let finding = Finding::at(origin.line, message).fix(fix);
        self.diagnostics.push(finding.diagnostic(Severity::Warning, &origin.file));
    }

    /// All of them, with a count of those that were left out.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        if let Some(last) = self.diagnostics.last().filter(|_| self.left_out > 0) {
            let more = format!("{} more warnings about entries, in all files", self.left_out);
            let diagnostic = Finding::whole(more).diagnostic(Severity::Warning, &last.file);
            self.diagnostics.push(diagnostic);
        }
        self.diagnostics
    }
}

/// The first reason, if there is one for each.
fn first_of_all(mut reasons: impl Iterator<Item = Option<Refused>>) -> Option<Refused> {
    let first = reasons.next()??;
    reasons.all(|reason| reason.is_some()).then_some(first)
}
