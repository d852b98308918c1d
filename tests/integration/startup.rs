//! What keeps a proxy from starting is said at the start, with the fix.

use std::net::TcpListener;
use std::process::{Command, Output};

fn egret(config: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("egret.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(arguments).arg("--config").arg(&file).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_port_that_is_taken_is_named_and_the_exit_code_is_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = format!(
        "listen: {{ port: {port}, addresses: [\"127.0.0.1\"] }}\nupstream: {{ mark: null }}\n"
    );
    let output = egret(&config, &["run"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("taken"), "{said}");
}

#[test]
fn a_bad_configuration_is_refused_with_file_and_line_and_exit_code_64() {
    let config = "workers: auto\nlisten:\n  captur: redirect\n";
    for command in ["run", "check"] {
        let output = egret(config, &[command]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("egret.yaml:3") && said.contains("captur"), "{said}");
    }
}

#[test]
fn a_bad_command_line_has_exit_code_64_and_help_has_examples() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_egret")).args(arguments).output().unwrap()
    };
    assert_eq!(run(&["fly"]).status.code(), Some(64));
    assert_eq!(run(&["explain", "not-an-address"]).status.code(), Some(64));
    for command in
        [&["--help"][..], &["run", "--help"], &["check", "--help"], &["explain", "--help"]]
    {
        let output = run(command);
        assert_eq!(output.status.code(), Some(0));
        assert!(said(&output).contains("Examples:"), "{command:?}");
    }
    assert!(said(&run(&["--version"])).contains(env!("CARGO_PKG_VERSION")));
}

/// Runs `egret run` where seccomp answers io_uring_setup(2) with `errno`, as container runtimes do.
fn run_without_io_uring(errno: i32) -> Output {
    // A classic BPF program: if the number of the system call is io_uring_setup's (425 on every
    // architecture), return the error, else allow; see seccomp(2).
    const DENY: &str = r#"
import ctypes, os, struct, sys
errno, command = int(sys.argv[1]), sys.argv[2:]
def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
program = op(0x20, 0, 0, 0) + op(0x15, 0, 1, 425) + op(0x06, 0, 0, 0x50000 | errno) \
    + op(0x06, 0, 0, 0x7fff0000)
code = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
assert libc.prctl(22, 2, filter, 0, 0) == 0, "seccomp"
os.execv(command[0], command)
"#;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("egret.yaml");
    let config = "listen: { port: 0, addresses: [\"127.0.0.1\"] }\nupstream: { mark: null }\n\
                  admin: { address: \"127.0.0.1:0\" }\nmetrics: { address: \"127.0.0.1:0\" }\n\
                  health: { address: \"127.0.0.1:0\" }\n";
    std::fs::write(&file, config).unwrap();
    Command::new("python3")
        .args(["-c", DENY, &errno.to_string(), env!("CARGO_BIN_EXE_egret"), "run", "--config"])
        .arg(&file)
        .output()
        .expect("python3 is installed")
}

#[test]
fn a_host_that_denies_io_uring_is_told_apart_and_the_fix_is_named() {
    for (errno, cause) in [
        (nix::libc::ENOSYS, "function not implemented"),
        (nix::libc::EPERM, "operation not permitted"),
    ] {
        let output = run_without_io_uring(errno);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(cause), "{said}");
        assert!(said.contains("seccomp profile") && said.contains("io_uring_enter"), "{said}");
    }
}

/// Runs `egret run` as a user without any capability: as nobody, unless this is such a user
/// already.
fn run_unprivileged(config: &str, through: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let open = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(directory.path(), open(0o755)).unwrap();
    let file = directory.path().join("egret.yaml");
    std::fs::write(&file, config).unwrap();
    let drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let drop = if nix::unistd::geteuid().is_root() { &drop[..] } else { &[] };
    let line = [drop, through, &[env!("CARGO_BIN_EXE_egret")]].concat();
    let mut command = Command::new(line[0]);
    command.args(&line[1..]);
    command.args(["run", "--config"]).arg(&file).output().expect("setpriv is installed")
}

#[test]
fn a_ring_that_finds_no_memory_to_lock_names_the_limit() {
    let config = "listen: { port: 0, addresses: [\"127.0.0.1\"] }\nupstream: { mark: null }\n\
                  admin: { address: \"127.0.0.1:0\" }\nmetrics: { address: \"127.0.0.1:0\" }\n\
                  health: { address: \"127.0.0.1:0\" }\n";
    let output = run_unprivileged(config, &["prlimit", "--memlock=65536:65536"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("RLIMIT_MEMLOCK is 64 KiB") && said.contains("ulimit -l"), "{said}");
}

#[test]
fn a_missing_cap_net_raw_is_named_for_the_mark_and_for_tproxy() {
    for (listen, mark, field) in
        [("redirect", "1337", "upstream.mark"), ("tproxy", "null", "listen.capture")]
    {
        let config = format!(
            "listen: {{ port: 0, addresses: [\"127.0.0.1\"], capture: {listen} }}\n\
             upstream: {{ mark: {mark} }}\n"
        );
        let output = run_unprivileged(&config, &[]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(field) && said.contains("CAP_NET_RAW"), "{said}");
    }
}
