//! A proxy in this process, on ports of the kernel's choice, with original destinations told by
//! tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use egret::app::{App, Options};
use egret::config::{Action, Config, Mode, OpenConnections, Workers};
use egret::control;
use egret::load;
use egret::sys::uring::Uring;

use super::faults::{Destinations, Faults, FaultyKernel};
use super::{LONG, eventually};

/// What a test may choose.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) workers: u16,
    pub(crate) mode: Mode,
    pub(crate) open_connections: OpenConnections,
    pub(crate) action: Action,
    pub(crate) tls_alert: bool,
    pub(crate) connect: Duration,
    pub(crate) idle: Duration,
    pub(crate) half_close: Duration,
    pub(crate) connections: u32,
    pub(crate) per_source: Option<u32>,
    pub(crate) held_bytes: u64,
    pub(crate) series_max: usize,
    pub(crate) destination_ip: bool,
    pub(crate) buffers: Option<u16>,
    pub(crate) registry: String,
    /// More fields of `names`, as they stand in a file.
    pub(crate) names: String,
    pub(crate) dns_servers: Vec<SocketAddr>,
    /// `upstream.allow`, as it stands in a file: the servers of the tests are on loopback.
    pub(crate) upstream_allow: &'static str,
    /// More fields of `upstream`.
    pub(crate) upstream_more: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            workers: 1,
            mode: Mode::AllowAny,
            open_connections: OpenConnections::Keep,
            action: Action::Close,
            tls_alert: false,
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            half_close: Duration::from_secs(50),
            connections: 1000,
            // All: one test has one source.
            per_source: Some(1000),
            held_bytes: 64 << 20,
            series_max: 10_000,
            destination_ip: false,
            buffers: None,
            registry: String::new(),
            names: String::new(),
            dns_servers: Vec::new(),
            upstream_allow: "127.0.0.0/8, '::1'",
            upstream_more: "",
        }
    }
}

impl Setup {
    /// What a reload may change, as it stands in the file.
    fn to_yaml(&self) -> String {
        let mode = match self.mode {
            Mode::AllowAny => "ALLOW_ANY",
            Mode::RegistryOnly => "REGISTRY_ONLY",
        };
        let open = match self.open_connections {
            OpenConnections::Keep => "keep",
            OpenConnections::Close => "close",
        };
        let action = match self.action {
            Action::Close => "close",
            Action::Reset => "reset",
        };
        let registry = if self.registry.is_empty() { "[]" } else { "[registry.yaml]" };
        let servers: Vec<_> = self.dns_servers.iter().map(|s| format!("'{s}'")).collect();
        let servers = servers.join(", ");
        let names = match self.names.as_str() {
            "" => String::new(),
            more => format!(", {more}"),
        };
        let millis = |time: Duration| time.as_millis();
        format!(
            "outboundTrafficPolicy: {{ mode: {mode}, openConnections: {open} }}\n\
             blackHole: {{ action: {action}, tlsAlert: {} }}\n\
             registry: {registry}\nnames: {{ dnsServers: [{servers}]{names} }}\n\
             upstream: {{ mark: null, allow: [{}], {} }}\n\
             timeouts: {{ connect: {}ms, idle: {}ms, halfClose: {}ms }}\n\
             limits: {{ perSource: {}, heldBytes: {} }}\n\
             metrics: {{ destinationIp: {} }}\n",
            self.tls_alert,
            self.upstream_allow,
            self.upstream_more,
            millis(self.connect),
            millis(self.idle),
            millis(self.half_close),
            self.per_source.map_or("null".to_owned(), |most| most.to_string()),
            self.held_bytes,
            self.destination_ip,
        )
    }

    /// What is fixed at the start; port 0 leaves the choice to the kernel.
    fn apply(&self, config: &Config) -> Config {
        let mut config = config.clone();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        config.listen.addresses = vec![any.ip()];
        config.listen.port = 0;
        config.workers = Workers::Count(self.workers.try_into().unwrap());
        config.limits.connections = self.connections;
        config.metrics.series_max = self.series_max;
        config.upstream.mark = None;
        config.admin.address = any;
        config.metrics.address = any;
        config.health.address = any;
        config
    }
}

/// See the module. Dropping it drains it.
#[derive(Debug)]
pub(crate) struct Proxy {
    app: Option<App>,
    connector: Connector,
    pub(crate) faults: Faults,
    directory: tempfile::TempDir,
}

impl Proxy {
    pub(crate) fn start(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config_file = directory.path().join("egret.yaml");
        std::fs::write(directory.path().join("registry.yaml"), &setup.registry).unwrap();
        std::fs::write(&config_file, setup.to_yaml()).unwrap();
        let mut loaded = load::load(&config_file, None).unwrap();
        loaded.config = Arc::new(setup.apply(&loaded.config));
        let options = Options {
            config_file,
            signals: None,
            debug_endpoints: control::DebugEndpoints::Off,
            set_log_level: Box::new(|_| Ok(())),
        };
        let (destinations, faults) = (Destinations::default(), Faults::default());
        let (for_kernels, told, chosen) =
            (faults.clone(), Destinations::clone(&destinations), setup.buffers);
        let make_kernel = move |buffers| {
            let kernel = Uring::new(chosen.unwrap_or(buffers))?;
            Ok(FaultyKernel::new(kernel, for_kernels.clone(), Arc::clone(&told)))
        };
        let app = App::start_on(loaded, options, make_kernel).unwrap();
        let connector = Connector { proxy: app.addresses.listen[0], destinations };
        Self { app: Some(app), connector, faults, directory }
    }

