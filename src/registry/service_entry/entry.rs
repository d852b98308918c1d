//! One document to a service entry: its fields, each by itself. What they mean together is in
//! `rules`.

use std::net::IpAddr;
use std::sync::Arc;

use super::endpoints::read_endpoint;
use super::rules::{
    check_export_to, check_resolution, check_selector, not_acted_on, warn_of_plain_http,
    warn_of_reach, warn_of_shared_address,
};
use super::syntax::{dns_label, is_dns_label};
use super::{Allocated, HostPattern, Origin, Port, Protocol, Resolution, ServiceEntry};
use crate::diagnostics::{Diagnostics, Finding};
use crate::prefix;
use crate::yaml::fields::Fields;
use crate::yaml::{Node, values};

/// Istio's limit for hosts, addresses and ports of one entry.
const ITEMS_MAX: usize = 256;
/// The namespace of a document that names none, as in Kubernetes.
pub(super) const NAMESPACE: &str = "default";

pub(super) fn service_entry(
    node: &Node<'_>,
    origin: Origin,
    diagnostics: &mut Diagnostics,
) -> ServiceEntry {
    let mut entry = ServiceEntry {
        name: "".into(),
        namespace: NAMESPACE.into(),
        created: None,
        hosts: Vec::new(),
        is_visible: true,
        addresses: Arc::new([]),
        allocated: Vec::new(),
        ports: Vec::new(),
        resolution: Resolution::None,
        endpoints: Vec::new(),
        origin,
        is_stale: false,
    };
    let mut fields = Fields::of(node, "", diagnostics);
    fields.get("apiVersion");
    fields.get("kind");
    match fields.section("metadata") {
        Some(metadata) => read_metadata(&mut entry, metadata),
        None => fields.diagnostics().error(Finding::at(node.line, "there is no `metadata.name`")),
    }
    match fields.section("spec") {
        Some(spec) => read_spec(&mut entry, spec),
        None => fields.diagnostics().error(Finding::at(node.line, "there is no `spec`")),
    }
    if let Some(status) = fields.get("status") {
        read_status(&mut entry, status, fields.diagnostics());
    }
    fields.warn_of_others();
    entry
}

fn read_metadata(entry: &mut ServiceEntry, mut fields: Fields<'_, '_>) {
    fields.read("name", &mut entry.name, name);
    if entry.name.is_empty() {
        let line = fields.line_of("name");
        fields
            .diagnostics()
            .error(Finding::at(line, "there is no `metadata.name`").fix("give it one"));
    }
    fields.read("namespace", &mut entry.namespace, name);
    if let Some(node) = fields.get("creationTimestamp") {
        let parsed = values::text(node).ok().and_then(|t| humantime::parse_rfc3339_weak(t).ok());
        entry.created = parsed;
        if parsed.is_none() {
            let message = "`metadata.creationTimestamp` is not a time and is ignored";
            let fix = "write it as 2026-01-31T12:00:00Z";
            fields.diagnostics().warning(Finding::at(node.line, message).fix(fix));
        }
    }
    // The rest of the metadata (annotations, labels, uid, managedFields...) is Kubernetes's own.
}

/// What Istio has allocated holds where the document lists no addresses. The rest of the status is
/// Istio's diagnostics.
fn read_status(entry: &mut ServiceEntry, node: &Node<'_>, diagnostics: &mut Diagnostics) {
    let nodes = node.get("addresses").and_then(|node| values::items(node).ok()).unwrap_or_default();
    for node in nodes.iter().filter(|_| entry.addresses.is_empty()) {
        let text = |name: &str| node.get(name).and_then(|node| values::text(node).ok());
        let host = text("host").map(|host| host.to_ascii_lowercase().into());
        match text("value").and_then(|text| text.parse::<IpAddr>().ok()) {
            Some(address) => {
                entry.allocated.push(Allocated { address: address.to_canonical(), host });
            }
            None => {
                let message = "`status.addresses[]` without an IP address in `value` is ignored";
                diagnostics.warning(Finding::at(node.line, message));
            }
        }
    }
}

fn read_spec(entry: &mut ServiceEntry, mut fields: Fields<'_, '_>) {
    fields.read("hosts", &mut entry.hosts, |node| bounded(node, host));
    if fields.get("hosts").is_none_or(values::is_empty_list) {
        let line = fields.line_of("hosts");
        let finding = Finding::at(line, "there are no `spec.hosts`").fix("name at least one host");
        fields.diagnostics().error(finding);
    }
    let mut addresses = Vec::new();
    fields.read("addresses", &mut addresses, |node| bounded(node, prefix::parse));
    entry.addresses = addresses.into();
    let mut unset = ();
    let locations = [("MESH_EXTERNAL", ()), ("MESH_INTERNAL", ())];
    fields.read("location", &mut unset, |node| values::choice(node, &locations));
    let resolutions = [
        ("NONE", Resolution::None),
        ("STATIC", Resolution::Static),
        ("DNS", Resolution::Dns),
        ("DNS_ROUND_ROBIN", Resolution::Dns),
        ("DYNAMIC_DNS", Resolution::DynamicDns),
    ];
    fields.read("resolution", &mut entry.resolution, |node| values::choice(node, &resolutions));
    let mut port_lines = Vec::new();
    for node in list_of(&mut fields, "ports") {
        if let Some(port) = read_port(entry, node, fields.diagnostics()) {
            entry.ports.push(port);
            port_lines.push(node.line);
        }
    }
    for node in list_of(&mut fields, "endpoints") {
        read_endpoint(entry, node, fields.diagnostics());
    }
    check_resolution(entry, &mut fields);
    warn_of_reach(entry, &port_lines, &mut fields);
    warn_of_plain_http(entry, &port_lines, &mut fields);
    warn_of_shared_address(entry, &mut fields);
    entry.is_visible = check_export_to(&mut fields);
    check_selector(&mut fields);
    not_acted_on(&mut fields);
    fields.warn_of_others();
}

