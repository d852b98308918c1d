//! Registry files to service entries: the documents, their fields, Istio's rules.
//!
//! A document that Istio would refuse is an error, and so the whole file is; what Istio accepts and
//! Egret does not act on is a warning with its line. The ordinary metadata that `kubectl get -o
//! yaml` prints is neither.

use std::path::Path;
use std::sync::Arc;

use super::rules::{check_resolution, is_empty_list, not_acted_on, warn_of_reach, warn_unused};
use super::{
    Endpoint, EndpointAddress, HostPattern, Origin, Port, Protocol, Resolution, ServiceEntry,
};
use crate::diagnostics::{Diagnostic, Diagnostics, Finding};
use crate::prefix;
use crate::sniff::Host;
use crate::yaml::fields::Fields;
use crate::yaml::{self, Node, Value, values};

/// Istio's limit for hosts, addresses and ports of one entry.
const ITEMS_MAX: usize = 256;
const GROUP: &str = "networking.istio.io/";
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
/// The other kinds of the group, which stand beside service entries in a dump of a cluster.
const OTHER_KINDS: [&str; 8] = [
    "DestinationRule",
    "EnvoyFilter",
    "Gateway",
    "ProxyConfig",
    "Sidecar",
    "VirtualService",
    "WorkloadEntry",
    "WorkloadGroup",
];

type Entries = (Vec<ServiceEntry>, Vec<Diagnostic>);

pub(super) fn parse(text: &str, file: &Path) -> Result<Entries, Vec<Diagnostic>> {
    let mut reader = Reader {
        file: file.into(),
        diagnostics: Diagnostics::new(file),
        entries: Vec::new(),
        documents: 0,
    };
    for document in yaml::documents(text) {
        match document {
            Ok(node) => reader.document(&node),
            Err(finding) => {
                reader.diagnostics.error(finding);
                return reader.diagnostics.finish(reader.entries);
            }
        }
    }
    if reader.documents == 0 {
        // A file that is being rewritten is empty for a moment: that must not read as "no entries".
        reader.diagnostics.error(
            Finding::whole("the file holds no document")
                .fix("remove it, or write `kind: List` with `items: []` to mean no entries"),
        );
    }
    reader.diagnostics.finish(reader.entries)
}

struct Reader {
    file: Arc<Path>,
    diagnostics: Diagnostics,
    entries: Vec<ServiceEntry>,
    documents: usize,
}

impl Reader {
    fn document(&mut self, node: &Node<'_>) {
        // Templates leave empty documents between the others.
        if node.value == Value::Null {
            return;
        }
        self.documents += 1;
        let Some((kind, version)) = self.kind(node) else { return };
        match kind {
            "List" | "ServiceEntryList" => {
                let items = node.get("items").map(values::items);
                match items.unwrap_or_else(|| Err(Finding::at(node.line, "a list without `items`")))
                {
                    Ok(items) => items.iter().for_each(|item| self.item(item)),
                    Err(finding) => self.diagnostics.error(finding),
                }
            }
            _ => self.resource(node, kind, version),
        }
    }

    fn item(&mut self, node: &Node<'_>) {
        let Some((kind, version)) = self.kind(node) else { return };
        self.resource(node, kind, version);
    }

