//! The text of the configuration file to a [`Config`], with every diagnostic in it.
//!
//! Starts from the defaults and overwrites what the file sets, so a default stands in one place
//! only. Each rule sits with the field that it is about; rules on two fields follow at the end.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use super::names::STDOUT;
use super::{
    AccessLog, AccessLogFormat, Action, Capture, Config, Latin1, Limits, Listen, LogFormat,
    Metrics, Mode, Names, OpenConnections, OutboundTrafficPolicy, PrivateAddresses, Timeouts,
    Unverified, Upstream, Workers,
};
use crate::diagnostics::{Diagnostic, Diagnostics, Finding};
use crate::prefix;
use crate::workload;
use crate::yaml::fields::Fields;
use crate::yaml::{self, Node, values};

const SHORTEST: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// The kernel's limit for a TCP connect is about two minutes; more than ten only hides an error.
const CONNECT_MAX: Duration = Duration::from_secs(600);
/// conntrack forgets a flow this long after one side closed
/// (`nf_conntrack_tcp_timeout_close_wait`).
const CONNTRACK_CLOSE_WAIT: Duration = Duration::from_secs(60);
/// A client that has said nothing for so long never will; more only holds its slot.
const NAME_DEADLINE_MAX: Duration = Duration::from_secs(600);
const WORKERS_MAX: u16 = 1024;
/// A thousand times the default: refuses a slip of the keyboard, no choice of size.
const CONNECTIONS_MAX: u32 = 100_000_000;
const SERIES_MAX: usize = 10_000_000;
/// Several scrapes must have seen a label set's last numbers before it goes.
const METRICS_IDLE_MIN: Duration = Duration::from_secs(60);
/// Less would shed ordinary requests: a head takes up to 32 KiB.
const HELD_BYTES_MIN: u64 = 1 << 20;
const HELD_BYTES_MAX: u64 = 1 << 40;

pub(super) fn config(
    text: &str,
    file: &Path,
) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut diagnostics = Diagnostics::new(file);
    let mut config = Config::default();
    match yaml::only_document(text) {
        Ok(root) => {
            let directory = file.parent().unwrap_or(Path::new(""));
            sections(&mut config, Fields::of(&root, "", &mut diagnostics), directory);
            distinct_ports(&config, &root, &mut diagnostics);
        }
        Err(finding) => diagnostics.error(finding),
    }
    diagnostics.all_or_nothing(config)
}

fn sections(config: &mut Config, mut root: Fields<'_, '_>, directory: &Path) {
    if let Some(fields) = root.section("listen") {
        listen(&mut config.listen, fields);
    }
    root.read("workers", &mut config.workers, workers);
    if let Some(fields) = root.section("outboundTrafficPolicy") {
        outbound_traffic_policy(&mut config.outbound_traffic_policy, fields);
    }
    if let Some(mut fields) = root.section("blackHole") {
        let actions = [("close", Action::Close), ("reset", Action::Reset)];
        let action = &mut config.black_hole.action;
        fields.read("action", action, |node| values::choice(node, &actions));
        fields.read("tlsAlert", &mut config.black_hole.tls_alert, values::boolean);
        fields.refuse_others();
    }
    if let Some(fields) = root.section("names") {
        names(&mut config.names, fields);
    }
    root.read("registry", &mut config.registry, |node| {
        values::list(node, |item| pattern(item, directory))
    });
    root.read_optional("workloads", &mut config.workloads, |node| {
        Ok(directory.join(not_empty(node)?))
    });
    root.read("clusterId", &mut config.cluster_id, workload::label);
    if let Some(fields) = root.section("upstream") {
        upstream(&mut config.upstream, fields);
    }
    if let Some(fields) = root.section("timeouts") {
        timeouts(&mut config.timeouts, fields);
    }
    if let Some(fields) = root.section("limits") {
        limits(&mut config.limits, fields);
    }
    servers(config, &mut root);
    if let Some(mut fields) = root.section("drain") {
        let deadline = |node| values::duration(node, SHORTEST..=24 * HOUR);
        fields.read("deadline", &mut config.drain.deadline, deadline);
        fields.refuse_others();
    }
    if let Some(mut fields) = root.section("log") {
        let levels = ["error", "warn", "info", "debug", "trace"].map(|word| (word, word.into()));
        fields.read("level", &mut config.log.level, |node| values::choice(node, &levels));
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        fields.read("format", &mut config.log.format, |node| values::choice(node, &formats));
        fields.refuse_others();
    }
    if let Some(fields) = root.section("accessLog") {
        access_log(&mut config.access_log, fields, directory);
    }
    root.refuse_others();
}

fn outbound_traffic_policy(policy: &mut OutboundTrafficPolicy, mut fields: Fields<'_, '_>) {
    let modes = [Mode::AllowAny, Mode::RegistryOnly].map(|mode| (mode.as_str(), mode));
    fields.read("mode", &mut policy.mode, |node| values::choice(node, &modes));
    let choices = [("keep", OpenConnections::Keep), ("close", OpenConnections::Close)];
    let open_connections = &mut policy.open_connections;
    fields.read("openConnections", open_connections, |node| values::choice(node, &choices));
    fields.refuse_others();
}

