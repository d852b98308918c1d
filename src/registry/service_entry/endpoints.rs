//! The endpoints of a service entry: addresses to connect to, and what is none.

use super::rules::{check_endpoint_labels, warn_unused};
use super::syntax::is_dns_name;
use super::{Endpoint, EndpointAddress, Resolution, ServiceEntry};
use crate::diagnostics::{Diagnostics, Finding};
use crate::sniff::Host;
use crate::yaml::fields::Fields;
use crate::yaml::{Node, Value, values};

pub(super) fn read_endpoint(
    entry: &mut ServiceEntry,
    node: &Node<'_>,
    diagnostics: &mut Diagnostics,
) {
    let mut fields = Fields::of(node, "endpoints[]", diagnostics);
    let mut text = "";
    fields.read_set("address", &mut text, |node| values::text(node));
    let address = match endpoint_address(text, entry.resolution, &mut fields) {
        Ok(address) => address,
        Err(fix) => {
            let line = fields.line_of("address");
            let text = values::shortened(text);
            let message = format!("endpoint `{text}` is not an address to connect to");
            fields.diagnostics().error(Finding::at(line, message).fix(fix));
            None
        }
    };
    let mut ports = Vec::new();
    if let Some(own) = fields.get("ports") {
        ports = endpoint_ports(entry, own, fields.diagnostics());
    }
    if !ports.is_empty() && text.starts_with(UNIX) {
        let finding = Finding::at(fields.line_of("ports"), "a unix socket has no ports");
        fields.diagnostics().error(finding.fix("remove `ports` from the endpoint"));
    }
    check_endpoint_labels(&mut fields);
    for name in ["labels", "network", "locality", "weight", "serviceAccount"] {
        warn_unused(&mut fields, name, "`endpoints[]");
    }
    fields.warn_of_others();
    if let Some(address) = address {
        entry.endpoints.push(Endpoint { address, ports });
    }
}

/// How an endpoint that is no address begins.
const UNIX: &str = "unix://";

/// The address that `text` spells; `None` where it is not acted on. The error is what to do about
/// it.
fn endpoint_address(
    text: &str,
    resolution: Resolution,
    fields: &mut Fields<'_, '_>,
) -> Result<Option<EndpointAddress>, &'static str> {
    let is_elsewhere = text.is_empty() && fields.get("network").is_some();
    let mut ignored = |message: &str| {
        let line = fields.line_of("address");
        fields.diagnostics().warning(Finding::at(line, message));
        Ok(None)
    };
    match (Host::parse(text.as_bytes()), resolution) {
        (Ok(Host::Address(address)), _) => Ok(Some(EndpointAddress::Ip(address.to_canonical()))),
        (Ok(Host::Name(name)), Resolution::Dns) if is_dns_name(name.as_str()) => {
            Ok(Some(EndpointAddress::Name(name)))
        }
        _ if is_elsewhere => {
            ignored("an endpoint of another network without an address is not acted on")
        }
        (_, Resolution::Dns) => Err("write an IP address or a DNS name"),
        _ if text.starts_with(UNIX) => match text[UNIX.len()..].starts_with(['/', '@']) {
            true => ignored("a unix socket endpoint is not acted on"),
            false => Err("the path of a unix socket is absolute"),
        },
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
