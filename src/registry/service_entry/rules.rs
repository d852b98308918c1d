//! Rules on more than one field of a service entry, and what is said about fields without effect.
//!
//! Applied to each entry once its fields are read. An error here is one in Istio too; a warning
//! says where Egret does less than Istio, or where the entry does more than its author may think.

use std::collections::HashSet;

use super::syntax::{check_labels, is_dns_label};
use super::{ByAddress, Protocol, Reach, Resolution, ServiceEntry};
use crate::diagnostics::Finding;
use crate::prefix;
use crate::yaml::fields::Fields;
use crate::yaml::{Node, Value, values};

pub(super) fn check_resolution(entry: &ServiceEntry, fields: &mut Fields<'_, '_>) {
    let resolution = entry.resolution;
    let endpoints = fields.get("endpoints").is_some_and(|node| !values::is_empty_list(node));
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
    // However long: a prefix says that not all of it is this service.
    let is_cidr = |node: &Node<'_>| values::text(node).is_ok_and(|text| text.contains('/'));
    let cidr = values_of(fields, "addresses").iter().any(is_cidr);
    if resolution == Resolution::Dns && cidr {
        let line = fields.line_of("addresses");
        let message = "a CIDR is allowed with resolution NONE and STATIC only";
        fields.diagnostics().error(Finding::at(line, message).fix("list single addresses"));
    }
    let nameless = entry
        .ports
        .iter()
        .any(|port| matches!(port.protocol, Protocol::Opaque | Protocol::Auto | Protocol::Udp));
    if resolution != Resolution::None && entry.hosts.len() > 1 && nameless {
        let line = fields.line_of("hosts");
        let message = "several hosts on a port that is neither HTTP nor TLS cannot be told apart";
        let fix = "write an entry for each host, or use resolution NONE";
        fields.diagnostics().error(Finding::at(line, message).fix(fix));
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
        if fields.get(name).is_some_and(|node| !values::is_empty_list(node)) {
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
    let named = ["HTTP", "HTTP2", "GRPC", "TLS"];
    for port in values_of(fields, "ports") {
        let protocol = port.get("protocol").and_then(|node| values::text(node).ok());
        if !protocol.is_some_and(|text| named.contains(&&*text.to_ascii_uppercase())) {
            let message = format!("resolution DYNAMIC_DNS needs a port with {}", named.join(", "));
            let fix = "declare its `protocol`, or use another resolution";
            fields.diagnostics().error(Finding::at(port.line, message).fix(fix));
        }
    }
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
    if fields.get("ports").is_none_or(values::is_empty_list) {
        let message = format!("{name} has no ports and matches nothing");
        let line = fields.line_of("ports");
        return fields.diagnostics().warning(Finding::at(line, message).fix("add `ports`"));
    }
    for (port, line) in entry.ports.iter().zip(port_lines) {
        let number = port.number;
        match entry.reach(port) {
            Some(Reach { by_address: ByAddress::Any, .. }) => {
                let message =
                    format!("{name} has no addresses: port {number} matches every address");
                let fix = "list the service's `addresses`";
                fields.diagnostics().warning(Finding::at(*line, message).fix(fix));
            }
            Some(_) => {}
            None => {
                let message = format!("{name} port {number} is UDP and matches nothing");
                fields.diagnostics().warning(Finding::at(*line, message));
            }
        }
    }
    if entry.resolution == Resolution::Static && entry.endpoints.is_empty() {
        let message = format!(
            "{name} has resolution STATIC and no usable endpoint: its connections end with 503 or \
             a reset (UH)"
        );
        let line = fields.line_of("endpoints");
        fields.diagnostics().warning(Finding::at(line, message).fix("add `endpoints`"));
    }
}

/// The items of the list `name`, as far as it is one.
fn values_of<'n>(fields: &mut Fields<'n, '_>, name: &'static str) -> &'n [Node<'n>] {
    fields.get(name).and_then(|node| values::items(node).ok()).unwrap_or_default()
}