fn listen(listen: &mut Listen, mut fields: Fields<'_, '_>) {
    let captures = [("redirect", Capture::Redirect), ("tproxy", Capture::Tproxy)];
    fields.read("capture", &mut listen.capture, |node| values::choice(node, &captures));
    fields.read("port", &mut listen.port, |node| values::number(node, 0..=u16::MAX));
    fields.read("addresses", &mut listen.addresses, listen_addresses);
    fields.refuse_others();
}

fn upstream(upstream: &mut Upstream, mut fields: Fields<'_, '_>) {
    // Mark 0 is what every unmarked packet has: no rule can tell it apart.
    let mark = |node| values::number(node, 1..=u32::MAX);
    fields.read_optional("mark", &mut upstream.mark, mark);
    fields.read("allow", &mut upstream.allow, |node| values::list(node, prefix::parse));
    let choices = [("allow", PrivateAddresses::Allow), ("block", PrivateAddresses::Block)];
    let private = &mut upstream.private_addresses;
    fields.read("privateAddresses", private, |node| values::choice(node, &choices));
    fields.refuse_others();
}

fn limits(limits: &mut Limits, mut fields: Fields<'_, '_>) {
    let count = |node: &Node<'_>| values::number(node, 1..=CONNECTIONS_MAX);
    fields.read("connections", &mut limits.connections, count);
    fields.read_optional("perSource", &mut limits.per_source, count);
    let bytes = |node: &Node<'_>| values::number(node, HELD_BYTES_MIN..=HELD_BYTES_MAX);
    fields.read("heldBytes", &mut limits.held_bytes, bytes);
    fields.refuse_others();
}

fn timeouts(timeouts: &mut Timeouts, mut fields: Fields<'_, '_>) {
    let up_to = |longest| move |node: &Node<'_>| values::duration(node, SHORTEST..=longest);
    fields.read("connect", &mut timeouts.connect, up_to(CONNECT_MAX));
    fields.read("idle", &mut timeouts.idle, up_to(WEEK));
    fields.read("halfClose", &mut timeouts.half_close, up_to(WEEK));
    // Below a second a single lost segment, which is sent again after 200 ms or more, would do.
    let user = |node| values::duration(node, Duration::from_secs(1)..=24 * HOUR);
    fields.read_optional("user", &mut timeouts.user, user);
    fields.read("head", &mut timeouts.head, up_to(HOUR));
    if timeouts.half_close > CONNTRACK_CLOSE_WAIT {
        let line = fields.line_of("halfClose");
        let message = "`timeouts.halfClose` is longer than conntrack remembers a half-closed flow";
        let fix = "use less than 60s, or raise net.netfilter.nf_conntrack_tcp_timeout_close_wait";
        fields.diagnostics().warning(Finding::at(line, message).fix(fix));
    }
    fields.refuse_others();
}

fn names(names: &mut Names, mut fields: Fields<'_, '_>) {
    fields.read("enabled", &mut names.enabled, values::boolean);
    let deadline = |node| values::duration(node, SHORTEST..=NAME_DEADLINE_MAX);
    fields.read("deadline", &mut names.deadline, deadline);
    fields.read("opaquePorts", &mut names.opaque_ports, |node| {
        let mut ports = values::list(node, |item| values::number(item, 1..=u16::MAX))?;
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    });
    let unverified = Unverified::ALL.map(|word| (word.as_str(), word));
    fields.read("unverified", &mut names.unverified, |node| values::choice(node, &unverified));
    let grace = |node| values::duration(node, SHORTEST..=24 * HOUR);
    fields.read("grace", &mut names.grace, grace);
    fields.read("refuseGetBodies", &mut names.refuse_get_bodies, values::boolean);
    let latin1 = [("refuse", Latin1::Refuse), ("pass", Latin1::Pass)];
    fields.read("latin1", &mut names.latin1, |node| values::choice(node, &latin1));
    fields.read("dnsServers", &mut names.dns_servers, |node| values::list(node, dns_server));
    fields.refuse_others();
}

fn dns_server(node: &Node<'_>) -> Result<SocketAddr, Finding> {
    const DNS_PORT: u16 = 53;
    let text = values::text(node)?;
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    match address.or_else(|_| text.parse()) {
        Ok(server) if server.port() != 0 && !server.ip().is_unspecified() => Ok(server),
        _ => {
            let message = format!("`{}` is not the address of a server", values::shortened(text));
            Err(Finding::at(node.line, message).fix("write it as 192.0.2.53 or 192.0.2.53:5353"))
        }
    }
}