fn read_port(entry: &ServiceEntry, node: &Node<'_>, diagnostics: &mut Diagnostics) -> Option<Port> {
    let errors = diagnostics.errors();
    let mut fields = Fields::of(node, "ports[]", diagnostics);
    let (mut number, mut name, mut target) = (None, Box::<str>::from(""), None);
    fields.read("number", &mut number, |node| values::number(node, 1..=u16::MAX).map(Some));
    fields.read("name", &mut name, dns_label);
    // 0 is how protobuf writes "not set".
    fields.read_optional("targetPort", &mut target, |node| values::number(node, 0..=u16::MAX));
    let target_port = target.filter(|port| *port != 0);
    let mut protocol = Protocol::Auto;
    fields.read_set("protocol", &mut protocol, read_protocol);
    if fields.get("number").is_none() || fields.get("name").is_none() {
        let finding = Finding::at(node.line, "a port needs a `number` and a `name`");
        fields.diagnostics().error(finding);
    }
    fields.warn_of_others();
    let number = number.filter(|_| diagnostics.errors() == errors)?;
    if entry.ports.iter().any(|port| port.number == number || port.name == name) {
        let message = format!("port {number} (`{name}`) repeats a number or a name");
        diagnostics.error(Finding::at(node.line, message).fix("both must be unique"));
        return None;
    }
    Some(Port { number, name, protocol, target_port })
}

fn list_of<'n>(fields: &mut Fields<'n, '_>, name: &'static str) -> &'n [Node<'n>] {
    let Some(node) = fields.get(name) else { return &[] };
    match values::items(node) {
        Ok(items) if items.len() <= ITEMS_MAX || name == "endpoints" => items,
        Ok(_) => {
            let message = format!("`{name}` has more than {ITEMS_MAX} items");
            fields.diagnostics().error(Finding::at(node.line, message));
            &[]
        }
        Err(finding) => {
            fields.diagnostics().error(finding);
            &[]
        }
    }
}

fn bounded<'n, T>(
    node: &'n Node<'n>,
    item: impl FnMut(&'n Node<'n>) -> Result<T, Finding>,
) -> Result<Vec<T>, Finding> {
    let list = values::list(node, item)?;
    if list.len() > ITEMS_MAX {
        return Err(Finding::at(node.line, format!("more than {ITEMS_MAX} items")));
    }
    Ok(list)
}

/// The protocols of Istio (`pkg/config/protocol`). A mistyped one must not read as unset: that
/// would take every connection to the port.
fn read_protocol(node: &Node<'_>) -> Result<Protocol, Finding> {
    let text = values::text(node)?;
    match text.to_ascii_uppercase().as_str() {
        "" => Ok(Protocol::Auto),
        "TCP" | "MONGO" | "REDIS" | "MYSQL" => Ok(Protocol::Opaque),
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY" => Ok(Protocol::Http),
        "HTTPS" | "TLS" => Ok(Protocol::Tls),
        "UDP" => Ok(Protocol::Udp),
        _ => {
            let message = format!("unknown protocol `{}`", values::shortened(text));
            let fix = "allowed: HTTP, HTTP2, GRPC, GRPC-WEB, HTTP_PROXY, HTTPS, TLS, TCP, MONGO, \
                       REDIS, MYSQL, UDP";
            Err(Finding::at(node.line, message).fix(fix))
        }
    }
}

/// A name that becomes a label: bounded, as DNS bounds it.
pub(super) fn name(node: &Node<'_>) -> Result<Box<str>, Finding> {
    const BYTES_MAX: usize = 253;
    let text = values::text(node)?;
    if text.is_empty() || text.len() > BYTES_MAX || text.contains(char::is_whitespace) {
        let message = format!("`{}` is not a name", values::shortened(text));
        return Err(Finding::at(node.line, message));
    }
    Ok(text.into())
}

fn host(node: &Node<'_>) -> Result<HostPattern, Finding> {
    let text = values::text(node)?;
    if text == "*" {
        return Err(Finding::at(node.line, "host `*` would match everything")
            .fix("use outboundTrafficPolicy.mode to allow any"));
    }
    let refused = |why: &dyn std::fmt::Display| {
        let message = format!("host `{}` is not a DNS name: {why}", values::shortened(text));
        Finding::at(node.line, message).fix("write it as api.example.com or *.example.com")
    };
    let host = HostPattern::parse(text).map_err(|error| refused(&error))?;
    // Workloads may ask for names with underscores; a wildcard takes them in.
    match bad_label(text) {
        Some(label) => Err(refused(&format!("`{label}` is no label of one"))),
        None => Ok(host),
    }
}

/// The label of a host that no DNS name has. What stands behind a wildcard may begin with a hyphen.
fn bad_label(text: &str) -> Option<&str> {
    let end = text.strip_prefix("*.").or(text.strip_prefix('*')).unwrap_or(text);
    let end = end.strip_suffix('.').unwrap_or(end);
    let mut labels = end.split('.');
    let first = labels.next().filter(|first| {
        let rest = if text.starts_with('*') { first.trim_start_matches('-') } else { first };
        !is_dns_label(rest)
    });
    first.or_else(|| labels.find(|label| !is_dns_label(label)))
}