    /// Replaces the files, and waits until they are in use.
    pub(crate) fn reload(&self, setup: &Setup) {
        let before = self.sum("egret_config_generation", &[]);
        let path = |name| self.directory.path().join(name);
        std::fs::write(path("registry.yaml"), &setup.registry).unwrap();
        std::fs::write(path("egret.yaml"), setup.to_yaml()).unwrap();
        eventually("the new files are in use", || {
            self.sum("egret_config_generation", &[]) > before
        });
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().expect("only Drop and finish take it")
    }

    /// Drains it and returns when it has ended.
    pub(crate) fn finish(mut self, deadline: Duration) {
        let app = self.app.take().expect("only Drop and finish take it");
        app.drain(deadline);
        app.wait();
    }

    pub(crate) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// A connection through the proxy to `destination`.
    pub(crate) fn connect(&self, destination: SocketAddr) -> TcpStream {
        self.connector.connect(destination)
    }

    /// The two ends of a connection through the proxy.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        self.connector.pair()
    }

    /// Where connections are accepted.
    pub(crate) fn address(&self) -> SocketAddr {
        self.connector.proxy
    }

    /// A page of one of the control plane's servers: status and body.
    pub(crate) fn get(&self, address: SocketAddr, path: &str) -> (u16, String) {
        self.ask("GET", address, path)
    }

    /// What one of the control plane's servers answers: status and body.
    pub(crate) fn ask(&self, method: &str, address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let request =
            format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// The sum of a metric's samples that carry all `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).iter().sum()
    }

    /// A metric's samples that carry all `labels`.
    pub(crate) fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let (status, text) = self.get(self.app().addresses.control.metrics, "/metrics");
        assert_eq!(status, 200);
        let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let is_named =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let samples = text.lines().filter(is_named);
        let matching = samples.filter(|line| wanted.iter().all(|label| line.contains(label)));
        matching.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    }

    /// Waits until no connection is open and nothing of one is left. Then what was counted as
    /// opened was counted as closed, for each label set.
    pub(crate) fn is_quiet(&self) {
        eventually("no connection is left", || {
            self.sum("egret_connections_active", &[]) == 0.0
                && self.sum("egret_pipes_in_use", &[]) == 0.0
        });
        assert_eq!(self.sum("egret_completion_queue_overflows_total", &[]), 0.0);
        let (_, text) = self.get(self.app().addresses.control.metrics, "/metrics");
        let counted = |what: &str| -> Vec<&str> {
            let name = format!("istio_tcp_connections_{what}_total{{");
            text.lines().filter_map(|line| line.strip_prefix(&name)).collect()
        };
        assert_eq!(counted("opened"), counted("closed"));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let Some(app) = self.app.take() else { return };
        app.drain(Duration::ZERO);
        if std::thread::panicking() {
            // What has failed may be that it does not end.
            return std::mem::forget(app);
        }
        app.wait();
    }
}

/// Opens connections through a proxy.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    proxy: SocketAddr,
    destinations: Destinations,
}

impl Connector {
    /// A connection that the proxy takes for one to `destination`.
    pub(crate) fn connect(&self, destination: SocketAddr) -> TcpStream {
        self.try_connect(destination).expect("the proxy listens")
    }

    /// As [`Self::connect`]; `None` if nobody listens any more.
    pub(crate) fn try_connect(&self, destination: SocketAddr) -> Option<TcpStream> {
        self.connect_from([127, 0, 0, 1], destination)
    }

    /// As [`Self::try_connect`], from this source.
    pub(crate) fn connect_from(
        &self,
        source: [u8; 4],
        destination: SocketAddr,
    ) -> Option<TcpStream> {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, socket,
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        let [a, b, c, d] = source;
        bind(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
        let local: SockaddrIn = getsockname(fd.as_raw_fd()).unwrap();
        let local = SocketAddr::from((local.ip(), local.port()));
        self.destinations.lock().unwrap().insert(local, destination);
        let SocketAddr::V4(proxy) = self.proxy else { panic!("the tests use IPv4") };
        connect(fd.as_raw_fd(), &SockaddrIn::from(proxy)).ok()?;
        let stream = TcpStream::from(fd);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        Some(stream)
    }

    /// The two ends of a connection through the proxy: the client's and the server's.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = self.connect(listener.local_addr().unwrap());
        let (server, _) = listener.accept().unwrap();
        server.set_nodelay(true).unwrap();
        server.set_read_timeout(Some(LONG)).unwrap();
        server.set_write_timeout(Some(LONG)).unwrap();
        (client, server)
    }
}
