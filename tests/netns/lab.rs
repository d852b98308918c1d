//! Three namespaces for one test, made and removed by `scripts/lab.sh`.
//!
//! Sockets belong to the namespace of the thread that opens them and keep it for life: `inside`
//! runs a closure on a thread that has moved, and what the closure returns can be used anywhere.
//! The addresses are those that `scripts/lab.sh` documents.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::peer::{End, Listening, Peer, Server, Side, Tally};

/// How long anything may take that is expected to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Both address families.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A namespace of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Pod,
    Node,
    Outside,
}

impl Part {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Outside => "out",
        }
    }
}

/// The namespaces, until this is dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    name: String,
    pub(crate) tally: Arc<Tally>,
    _turn: Turn,
}

/// Tests that measure time or fill the descriptor table run alone, the others side by side.
#[derive(Debug)]
#[expect(dead_code, reason = "the guards are held, not read")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

static TURN: RwLock<()> = RwLock::new(());

impl Lab {
    /// A lab for a test that may run beside others.
    pub(crate) fn new() -> Self {
        let guard = TURN.read().unwrap_or_else(PoisonError::into_inner);
        Self::up(Turn::Shared(guard))
    }

    /// A lab for a test that nothing else may disturb.
    pub(crate) fn alone() -> Self {
        let guard = TURN.write().unwrap_or_else(PoisonError::into_inner);
        Self::up(Turn::Alone(guard))
    }

    fn up(turn: Turn) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces; run them as root, or as an ordinary user: \
             scripts/lab.sh enter cargo test --test netns"
        );
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("reading a limit cannot fail");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .expect("the soft limit may rise to the hard");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        if number == 0 {
            remove_labs_of_the_dead();
        }
        lab_script("up", &name);
        Self { name, tally: Arc::default(), _turn: turn }
    }

    /// Runs `job` on a thread of its own that lives in `part`.
    pub(crate) fn inside<T: Send>(&self, part: Part, job: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace(part);
        let moved = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("the lab is up");
            job()
        };
        let result = std::thread::scope(|scope| scope.spawn(moved).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A connection from the pod.
    pub(crate) fn connect(&self, to: SocketAddr) -> Peer {
        self.try_connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"))
    }

    /// A connection from the pod, if it can be made.
    pub(crate) fn try_connect(&self, to: SocketAddr) -> std::io::Result<Peer> {
        self.try_connect_from(Part::Pod, to)
    }

    /// A connection from anywhere, if it can be made.
    pub(crate) fn try_connect_from(&self, part: Part, to: SocketAddr) -> std::io::Result<Peer> {
        let stream = self.inside(part, || std::net::TcpStream::connect_timeout(&to, PATIENCE))?;
        Ok(Peer::new(stream, Side::Downstream, &self.tally))
    }

    /// How a connection ends that is not to be served: what came, and how it ended. A reset can
    /// come so early that connect(2) itself reports it.
    pub(crate) fn cut_off(&self, from: Part, to: SocketAddr) -> (u64, End) {
        match self.try_connect_from(from, to) {
            Ok(mut peer) => peer.receiver.recv_to_end(),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => (0, End::Reset),
            Err(error) => panic!("connect to {to}: {error}"),
        }
    }

    /// As [`Self::cut_off`], of a client that stops within its first word: no name will come.
    pub(crate) fn cut_off_nameless(&self, from: Part, to: SocketAddr) -> (u64, End) {
        let mut peer = self.try_connect_from(from, to).expect("its first byte is waited for");
        peer.send_text(b"G");
        peer.receiver.recv_to_end()
    }

    /// A listener in the world outside.
    pub(crate) fn listen(&self, at: SocketAddr) -> Listening {
        self.inside(Part::Outside, || Listening::bind(at, &self.tally))
    }

    /// A server in the world outside: `serve` runs on a thread for every connection.
    pub(crate) fn serve(
        &self,
        at: SocketAddr,
        serve: impl Fn(Peer) + Send + Sync + 'static,
    ) -> Server {
        Server::start(self.listen(at), serve)
    }

    /// Runs a program to its end; it must succeed. Returns its standard output.
    pub(crate) fn run(&self, part: Part, program: impl AsRef<Path>, arguments: &[&str]) -> String {
        let (code, output) = self.run_any(part, program, arguments);
        assert!(code == 0, "exit code {code}, {arguments:?}: {output}");
        output
    }

    /// Runs a program to its end. Returns its exit code and all of its output.
    pub(crate) fn run_any(
        &self,
        part: Part,
        program: impl AsRef<Path>,
        arguments: &[&str],
    ) -> (i32, String) {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).stdin(Stdio::null());
        let output = self.inside(part, move || command.output()).expect("the program exists");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), text)
    }

    /// Runs `scripts/redirect.sh` in the node; it must succeed.
    pub(crate) fn redirect(&self, arguments: &[&str]) -> String {
        self.run(Part::Node, script("redirect.sh"), arguments)
    }

    /// Loads nftables rules.
    pub(crate) fn nft(&self, part: Part, rules: &str) {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped());
        let status = self.inside(part, move || {
            let mut nft = command.spawn().expect("nft is installed");
            let mut input = nft.stdin.take().expect("it was piped");
            input.write_all(rules.as_bytes()).expect("nft reads its rules");
            drop(input);
            nft.wait().expect("nft is our child")
        });
        assert!(status.success(), "nft refused:\n{rules}");
    }

    /// Writes a network setting, such as `net/ipv4/ip_local_port_range`.
    pub(crate) fn set_sysctl(&self, part: Part, key: &str, value: &str) {
        let file = Path::new("/proc/sys").join(key);
        self.inside(part, || std::fs::write(&file, value))
            .unwrap_or_else(|error| panic!("{key}: {error}"));
    }

    fn namespace(&self, part: Part) -> File {
        let path = format!("/run/netns/{}-{}", self.name, part.suffix());
        File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        lab_script("down", &self.name);
    }
}

/// An address in the world outside: `n` is 10 to 14.
pub(crate) fn outside(n: u8, family: Family, port: u16) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, n).into(),
        // The lab writes the same digits, which in IPv6 are hexadecimal.
        Family::V6 => Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, hexadecimal(n)).into(),
    };
    SocketAddr::new(ip, port)
}

/// The same in IPv4, for tests that do not care.
pub(crate) fn web(n: u8, port: u16) -> SocketAddr {
    outside(n, Family::V4, port)
}

fn hexadecimal(digits: u8) -> u16 {
    u16::from(digits / 10) * 16 + u16::from(digits % 10)
}

/// A script of this repository.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// Waits until `probe` gives a value; panics with `what` when that takes too long.
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < give_up, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `probe` holds.
pub(crate) fn wait_until(what: &str, mut probe: impl FnMut() -> bool) {
    wait_for(what, || probe().then_some(()));
}

fn lab_script(command: &str, name: &str) {
    let output = Command::new(script("lab.sh"))
        .args([command, "--name", name])
        .output()
        .expect("scripts/lab.sh can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    // A panic in a destructor that runs because of a panic would hide the first one.
    if !std::thread::panicking() {
        assert!(output.status.success(), "lab.sh {command}: {text}");
    }
}

/// A test process that was killed could not remove its labs; their names hold its process id.
fn remove_labs_of_the_dead() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(lab) = name.strip_suffix("-node") else { continue };
        let Some(pid) = lab.strip_prefix("test-").and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            lab_script("down", lab);
        }
    }
}
