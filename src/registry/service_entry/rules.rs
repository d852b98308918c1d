//! Rules on more than one field of a service entry, and what is said about fields without effect.
//!
//! Applied to each entry once its fields are read. An error here is one in Istio too; a warning
//! says where Egret does less than Istio, or where the entry does more than its author may think.

use super::{Reach, Resolution, ServiceEntry, Unreachable};
use crate::prefix;
use crate::problem::Fault;
use crate::yaml::fields::Fields;
use crate::yaml::{Node, values};

pub(super) fn check_resolution(entry: &ServiceEntry, fields: &mut Fields<'_, '_>) {
    let resolution = entry.resolution;
    let endpoints = fields.get("endpoints").is_some_and(|node| !is_empty_list(node));
    if resolution == Resolution::None && endpoints {
        let line = fields.line_of("endpoints");
        let message = "resolution NONE connects to the original destination and takes no endpoints";
        let fix = "remove `endpoints`, or use resolution STATIC";
        fields.report().error(Fault::at(line, message).fix(fix));
    }
    if fields.get("workloadSelector").is_some() && endpoints {
        let line = fields.line_of("workloadSelector");
        let message = "`endpoints` and `workloadSelector` exclude each other";
        fields.report().error(Fault::at(line, message).fix("keep one of them"));
    }
    let cidr = entry.addresses.iter().any(|address| !prefix::is_single(address));
    if resolution == Resolution::ByName && cidr {
        let line = fields.line_of("addresses");
        let message = "a CIDR is allowed with resolution NONE and STATIC only";
        fields.report().error(Fault::at(line, message).fix("list single addresses"));
    }
}

/// Says once per entry, or once per port, what cannot be found and what is found too easily.
pub(super) fn warn_of_reach(
    entry: &ServiceEntry,
    port_lines: &[usize],
    fields: &mut Fields<'_, '_>,
) {
    let name = entry.full_name();
    if fields.get("ports").is_none_or(is_empty_list) {
        let message = format!("{name} has no ports and matches nothing");
        let line = fields.line_of("ports");
        return fields.report().warning(Fault::at(line, message).fix("add `ports`"));
    }
    let mut whole = None;
    for (port, line) in entry.ports.iter().zip(port_lines) {
        let number = port.number;
        let (message, fix) = match entry.reach(port) {
            Reach::Addresses => continue,
            Reach::BarePort => (
                format!("{name} has no addresses: port {number} matches every address"),
                "list the service's `addresses`",
            ),
            Reach::Nothing(Unreachable::NeedsName) => (
                format!("{name} has no addresses: port {number} matches by name only, not yet"),
                "list the service's `addresses`",
            ),
            Reach::Nothing(Unreachable::Udp) => {
                (format!("{name} port {number} is UDP and matches nothing"), "")
            }
            Reach::Nothing(reason) => {
                whole = Some(reason);
                continue;
            }
        };
        fields.report().warning(Fault::at(*line, message).fix(fix));
    }
    let (line, message, fix) = match whole {
        Some(Unreachable::ResolvesByName) => (
            fields.line_of("resolution"),
            format!("{name} resolves by name, which is not acted on: it matches nothing"),
            "use resolution NONE with `addresses`, or STATIC with `endpoints`",
        ),
        Some(_) => (
            fields.line_of("endpoints"),
            format!("{name} has resolution STATIC and no usable endpoint: it matches nothing"),
            "add `endpoints`",
        ),
        None => return,
    };
    fields.report().warning(Fault::at(line, message).fix(fix));
}

pub(super) fn not_acted_on(fields: &mut Fields<'_, '_>) {
    for name in ["exportTo", "subjectAltNames", "workloadSelector"] {
        warn_unused(fields, name, "`spec");
    }
    let location = fields.get("location");
    if location.is_some_and(|node| values::text(node) == Ok("MESH_INTERNAL")) {
        let line = fields.line_of("location");
        let message = "`spec.location` MESH_INTERNAL is not acted on: no mutual TLS is added";
        fields.report().warning(Fault::at(line, message));
    }
}

pub(super) fn warn_unused(fields: &mut Fields<'_, '_>, name: &'static str, path: &str) {
    if fields.get(name).is_some() {
        let line = fields.line_of(name);
        fields.report().warning(Fault::at(line, format!("{path}.{name}` is not acted on")));
    }
}

pub(super) fn is_empty_list(node: &Node<'_>) -> bool {
    values::items(node).is_ok_and(<[Node<'_>]>::is_empty)
}
