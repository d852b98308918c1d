//! Real clients and servers: curl, openssl, python3 and nginx.
//!
//! Nobody counts the bytes that they move, so a test with one of them does without that part of the
//! baseline check.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::lab::{Lab, Part, wait_until, web};

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// A server program in the world outside; killed when dropped.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts it, and waits until it accepts connections at `at`.
    pub(crate) fn serve(lab: &Lab, at: &[SocketAddr], mut command: Command) -> Self {
        lab.tally.expect_strangers();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = lab.inside(Part::Outside, || command.spawn()).expect("it is installed");
        let program = Self(process);
        for at in at {
            wait_until("a server to listen", || {
                lab.inside(Part::Outside, || TcpStream::connect(at)).is_ok()
            });
        }
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client in the pod, to its end.
pub(crate) fn run(lab: &Lab, program: &str, arguments: &[&str]) -> Ran {
    run_with_input(lab, program, arguments, b"")
}

/// The same, with something to read.
pub(crate) fn run_with_input(lab: &Lab, program: &str, arguments: &[&str], input: &[u8]) -> Ran {
    lab.tally.expect_strangers();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = lab.inside(Part::Pod, || command.spawn()).expect("it is installed");
    let mut to = child.stdin.take().expect("it was piped");
    let output = std::thread::scope(|scope| {
        // It may end without having read all of it.
        scope.spawn(move || drop(to.write_all(input)));
        child.wait_with_output().expect("it is our child")
    });
    Ran {
        code: output.status.code().unwrap_or(-1),
        output: output.stdout,
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs curl in the pod.
pub(crate) fn curl(lab: &Lab, arguments: &[&str]) -> Ran {
    let common = ["--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "25"];
    run(lab, "curl", &[&common, arguments].concat())
}

/// curl asks `to` for `url`, whose host and port are only what it says: status (0: no answer),
/// exit code, body.
pub(crate) fn fetch(lab: &Lab, to: SocketAddr, url: &str) -> (u16, i32, String) {
    let way = format!("::{to}");
    let ran = curl(lab, &["--connect-to", &way, "--write-out", "%{http_code}", url]);
    let mut body = ran.text();
    let status = body.split_off(body.len().saturating_sub(3)).parse();
    (status.unwrap_or_else(|_| panic!("curl wrote no status: {ran:?}")), ran.code, body)
}

/// `openssl s_client` makes a handshake with `to`, asking for `name`.
pub(crate) fn handshake(lab: &Lab, to: SocketAddr, name: Option<&str>) -> Ran {
    let to = to.to_string();
    let mut arguments = vec!["s_client", "-brief", "-connect", &to];
    match name {
        Some(name) => arguments.extend(["-servername", name]),
        None => arguments.push("-noservername"),
    }
    run(lab, "openssl", &arguments)
}

/// Runs a Python program in the pod; it must succeed. Returns what it printed.
pub(crate) fn python(lab: &Lab, program: &str, arguments: &[&str]) -> String {
    let ran = run(lab, "python3", &[&["-c", program], arguments].concat());
    assert!(ran.code == 0, "python3 failed: {ran:?}");
    ran.text()
}

/// A Python program that serves in the world outside, at the addresses in its arguments.
pub(crate) fn python_server(lab: &Lab, at: &[SocketAddr], program: &str) -> Program {
    python_server_with(lab, at, program, &[])
}

/// The same, with further arguments.
pub(crate) fn python_server_with(
    lab: &Lab,
    at: &[SocketAddr],
    program: &str,
    more: &[&str],
) -> Program {
    let mut command = Command::new("python3");
    command.args(["-c", program]).args(at.iter().map(ToString::to_string)).args(more);
    Program::serve(lab, at, command)
}

/// A Node.js program that serves in the world outside, at the addresses in its arguments.
pub(crate) fn node_server(lab: &Lab, at: &[SocketAddr], program: &str) -> Program {
    let mut command = Command::new("node");
    command.args(["-e", program, "--"]).args(at.iter().map(ToString::to_string));
    Program::serve(lab, at, command)
}

/// `openssl s_server`, which answers with a page about the handshake.
pub(crate) fn tls_server(lab: &Lab, at: SocketAddr) -> (Program, TempDir) {
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let [certificate, key] = make_certificate(directory.path());
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-www", "-accept", &at.to_string()]);
    command.arg("-cert").arg(certificate).arg("-key").arg(key);
    (Program::serve(lab, &[at], command), directory)
}

/// The certificate, and its key.
fn make_certificate(directory: &Path) -> [PathBuf; 2] {
    let files = ["certificate.pem", "key.pem"].map(|name| directory.join(name));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=outside.test", "-out"])
        .arg(&files[0])
        .arg("-keyout")
        .arg(&files[1])
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{output:?}");
    files
}

/// nginx in the world outside. It answers `/` with the address that was asked, serves and takes
/// files below `/files/` (a directory for each address), and answers `/empty` with 204.
#[derive(Debug)]
pub(crate) struct Nginx {
    directory: TempDir,
    _program: Program,
}

impl Nginx {
    pub(crate) fn start(lab: &Lab, plain: &[SocketAddr], tls: &[SocketAddr]) -> Self {
        Self::start_listening(lab, &[(plain, ""), (tls, " ssl")])
    }

    /// HTTP/2 without TLS, for who knows that it is spoken there.
    pub(crate) fn start_http2(lab: &Lab, at: SocketAddr) -> Self {
        Self::start_listening(lab, &[(&[at], " http2")])
    }

    /// Addresses, and how nginx is to listen there.
    fn start_listening(lab: &Lab, listens: &[(&[SocketAddr], &str)]) -> Self {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        let root = directory.path();
        let all: Vec<_> = listens.iter().flat_map(|(addresses, _)| *addresses).copied().collect();
        for at in &all {
            let files = root.join(at.ip().to_string()).join("files");
            std::fs::create_dir_all(files).expect("it is ours");
        }
        make_certificate(root);
        let configuration = root.join("nginx.conf");
        std::fs::write(&configuration, nginx_conf(root, listens)).expect("it is ours");
        let mut command = Command::new("nginx");
        command.arg("-e").arg(root.join("error.log")).arg("-c").arg(&configuration);
        let program = Program::serve(lab, &all, command);
        Self { directory, _program: program }
    }

    /// A file that the server at `at` serves, or has taken, as `/files/NAME`.
    pub(crate) fn file(&self, at: SocketAddr, name: &str) -> PathBuf {
        self.directory.path().join(at.ip().to_string()).join("files").join(name)
    }

    /// Every request that it has seen, a line each: `HOST METHOD PATH STATUS`.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default()
    }
}

/// The server to which nginx is a reverse proxy, for `/behind`.
pub(crate) fn behind_nginx() -> SocketAddr {
    web(13, 9000)
}

fn nginx_conf(root: &Path, listens: &[(&[SocketAddr], &str)]) -> String {
    let (dir, behind) = (root.display(), behind_nginx());
    let listens: String = listens
        .iter()
        .flat_map(|(addresses, how)| addresses.iter().map(move |at| format!("listen {at}{how};")))
        .collect();
    // One process that keeps its user: in a user namespace there is nobody else.
    format!(
        "daemon off; master_process off; user root root; pid {dir}/pid;
        events {{ worker_connections 1024; }}
        http {{
            log_format seen '$http_host $request_method $request_uri $status';
            access_log {dir}/access.log seen;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
            fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            client_max_body_size 0; keepalive_requests 1000000; default_type text/plain;
            server {{
                {listens}
                ssl_certificate {dir}/certificate.pem; ssl_certificate_key {dir}/key.pem;
                location = / {{ return 200 \"site $server_addr:$server_port\"; }}
                location = /empty {{ return 204; }}
                location = /behind {{
                    proxy_pass http://{behind}; proxy_buffer_size 64k; proxy_buffers 8 64k;
                }}
                location /files/ {{ root {dir}/$server_addr; dav_methods PUT; }}
            }}
        }}"
    )
}
