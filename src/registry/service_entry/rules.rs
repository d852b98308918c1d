//! Rules on more than one field of a service entry, and what is said about fields without effect.
//!
//! Applied to each entry once its fields are read. An error here is one in Istio too; a warning
//! says where Egret does less than Istio, or where the entry does more than its author may think.

use super::{ByAddress, Reach, Resolution, ServiceEntry, Unreachable};
use crate::diagnostics::Finding;
use crate::prefix;
use crate::yaml::fields::Fields;
use crate::yaml::{Node, values};

pub(super) fn check_resolution(entry: &ServiceEntry, fields: &mut Fields<'_, '_>) {
    let resolution = entry.resolution;
    let endpoints = fields.get("endpoints").is_some_and(|node| !is_empty_list(node));
    if resolution == Resolution::None && endpoints {
        let line = fields.line_of("endpoints");
        let message = "resolution NONE connects to the original destination and takes no endpoints";
        let fix = "remove `endpoints`, or use resolution STATIC";
        fields.diagnostics().error(Finding::at(line, message).fix(fix));
    }
    if fields.get("workloadSelector").is_some() && endpoints {
        let line = fields.line_of("workloadSelector");
        let message = "`endpoints` and `workloadSelector` exclude each other";
        fields.diagnostics().error(Finding::at(line, message).fix("keep one of them"));
    }
    let cidr = entry.addresses.iter().any(|address| !prefix::is_single(address));
    if resolution == Resolution::Dns && cidr {
        let line = fields.line_of("addresses");
        let message = "a CIDR is allowed with resolution NONE and STATIC only";
        fields.diagnostics().error(Finding::at(line, message).fix("list single addresses"));
    }
    match resolution {
        Resolution::Dns => check_dns(entry, fields),
        Resolution::DynamicDns => check_dynamic_dns(entry, fields),
        Resolution::None | Resolution::Static => {}
    }
}

fn check_dns(entry: &ServiceEntry, fields: &mut Fields<'_, '_>) {
    let wildcard = entry.hosts.iter().find(|host| host.exact().is_none());
    if let Some(host) = wildcard.filter(|_| entry.endpoints.is_empty()) {
        let line = fields.line_of("hosts");
        let message = format!("resolution DNS cannot resolve the wildcard `{host}`");
        let fix = "list names without `*`, or `endpoints`, or use resolution NONE";
        fields.diagnostics().error(Finding::at(line, message).fix(fix));
    }
    let word = fields.get("resolution").and_then(|node| values::text(node).ok());
    if word == Some("DNS_ROUND_ROBIN") && entry.endpoints.len() > 1 {
        let line = fields.line_of("endpoints");
        let message = "resolution DNS_ROUND_ROBIN takes one endpoint at most";
        fields
            .diagnostics()
            .error(Finding::at(line, message).fix("keep one, or use resolution DNS"));
    }
}

fn check_dynamic_dns(entry: &ServiceEntry, fields: &mut Fields<'_, '_>) {
    for name in ["addresses", "endpoints"] {
        if fields.get(name).is_some_and(|node| !is_empty_list(node)) {
            let line = fields.line_of(name);
            let message = format!("resolution DYNAMIC_DNS takes no {name}");
            fields.diagnostics().error(Finding::at(line, message).fix(format!("remove `{name}`")));
        }
    }
    if let Some(host) = entry.hosts.iter().find(|host| host.exact().is_some()) {
        let line = fields.line_of("hosts");
        let message = format!("resolution DYNAMIC_DNS takes wildcards only, and `{host}` is none");
        fields.diagnostics().error(Finding::at(line, message).fix("use resolution DNS for it"));
    }
    let line = fields.line_of("resolution");
    let message = "resolution DYNAMIC_DNS is not acted on: the name is matched, not resolved \
                   again, and connections go to their original destination";
    fields.diagnostics().warning(Finding::at(line, message));
}

/// Says what cannot be found, and what is found too easily.
pub(super) fn warn_of_reach(
    entry: &ServiceEntry,
    port_lines: &[usize],
    fields: &mut Fields<'_, '_>,
) {
    let name = entry.full_name();
    if let Some(host) = entry.hosts.iter().find(|host| host.is_partial()) {
        let line = fields.line_of("hosts");
        let end = host.to_string();
        let message = format!("host `{host}` matches every name that ends so, whoever owns it");
        let fix = format!("write `*.{}` for the names below that domain", &end[1..]);
        fields.diagnostics().warning(Finding::at(line, message).fix(fix));
    }
    if fields.get("ports").is_none_or(is_empty_list) {
        let message = format!("{name} has no ports and matches nothing");
        let line = fields.line_of("ports");
        return fields.diagnostics().warning(Finding::at(line, message).fix("add `ports`"));
    }
    let mut no_endpoint = false;
    for (port, line) in entry.ports.iter().zip(port_lines) {
        let number = port.number;
        match entry.reach(port) {
            Ok(Reach { by_address: ByAddress::Any, .. }) => {
                let message =
                    format!("{name} has no addresses: port {number} matches every address");
                let fix = "list the service's `addresses`";
                fields.diagnostics().warning(Finding::at(*line, message).fix(fix));
            }
            Ok(_) => {}
            Err(Unreachable::Udp) => {
                let message = format!("{name} port {number} is UDP and matches nothing");
                fields.diagnostics().warning(Finding::at(*line, message));
            }
            Err(Unreachable::NoName) => {
                let message = format!("resolution DYNAMIC_DNS needs HTTP or TLS on port {number}");
                let fix = "declare its `protocol`, or use another resolution";
                fields.diagnostics().error(Finding::at(*line, message).fix(fix));
            }
            Err(Unreachable::NoEndpoint) => no_endpoint = true,
        }
    }
    if no_endpoint {
        let message =
            format!("{name} has resolution STATIC and no usable endpoint: it matches nothing");
        let line = fields.line_of("endpoints");
        fields.diagnostics().warning(Finding::at(line, message).fix("add `endpoints`"));
    }
}

pub(super) fn not_acted_on(fields: &mut Fields<'_, '_>) {
    for name in ["exportTo", "subjectAltNames", "workloadSelector"] {
        warn_unused(fields, name, "`spec");
    }
    let location = fields.get("location");
    if location.is_some_and(|node| values::text(node) == Ok("MESH_INTERNAL")) {
        let line = fields.line_of("location");
        let message = "`spec.location` MESH_INTERNAL is not acted on: no mutual TLS is added";
        fields.diagnostics().warning(Finding::at(line, message));
    }
}

pub(super) fn warn_unused(fields: &mut Fields<'_, '_>, name: &'static str, path: &str) {
    if fields.get(name).is_some() {
        let line = fields.line_of(name);
        fields.diagnostics().warning(Finding::at(line, format!("{path}.{name}` is not acted on")));
    }
}

pub(super) fn is_empty_list(node: &Node<'_>) -> bool {
    values::items(node).is_ok_and(<[Node<'_>]>::is_empty)
}