/// Which namespaces see the entry. Returns whether any does.
pub(super) fn check_export_to(fields: &mut Fields<'_, '_>) -> bool {
    let nodes = values_of(fields, "exportTo");
    let texts: Vec<&str> = nodes.iter().filter_map(|node| values::text(node).ok()).collect();
    let mut seen = HashSet::new();
    for (node, text) in nodes.iter().zip(&texts) {
        let shown = values::shortened(text);
        let message = match *text {
            _ if !seen.insert(text) => format!("`spec.exportTo` names `{shown}` twice"),
            "*" | "~" if texts.len() > 1 => format!("`spec.exportTo`: `{shown}` stands alone"),
            "." | "*" | "~" => continue,
            _ if is_dns_label(text) => continue,
            _ => format!("`spec.exportTo`: `{shown}` is no namespace"),
        };
        let fix = "write [\".\"], [\"*\"], [\"~\"], or names of namespaces";
        fields.diagnostics().error(Finding::at(node.line, message).fix(fix));
        break;
    }
    let is_for_nobody = texts == ["~"];
    let line = fields.line_of("exportTo");
    if is_for_nobody {
        let message = "`spec.exportTo` is `~`: no workload sees the entry, it matches nothing";
        fields.diagnostics().warning(Finding::at(line, message));
    } else if texts.iter().any(|text| *text != "*") {
        let message = "`spec.exportTo` is not acted on: workloads of all namespaces see the entry";
        fields.diagnostics().warning(Finding::at(line, message));
    }
    !is_for_nobody
}

/// `workloadSelector` is not acted on; one that Istio refuses is refused.
pub(super) fn check_selector(fields: &mut Fields<'_, '_>) {
    let Some(selector) = fields.get("workloadSelector") else { return };
    if let Some(Node { value: Value::Mapping(labels), .. }) = selector.get("labels") {
        for (key, value) in labels {
            let text = values::text(value).unwrap_or_default();
            if key.name.is_empty() || key.name.contains('*') || text.contains('*') {
                let key = values::shortened(&key.name);
                let message = format!("`spec.workloadSelector`: `{key}: {text}` selects no label");
                let fix = "name one label, without `*`";
                fields.diagnostics().error(Finding::at(value.line, message).fix(fix));
            }
        }
    }
    warn_unused(fields, "workloadSelector", "`spec");
}

/// The labels of an endpoint have no effect; what is no label is refused.
pub(super) fn check_endpoint_labels(fields: &mut Fields<'_, '_>) {
    if let Some(Err(finding)) = fields.get("labels").map(check_labels) {
        fields.diagnostics().error(finding);
    }
}

/// HTTP that is sent to the port of HTTPS: in Istio a DestinationRule would add the TLS.
pub(super) fn warn_of_plain_http(
    entry: &ServiceEntry,
    port_lines: &[usize],
    fields: &mut Fields<'_, '_>,
) {
    const HTTPS_PORT: u16 = 443;
    for (port, line) in entry.ports.iter().zip(port_lines) {
        if port.protocol == Protocol::Http && port.target_port == Some(HTTPS_PORT) {
            let (name, number) = (entry.full_name(), port.number);
            let message = format!(
                "{name} port {number} sends plain HTTP to port 443: Egret does not originate TLS"
            );
            let fix = "let the workload speak TLS to a port with protocol TLS";
            fields.diagnostics().warning(Finding::at(*line, message).fix(fix));
        }
    }
}

/// Several TLS hosts on one address: what shows none of their names goes to the first.
pub(super) fn warn_of_shared_address(entry: &ServiceEntry, fields: &mut Fields<'_, '_>) {
    let is_tls = entry.ports.iter().any(|port| port.protocol == Protocol::Tls);
    let has_single = entry.addresses.iter().any(prefix::is_single);
    let Some(first) = entry.hosts.iter().map(ToString::to_string).min() else { return };
    if entry.hosts.len() > 1 && is_tls && has_single && entry.resolution != Resolution::None {
        let message = format!(
            "{} has several hosts on one address: what shows no SNI of theirs goes to {first}",
            entry.full_name()
        );
        let line = fields.line_of("addresses");
        let fix = "write an entry for each host, with addresses of its own";
        fields.diagnostics().warning(Finding::at(line, message).fix(fix));
    }
}

pub(super) fn not_acted_on(fields: &mut Fields<'_, '_>) {
    warn_unused(fields, "subjectAltNames", "`spec");
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