    /// The document's `kind` and `apiVersion`.
    fn kind<'n>(&mut self, node: &'n Node<'_>) -> Option<(&'n str, &'n str)> {
        let text = |name: &str| node.get(name).and_then(|node| values::text(node).ok());
        let both = text("kind").zip(text("apiVersion"));
        if both.is_none() {
            let message = "not a resource: `apiVersion` and `kind` are needed";
            let fix = format!("write `apiVersion: {GROUP}v1` and `kind: ServiceEntry`");
            self.diagnostics.error(Finding::at(node.line, message).fix(fix));
        }
        both
    }

    fn resource(&mut self, node: &Node<'_>, kind: &str, version: &str) {
        let ours = version.strip_prefix(GROUP);
        if kind != "ServiceEntry" {
            return self.other_kind(node, kind, version);
        }
        if !ours.is_some_and(|version| VERSIONS.contains(&version)) {
            let message = format!("unknown apiVersion `{}`", values::shortened(version));
            let fix = format!("use {GROUP}{}", VERSIONS.join(&format!(" or {GROUP}")));
            let line = node.get("apiVersion").map_or(node.line, |node| node.line);
            return self.diagnostics.error(Finding::at(line, message).fix(fix));
        }
        let origin = Origin { file: Arc::clone(&self.file), line: node.line };
        let errors = self.diagnostics.errors();
        let entry = service_entry(node, origin, &mut self.diagnostics);
        if self.diagnostics.errors() == errors {
            self.entries.push(entry);
        }
    }

    /// Another resource does no harm. A kind that Istio does not have is a typing error or half a
    /// word, behind which a service entry would be lost.
    fn other_kind(&mut self, node: &Node<'_>, kind: &str, version: &str) {
        let istio = version.starts_with(GROUP);
        let known = OTHER_KINDS.contains(&kind);
        let (kind, version) = (values::shortened(kind), values::shortened(version));
        if istio && !known {
            let line = node.get("kind").map_or(node.line, |node| node.line);
            let message = format!("unknown kind `{kind}` ({version})");
            return self
                .diagnostics
                .error(Finding::at(line, message).fix("write `kind: ServiceEntry`"));
        }
        let message = format!("kind {kind} ({version}) is ignored");
        let fix = "Egret acts on ServiceEntry only";
        self.diagnostics.warning(Finding::at(node.line, message).fix(fix));
    }
}

