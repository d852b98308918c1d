//! What is wrong with service entries that are each right by themselves: two of them claim the
//! same, or the configuration leaves one without effect.

use super::index::Taken;
use super::service::{Service, Target};
use crate::config::{Names, Unverified};
use crate::problem::{Fault, PROBLEMS_MAX, Problem, Severity};
use crate::registry::service_entry::{ByAddress, Origin};

/// The warnings of one snapshot, bounded: an operator reads a few.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    problems: Vec<Problem>,
    left_out: usize,
}

impl Warnings {
    /// `loser` claims what `winner` has.
    pub(super) fn conflict(&mut self, loser: &Service, winner: &Service, taken: &Taken) {
        // Two hosts of one entry may resolve to one address.
        if (&loser.entry, &loser.origin) == (&winner.entry, &winner.origin) {
            return;
        }
        let Origin { file, line } = &winner.origin;
        let message = format!(
            "{} loses {} port {} to {} ({}:{line})",
            loser.entry,
            taken.what,
            loser.port,
            winner.entry,
            file.display()
        );
        let fix = "the older entry wins, then the first by name; remove it from one of them";
        self.add(loser, message, fix);
    }

    /// What `names` takes away from `service`, if it is found by its name.
    pub(super) fn effect_of(&mut self, names: &Names, service: &Service) {
        if service.reach.by_name.is_none() {
            return;
        }
        let Service { entry, host, port, .. } = service;
        let by_address = match service.reach.by_address {
            ByAddress::Nothing => "it matches nothing",
            ByAddress::Listed | ByAddress::Resolved | ByAddress::Any => {
                "it matches by address only"
            }
        };
        if !names.enabled {
            let message = format!("{entry} port {port}: names.enabled is false, so {by_address}");
            return self.add(service, message, "set names.enabled, or list `addresses`");
        }
        if !names.decide_on(*port) {
            let message =
                format!("{entry} port {port}: names.opaquePorts lists the port, so {by_address}");
            return self.add(service, message, "take the port out of names.opaquePorts");
        }
        let is_claim = matches!(service.target, Target::OriginalDestination { .. });
        if is_claim && names.unverified == Unverified::Block {
            let message = format!(
                "{entry} has no endpoints: names.unverified is block, so connections that are \
                 found by the name `{host}` on port {port} are blocked"
            );
            self.add(service, message, "use resolution DNS, or set names.unverified to allow");
        }
    }

    fn add(&mut self, service: &Service, message: String, fix: &str) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.left_out += 1;
            return;
        }
        let fault = Fault::at(service.origin.line, message).fix(fix);
        self.problems.push(fault.problem(Severity::Warning, &service.origin.file));
    }

    /// All of them, with a count of those that were left out.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        if let Some(last) = self.problems.last().filter(|_| self.left_out > 0) {
            let more = format!("{} more warnings about entries, in all files", self.left_out);
            let problem = Fault::whole(more).problem(Severity::Warning, &last.file);
            self.problems.push(problem);
        }
        self.problems
    }
}