fn access_log(log: &mut AccessLog, mut fields: Fields<'_, '_>, directory: &Path) {
    let formats = [
        ("off", AccessLogFormat::Off),
        ("json", AccessLogFormat::Json),
        ("text", AccessLogFormat::Text),
    ];
    fields.read("format", &mut log.format, |node| values::choice(node, &formats));
    fields.read("path", &mut log.path, |node| {
        let path = not_empty(node)?;
        Ok((path != STDOUT).then(|| directory.join(path)))
    });
    fields.refuse_others();
}

fn servers(config: &mut Config, root: &mut Fields<'_, '_>) {
    if let Some(mut fields) = root.section("admin") {
        fields.read("address", &mut config.admin.address, |node| {
            let address = values::socket_address(node)?;
            if address.ip().to_canonical().is_loopback() {
                return Ok(address);
            }
            Err(Finding::at(node.line, format!("{} is not a loopback address", address.ip()))
                .fix("the admin server has no authentication; use 127.0.0.1 or [::1]"))
        });
        fields.refuse_others();
    }
    if let Some(fields) = root.section("metrics") {
        metrics(&mut config.metrics, fields);
    }
    if let Some(mut fields) = root.section("health") {
        fields.read("address", &mut config.health.address, values::socket_address);
        fields.refuse_others();
    }
}

fn metrics(metrics: &mut Metrics, mut fields: Fields<'_, '_>) {
    fields.read("address", &mut metrics.address, values::socket_address);
    fields.read("destinationIp", &mut metrics.destination_ip, values::boolean);
    let series = |node| values::number(node, 1..=SERIES_MAX);
    fields.read("seriesMax", &mut metrics.series_max, series);
    let idle = |node: &Node<'_>| values::duration(node, METRICS_IDLE_MIN..=WEEK);
    fields.read("idle", &mut metrics.idle, idle);
    fields.refuse_others();
}

fn workers(node: &Node<'_>) -> Result<Workers, Finding> {
    if values::text(node)? == "auto" {
        return Ok(Workers::Auto);
    }
    let count = values::number(node, 1..=WORKERS_MAX)
        .map_err(|finding| finding.fix("or write auto: one per CPU"))?;
    Ok(NonZeroU16::new(count).map_or(Workers::Auto, Workers::Count))
}

fn listen_addresses(node: &Node<'_>) -> Result<Vec<IpAddr>, Finding> {
    let mut addresses = Vec::new();
    for item in values::items(node)? {
        let address = values::address(item)?;
        if address != address.to_canonical() {
            return Err(Finding::at(item.line, format!("{address} is IPv4 written as IPv6"))
                .fix(format!("write {}", address.to_canonical())));
        }
        if addresses.contains(&address) {
            let message = format!("{address} is listed twice");
            return Err(Finding::at(item.line, message).fix("remove one"));
        }
        addresses.push(address);
    }
    if addresses.is_empty() {
        return Err(Finding::at(node.line, "the list is empty").fix("name at least one address"));
    }
    Ok(addresses)
}

fn pattern(node: &Node<'_>, directory: &Path) -> Result<String, Finding> {
    let text = not_empty(node)?;
    if let Err(error) = glob::Pattern::new(text) {
        let message = format!("`{}` is not a pattern: {}", values::shortened(text), error.msg);
        return Err(Finding::at(node.line, message).fix("write a path, with * for any name"));
    }
    if Path::new(text).is_absolute() || directory.as_os_str().is_empty() {
        return Ok(text.to_owned());
    }
    // The directory is a plain path: a `[` in it must not become part of the pattern.
    let directory = glob::Pattern::escape(&directory.to_string_lossy());
    Ok(Path::new(&directory).join(text).to_string_lossy().into_owned())
}

fn not_empty<'n>(node: &'n Node<'_>) -> Result<&'n str, Finding> {
    match values::text(node)? {
        "" => Err(Finding::at(node.line, "the path is empty")),
        text => Ok(text),
    }
}

/// The listeners must not take each other's port, whatever their addresses: `0.0.0.0` overlaps all,
/// and a redirected connection to one of them is recognised by its port.
fn distinct_ports(config: &Config, root: &Node<'_>, diagnostics: &mut Diagnostics) {
    let ports = [
        ("listen", "port", config.listen.port),
        ("admin", "address", config.admin.address.port()),
        ("metrics", "address", config.metrics.address.port()),
        ("health", "address", config.health.address.port()),
    ];
    for (index, (section, field, port)) in ports.iter().enumerate() {
        let earlier = ports[..index].iter().find(|(_, _, other)| other == port && *port != 0);
        let Some((other_section, other_field, _)) = earlier else { continue };
        let line = |section: &str, field: &str| root.get(section)?.get(field).map(|n| n.line);
        // One of the two may be a default, which has no line.
        let line = line(section, field).or_else(|| line(other_section, other_field));
        let other = format!("{other_section}.{other_field}");
        let message = format!("`{section}.{field}` uses port {port}, as `{other}` does");
        diagnostics
            .error(Finding { line, ..Finding::whole(message).fix("give each its own port") });
    }
}