fn service_entry(node: &Node<'_>, origin: Origin, diagnostics: &mut Diagnostics) -> ServiceEntry {
    let mut entry = ServiceEntry {
        name: "".into(),
        namespace: "default".into(),
        created: None,
        hosts: Vec::new(),
        addresses: Arc::new([]),
        ports: Vec::new(),
        resolution: Resolution::None,
        endpoints: Vec::new(),
        origin,
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
    if let Some(status) = fields.get("status").and_then(|status| status.get("addresses")) {
        let message = "`status.addresses` (allocated by Istio) is not acted on";
        fields.diagnostics().warning(Finding::at(status.line, message));
    }
    fields.warn_of_others();
    entry
}

fn read_metadata(entry: &mut ServiceEntry, mut fields: Fields<'_, '_>) {
    fields.read("name", &mut entry.name, label);
    if entry.name.is_empty() {
        let line = fields.line_of("name");
        fields
            .diagnostics()
            .error(Finding::at(line, "there is no `metadata.name`").fix("give it one"));
    }
    fields.read("namespace", &mut entry.namespace, label);
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

fn read_spec(entry: &mut ServiceEntry, mut fields: Fields<'_, '_>) {
    fields.read("hosts", &mut entry.hosts, |node| bounded(node, host));
    if fields.get("hosts").is_none_or(is_empty_list) {
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
    not_acted_on(&mut fields);
    fields.warn_of_others();
}

fn read_port(entry: &ServiceEntry, node: &Node<'_>, diagnostics: &mut Diagnostics) -> Option<Port> {
    let errors = diagnostics.errors();
    let mut fields = Fields::of(node, "ports[]", diagnostics);
    let (mut number, mut name, mut target) = (None, Box::<str>::from(""), None);
    fields.read("number", &mut number, |node| values::number(node, 1..=u16::MAX).map(Some));
    fields.read("name", &mut name, label);
    // 0 is how protobuf writes "not set".
    fields.read_optional("targetPort", &mut target, |node| values::number(node, 0..=u16::MAX));
    let target_port = target.filter(|port| *port != 0);
    let protocol = fields.get("protocol").map_or(Protocol::Auto, |node| {
        let text = values::text(node).unwrap_or_default();
        protocol(text).unwrap_or_else(|| {
            let text = values::shortened(text);
            let message = format!("unknown protocol `{text}`: HTTP is detected, all else is TCP");
            fields.diagnostics().warning(Finding::at(node.line, message));
            Protocol::Auto
        })
    });
    if fields.get("number").is_none() || name.is_empty() {
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

fn read_endpoint(entry: &mut ServiceEntry, node: &Node<'_>, diagnostics: &mut Diagnostics) {
    let mut fields = Fields::of(node, "endpoints[]", diagnostics);
    let mut text = "";
    fields.read("address", &mut text, |node| values::text(node));
    let line = fields.line_of("address");
    let address = match endpoint_address(text, entry.resolution) {
        Ok(address) => address,
        Err(fix) => {
            let text = values::shortened(text);
            let message = format!("endpoint `{text}` is not an address to connect to");
            fields.diagnostics().error(Finding::at(line, message).fix(fix));
            None
        }
    };
    if address.is_none() && text.starts_with("unix://") {
        let message = "a unix socket endpoint is not acted on";
        fields.diagnostics().warning(Finding::at(line, message));
    }
    let mut ports = Vec::new();
    if let Some(own) = fields.get("ports") {
        ports = endpoint_ports(entry, own, fields.diagnostics());
    }
    for name in ["labels", "network", "locality", "weight", "serviceAccount"] {
        warn_unused(&mut fields, name, "`endpoints[]");
    }
    fields.warn_of_others();
    if let Some(address) = address {
        entry.endpoints.push(Endpoint { address, ports });
    }
}

/// The address that `text` spells; `None` where it is not acted on. The error is what to do about
/// it.
fn endpoint_address(
    text: &str,
    resolution: Resolution,
) -> Result<Option<EndpointAddress>, &'static str> {
    match (Host::parse(text.as_bytes()), resolution) {
        (Ok(Host::Address(address)), _) => Ok(Some(EndpointAddress::Ip(address.to_canonical()))),
        (Ok(Host::Name(name)), Resolution::Dns) => Ok(Some(EndpointAddress::Name(name))),
        (_, Resolution::Dns) => Err("write an IP address or a DNS name"),
        _ if text.starts_with("unix://") => Ok(None),
        (_, Resolution::Static) => Err("resolution STATIC needs IP addresses"),
        // Endpoints are refused as a whole there.
        (_, Resolution::None | Resolution::DynamicDns) => Ok(None),
    }
}

fn endpoint_ports(
    entry: &ServiceEntry,
    node: &Node<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<(Box<str>, u16)> {
    let mut ports = Vec::new();
    let Value::Mapping(numbers) = &node.value else {
        let message = format!("`endpoints[].ports` must be a mapping, not {}", node.kind());
        diagnostics.error(Finding::at(node.line, message).fix("write `port-name: number` lines"));
        return ports;
    };
    for (key, node) in numbers {
        if !entry.ports.iter().any(|port| *port.name == *key.name) {
            let name = values::shortened(&key.name);
            let message = format!("the entry has no port named `{name}`");
            diagnostics.error(Finding::at(key.line, message));
        }
        match values::number(node, 1..=u16::MAX) {
            Ok(number) => ports.push((key.name.as_ref().into(), number)),
            Err(finding) => diagnostics.error(finding),
        }
    }
    ports
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

fn protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_uppercase().as_str() {
        "" => Some(Protocol::Auto),
        "TCP" | "MONGO" | "REDIS" | "MYSQL" => Some(Protocol::Opaque),
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP-PROXY" => Some(Protocol::Http),
        "HTTPS" | "TLS" => Some(Protocol::Tls),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

/// A name that becomes a label: bounded, as DNS bounds it.
fn label(node: &Node<'_>) -> Result<Box<str>, Finding> {
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
    HostPattern::parse(text).map_err(|error| {
        let message = format!("host `{}` is not a DNS name: {error}", values::shortened(text));
        Finding::at(node.line, message).fix("write it as api.example.com or *.example.com")
    })
}
