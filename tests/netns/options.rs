//! What a test wants from the proxy: the configuration file, the rules, the limits.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) const PORT: u16 = 15001;
pub(crate) const ADMIN_PORT: u16 = 15000;
pub(crate) const METRICS_PORT: u16 = 15020;
pub(crate) const HEALTH_PORT: u16 = 15021;

/// `listen.capture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    Redirect,
    Tproxy,
}

impl Capture {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        }
    }
}

/// `outboundTrafficPolicy.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    AllowAny,
    RegistryOnly,
}

/// Whether the test installs the rules itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    CapturePod,
    None,
}

/// What a test wants to be different.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) capture: Capture,
    pub(crate) policy: Policy,
    pub(crate) rules: Rules,
    pub(crate) black_hole: &'static str,
    pub(crate) tls_alert: bool,
    /// What stands in the section `names`, such as `deadline: 500ms`.
    pub(crate) names: &'static str,
    /// What stands in the section `accessLog`.
    pub(crate) access_log: String,
    pub(crate) series_max: u32,
    pub(crate) mark: &'static str,
    pub(crate) connect: Duration,
    pub(crate) half_close: Duration,
    /// `timeouts.user`.
    pub(crate) user: &'static str,
    pub(crate) drain: Duration,
    pub(crate) connections: u32,
    pub(crate) descriptors: Option<u64>,
    pub(crate) arguments: &'static [&'static str],
    /// ServiceEntry documents.
    pub(crate) registry: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capture: Capture::Redirect,
            policy: Policy::AllowAny,
            rules: Rules::CapturePod,
            black_hole: "close",
            tls_alert: false,
            names: "",
            access_log: String::new(),
            series_max: 10_000,
            mark: "1337",
            connect: Duration::from_secs(10),
            half_close: Duration::from_secs(50),
            user: "null",
            drain: Duration::from_secs(45),
            connections: 102_400,
            descriptors: None,
            arguments: &[],
            registry: String::new(),
        }
    }
}

impl Options {
    /// The configuration file.
    pub(crate) fn config(&self) -> String {
        let policy = match self.policy {
            Policy::AllowAny => "ALLOW_ANY",
            Policy::RegistryOnly => "REGISTRY_ONLY",
        };
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("a string takes everything");
        line(format!("listen: {{ capture: {}, port: {PORT} }}", self.capture.name()));
        line("workers: 2".to_owned());
        line(format!("outboundTrafficPolicy: {{ mode: {policy} }}"));
        let (action, alert) = (self.black_hole, self.tls_alert);
        line(format!("blackHole: {{ action: {action}, tlsAlert: {alert} }}"));
        line(format!("names: {{ {} }}", self.names));
        line(format!("accessLog: {{ {} }}", self.access_log));
        line("registry: [\"registry.d/*.yaml\"]".to_owned());
        line(format!("upstream: {{ mark: {} }}", self.mark));
        line(format!(
            "timeouts: {{ connect: {}ms, idle: 1h, halfClose: {}ms, user: {} }}",
            self.connect.as_millis(),
            self.half_close.as_millis(),
            self.user
        ));
        // More than there are: most tests have one source.
        let (all, share) = (self.connections, self.connections * 2);
        line(format!("limits: {{ connections: {all}, perSource: {share} }}"));
        line(format!("admin: {{ address: \"127.0.0.1:{ADMIN_PORT}\" }}"));
        let metrics = format!("address: \"0.0.0.0:{METRICS_PORT}\", destinationIp: true");
        line(format!("metrics: {{ {metrics}, seriesMax: {} }}", self.series_max));
        line(format!("health: {{ address: \"0.0.0.0:{HEALTH_PORT}\" }}"));
        line(format!("drain: {{ deadline: {}ms }}", self.drain.as_millis()));
        text
    }
}

/// A ServiceEntry for `address`, port 80, that leads to port 8080 of `endpoint`.
pub(crate) fn static_entry(host: &str, address: &str, endpoint: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name}, \
         namespace: test }}\nspec:\n  hosts: [{host}]\n  addresses: [\"{address}\"]\n  ports:\n  - \
         {{ number: 80, name: tcp, protocol: TCP, targetPort: 8080 }}\n  \
         location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         endpoints:\n  - address: \"{endpoint}\"\n",
        name = host.split('.').next().unwrap_or(host),
    )
}

/// A ServiceEntry without addresses: its `hosts` are matched by name on `port`, whose `protocol`
/// says by which. `endpoint`: where its connections go; `None`: where they meant to go.
pub(crate) fn named_entry(
    hosts: &str,
    protocol: &str,
    port: u16,
    endpoint: Option<SocketAddr>,
) -> String {
    let (target, resolution) = match endpoint {
        Some(endpoint) => (
            format!(", targetPort: {}", endpoint.port()),
            format!("STATIC\n  endpoints:\n  - address: \"{}\"", endpoint.ip()),
        ),
        None => (String::new(), "NONE".to_owned()),
    };
    let name = hosts.trim_start_matches("*.").replace('.', "-");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: \
         {name}-{port}, namespace: test }}\nspec:\n  hosts: [\"{hosts}\"]\n  ports:\n  - \
         {{ number: {port}, name: port-{port}, protocol: {protocol}{target} }}\n  \
         location: MESH_EXTERNAL\n  resolution: {resolution}\n"
    )
}
