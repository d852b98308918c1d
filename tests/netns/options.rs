//! What a test wants from the proxy: the configuration file, the rules, the limits.

use std::fmt::Write as _;
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
    pub(crate) mark: &'static str,
    pub(crate) connect: Duration,
    pub(crate) half_close: Duration,
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
            mark: "1337",
            connect: Duration::from_secs(10),
            half_close: Duration::from_secs(50),
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
        line(format!("blackHole: {{ action: {} }}", self.black_hole));
        line("registry: [\"registry.d/*.yaml\"]".to_owned());
        line(format!("upstream: {{ mark: {} }}", self.mark));
        line(format!(
            "timeouts: {{ connect: {}ms, idle: 1h, halfClose: {}ms }}",
            self.connect.as_millis(),
            self.half_close.as_millis()
        ));
        line(format!("limits: {{ connections: {} }}", self.connections));
        line(format!("admin: {{ address: \"127.0.0.1:{ADMIN_PORT}\" }}"));
        line(format!("metrics: {{ address: \"0.0.0.0:{METRICS_PORT}\", destinationIp: true }}"));
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
