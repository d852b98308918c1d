//! What lines look like, byte for byte and under hostile input, and the way from the queue to them.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::stat::Mode as FileMode;
use nix::unistd::mkfifo;
use proptest::prelude::*;
use regex::Regex;

use super::record::Excerpt;
use super::*;

mod parsers;
use crate::config::{Config, Mode};
use crate::metrics::{CloseReason, ControlCounters, ResponseFlags};
use crate::registry::service_entry;
use crate::registry::snapshot::{
    Answers, BLACK_HOLE_CLUSTER, Cluster, PASSTHROUGH_CLUSTER, Service, Snapshot,
};
use crate::workload::Workload;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn cluster(name: &str) -> Arc<Cluster> {
    Arc::new(Cluster::reserved(name))
}

fn service() -> Arc<Service> {
    let text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                metadata: { name: orders, namespace: shop }\n\
                spec:\n  hosts: [orders.example.com]\n  addresses: [192.0.2.7]\n\
                \x20 ports: [{ number: 8080, name: http, protocol: HTTP }]\n  resolution: NONE\n";
    let (entries, _) = service_entry::parse(text, Path::new("registry.d/orders.yaml")).unwrap();
    let config = Arc::new(Config::default());
    let answers = Answers::default();
    let (snapshot, _) = Snapshot::build(1, config, &entries, Arc::default(), &answers);
    Arc::clone(snapshot.services().next().unwrap())
}

/// A connection that passed and has finished, as in Istio's issue 58696.
fn passed() -> Record {
    Record {
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_732_443_862_081),
        duration: Duration::from_micros(241_900),
        source: address("10.244.0.14:46076"),
        workload: Arc::new(Workload {
            workload: Some("web".into()),
            namespace: Some("shop".into()),
            ..Workload::default()
        }),
        original_destination: address("202.89.233.100:443"),
        upstream: Some(address("202.89.233.100:443")),
        upstream_local: Some(address("10.244.0.14:46078")),
        name: None,
        name_source: NameOrigin::None,
        verdict: Outcome::Passthrough,
        cluster: cluster(PASSTHROUGH_CLUSTER),
        decided_by: Decider::Policy(Mode::AllowAny),
        protocol: Protocol::Tcp,
        flags: ResponseFlags::None,
        bytes_received: 2038,
        bytes_sent: 6710,
        close_reason: Some(CloseReason::Finished),
        request: None,
    }
}

fn blocked() -> Record {
    Record {
        duration: Duration::ZERO,
        source: address("10.244.0.27:49692"),
        original_destination: address("104.20.23.154:443"),
        upstream: None,
        upstream_local: None,
        verdict: Outcome::BlackHole,
        cluster: cluster(BLACK_HOLE_CLUSTER),
        decided_by: Decider::Policy(Mode::RegistryOnly),
        flags: ResponseFlags::BlackHole,
        bytes_received: 0,
        bytes_sent: 0,
        close_reason: Some(CloseReason::BlackHole),
        ..passed()
    }
}

fn blocked_tls() -> Record {
    Record {
        name: Some("api.example.com".into()),
        name_source: NameOrigin::Sni,
        protocol: Protocol::Tls,
        ..blocked()
    }
}

fn blocked_request() -> Record {
    Record {
        source: address("10.244.0.27:35284"),
        original_destination: address("104.20.23.154:80"),
        name: Some("example.com".into()),
        name_source: NameOrigin::Host,
        protocol: Protocol::Http1,
        flags: ResponseFlags::None,
        close_reason: None,
        request: Some(Request {
            method: "GET".into(),
            target: "/".into(),
            version: "HTTP/1.1",
            authority: Some("example.com".into()),
            user_agent: Some("curl/8.11.1".into()),
            request_id: Some("c9627983-7f4a".into()),
            status: 502,
            details: "direct_response",
            ..Request::default()
        }),
        ..blocked()
    }
}

/// Of a service's own requests.
fn served_request() -> Record {
    let service = service();
    let request = Request {
        method: "POST".into(),
        target: "/v1/orders?x=1".into(),
        version: "HTTP/1.1",
        authority: Some("orders.example.com:8080".into()),
        forwarded_for: Some("10.0.0.1, 10.0.0.2".into()),
        status: 201,
        details: "via_upstream",
        first_byte: Some(Duration::from_micros(3_999)),
        ..Request::default()
    };
    Record {
        original_destination: address("[2001:db8::7]:8080"),
        name: Some("orders.example.com".into()),
        name_source: NameOrigin::Host,
        verdict: Outcome::Service,
        cluster: Arc::clone(&service.cluster.value),
        decided_by: Decider::Entry(service),
        protocol: Protocol::Http1,
        close_reason: None,
        request: Some(request),
        ..passed()
    }
}

fn in_text(record: &Record) -> String {
    let mut line = String::new();
    text::write(record, &mut line);
    line
}

fn in_json(record: &Record) -> String {
    let mut line = String::new();
    json::write(record, &mut line);
    line
}

#[test]
fn connections_are_written_as_by_istios_envoy() {
    assert_eq!(
        in_text(&passed()),
        "[2024-11-24T10:24:22.081Z] \"- - -\" 0 - - - \"-\" 2038 6710 241 - \"-\" \"-\" \"-\" \
         \"-\" \"202.89.233.100:443\" PassthroughCluster 10.244.0.14:46078 202.89.233.100:443 \
         10.244.0.14:46076 - -\n"
    );
    assert_eq!(
        in_text(&blocked()),
        "[2024-11-24T10:24:22.081Z] \"- - -\" 0 UH - - \"-\" 0 0 0 - \"-\" \"-\" \"-\" \"-\" \"-\" \
         BlackHoleCluster - 104.20.23.154:443 10.244.0.27:49692 - -\n"
    );
}

#[test]
fn requests_are_written_as_by_istios_envoy() {
    assert_eq!(
        in_text(&blocked_request()),
        "[2024-11-24T10:24:22.081Z] \"GET / HTTP/1.1\" 502 - direct_response - \"-\" 0 0 0 - \"-\" \
         \"curl/8.11.1\" \"c9627983-7f4a\" \"example.com\" \"-\" - - 104.20.23.154:80 \
         10.244.0.27:35284 - block_all\n"
    );
    assert_eq!(
        in_text(&served_request()),
        "[2024-11-24T10:24:22.081Z] \"POST /v1/orders?x=1 HTTP/1.1\" 201 - via_upstream - \"-\" \
         2038 6710 241 3 \"10.0.0.1,10.0.0.2\" \"-\" \"-\" \"orders.example.com:8080\" \
         \"202.89.233.100:443\" outbound|8080||orders.example.com 10.244.0.14:46078 \
         [2001:db8::7]:8080 10.244.0.14:46076 - default\n"
    );
}

#[test]
fn the_sni_of_blocked_tls_and_the_causes_of_an_end_have_a_place() {
    assert!(in_text(&blocked_tls()).ends_with(" 10.244.0.27:49692 api.example.com -\n"));
    let ended = |reason: CloseReason| {
        let flags = reason.response_flags();
        in_text(&Record { close_reason: Some(reason), flags, ..passed() })
    };
    assert!(
        ended(CloseReason::ConnectRefused)
            .contains(" 0 UF,URX - - \"delayed_connect_error:_Connection_refused\" 2038 ")
    );
    assert!(ended(CloseReason::Idle).contains(" 0 - - tcp_session_idle_timeout \"-\" 2038 "));
    assert!(ended(CloseReason::UpstreamReset).contains(" 0 UR - - \"-\" 2038 "));
}

#[test]
fn the_examples_in_the_documents_are_what_is_written() {
    let operations = include_str!("../../docs/operations.md");
    let section = operations.split("## Access log").nth(1).unwrap();
    let example = |language: &str| {
        let start = section.split(&format!("```{language}\n")).last().unwrap();
        start.split("\n```").next().unwrap()
    };
    let record = blocked_tls();
    assert_eq!(example("text"), in_text(&record).trim_end());
    assert_eq!(example("json").replace("\n ", ""), in_json(&record).trim_end());
}

#[test]
fn json_has_istios_keys_and_egrets() {
    assert_eq!(
        in_json(&served_request()),
        "{\"start_time\":\"2024-11-24T10:24:22.081Z\",\"route_name\":\"default\",\
         \"method\":\"POST\",\"path\":\"/v1/orders?x=1\",\"protocol\":\"HTTP/1.1\",\
         \"response_code\":201,\"response_flags\":\"-\",\"response_code_details\":\"via_upstream\",\
         \"connection_termination_details\":null,\"bytes_received\":2038,\"bytes_sent\":6710,\
         \"duration\":241,\"upstream_service_time\":\"3\",\
         \"x_forwarded_for\":\"10.0.0.1, 10.0.0.2\",\"user_agent\":null,\"request_id\":null,\
         \"authority\":\"orders.example.com:8080\",\"upstream_host\":\"202.89.233.100:443\",\
         \"upstream_cluster\":\"outbound|8080||orders.example.com\",\
         \"upstream_local_address\":\"10.244.0.14:46078\",\
         \"downstream_local_address\":\"[2001:db8::7]:8080\",\
         \"downstream_remote_address\":\"10.244.0.14:46076\",\"requested_server_name\":null,\
         \"upstream_transport_failure_reason\":null,\"source_workload\":\"web\",\
         \"source_namespace\":\"shop\",\"original_destination\":\"[2001:db8::7]:8080\",\
         \"name\":\"orders.example.com\",\"name_source\":\"host\",\
         \"recognised_protocol\":\"http1\",\
         \"verdict\":\"service\",\"decided_by\":\"shop/orders (registry.d/orders.yaml:1)\",\
         \"close_reason\":null}\n"
    );
    let blocked: serde_json::Value = serde_json::from_str(&in_json(&blocked())).unwrap();
    assert_eq!(blocked["verdict"], "blackhole");
    assert_eq!(blocked["decided_by"], "outboundTrafficPolicy.mode REGISTRY_ONLY");
    assert_eq!(
        (&blocked["close_reason"], &blocked["response_flags"]),
        (&"blackhole".into(), &"UH".into())
    );
    assert_eq!(
        (&blocked["method"], &blocked["response_code"]),
        (&serde_json::Value::Null, &0.into())
    );
}

/// The format as a log collector reads it: words end at a blank, quotes at a quote.
fn envoys_format() -> Regex {
    let word = |name: &str| format!("(?<{name}>[^ ]+)");
    let quoted = |name: &str| format!("\"(?<{name}>[^\"]+)\"");
    let fields = [
        r"^\[(?<start_time>[^\]]+)\]".to_owned(),
        r#""(?<method>[^ "]+) (?<path>[^ "]+) (?<protocol>[^ "]+)""#.to_owned(),
        word("code"),
        word("flags"),
        word("details"),
        word("termination"),
        quoted("failure"),
        word("received"),
        word("sent"),
        word("duration"),
        word("service_time"),
        quoted("forwarded_for"),
        quoted("user_agent"),
        quoted("request_id"),
        quoted("authority"),
        quoted("upstream_host"),
        word("cluster"),
        word("upstream_local"),
        word("downstream_local"),
        word("downstream_remote"),
        word("sni"),
        "(?<route>[^ \n]+)\n$".to_owned(),
    ];
    Regex::new(&fields.join(" ")).unwrap()
}

/// What `\xNN` stands for.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Bytes as an attacker chooses them: quotes, line ends, escapes, broken UTF-8.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        prop::sample::select(vec![
            "\"",
            "\\",
            "\\x22",
            " ",
            "\n",
            "\r\n",
            "\0",
            "\x1b[2J",
            "\x7f",
            "\u{85}",
            "\u{2028}",
            "\u{202e}",
            "-",
            "é",
            "\" 200 - - - \"",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..8),
    ];
    prop::collection::vec(pieces, 1..20).prop_map(|pieces| pieces.concat())
}

/// No byte of `line` but its end is anything that a terminal or a reader of lines acts on.
fn is_one_printable_line(line: &str) -> bool {
    let inside = line.strip_suffix('\n');
    inside.is_some_and(|line| !line.chars().any(is_unprintable))
}

fn hostile_request(parts: &[Vec<u8>; 5]) -> Record {
    let [method, target, authority, user_agent, forwarded_for] = parts;
    let mut record = served_request();
    let request = record.request.as_mut().unwrap();
    request.method = method.as_slice().into();
    request.target = target.as_slice().into();
    request.authority = Some(authority.as_slice().into());
    request.user_agent = Some(user_agent.as_slice().into());
    request.forwarded_for = Some(forwarded_for.as_slice().into());
    record.name = Some(String::from_utf8_lossy(authority).into());
    record.name_source = NameOrigin::Sni;
    record
}

proptest! {
    #[test]
    fn no_input_forges_a_line_or_a_field(parts in prop::array::uniform5(hostile())) {
        let record = hostile_request(&parts);
        let request = record.request.as_ref().unwrap();

        let line = in_text(&record);
        prop_assert!(is_one_printable_line(&line), "{line:?}");
        let fields = envoys_format().captures(&line);
        let fields = fields.ok_or_else(|| TestCaseError::fail(line.clone()))?;
        let read_back = |name: &str| unescaped(fields[name].trim_end_matches("..."));
        let without_dots = |bytes: &[u8]| {
            let end = bytes.iter().rposition(|byte| *byte != b'.').map_or(0, |last| last + 1);
            bytes[..end].to_vec()
        };
        for (name, sent) in [
            ("method", request.method.bytes()),
            ("path", request.target.bytes()),
            ("authority", request.authority.as_ref().unwrap().bytes()),
            ("user_agent", request.user_agent.as_ref().unwrap().bytes()),
        ] {
            prop_assert_eq!(without_dots(&read_back(name)), without_dots(sent));
        }
        let mut list = request.forwarded_for.as_ref().unwrap().bytes().to_vec();
        list.retain(|byte| *byte != b' ');
        let list = if list.is_empty() { b"-".to_vec() } else { list };
        prop_assert_eq!(without_dots(&read_back("forwarded_for")), without_dots(&list));
        prop_assert_eq!(&fields["code"], "201");

        let line = in_json(&record);
        prop_assert!(is_one_printable_line(&line), "{line:?}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(object.as_object().unwrap().len(), 33);
        let agent = request.user_agent.as_ref().unwrap();
        let agent = String::from_utf8_lossy(agent.bytes()).into_owned() + agent.ellipsis();
        prop_assert_eq!(&object["user_agent"], &agent);
    }
}

#[test]
fn the_length_of_a_line_is_bounded() {
    let huge = vec![0; 1 << 20];
    let record = hostile_request(&std::array::from_fn(|_| huge.clone()));
    let record = Record { name: None, ..record };
    let line = in_text(&record);
    assert!(line.len() < 16 * 1024, "{}", line.len());
    assert!(line.contains("\\x00... HTTP/1.1\""));
    assert!(in_json(&record).len() < 20 * 1024);
    // The excerpts of a request, and a name (RFC 1035).
    let texts = 32 + 1024 + 300 + 256 + 256 + 128 + 253;
    assert!(size_of::<Record>() + texts < 3 * 1024, "as QUEUE_RECORDS_MAX says");
    let kept = record.request.unwrap().target;
    assert_eq!((kept.bytes().len(), kept.ellipsis()), (1024, "..."));
    assert_eq!(Excerpt::<4>::from("four").ellipsis(), "");
}

#[test]
fn a_clock_that_is_far_off_is_no_reason_to_panic() {
    let shown = |time| timestamp(time).to_string();
    let hour = Duration::from_secs(3600);
    assert_eq!(shown(SystemTime::UNIX_EPOCH - hour), "1970-01-01T00:00:00.000Z");
    assert_eq!(shown(SystemTime::UNIX_EPOCH + LAST_SECOND + hour), "9999-12-31T23:59:59.000Z");
}

/// A running writer, and a directory for its files.
struct Bench {
    directory: tempfile::TempDir,
    log: AccessLog,
    counters: Arc<ControlCounters>,
    writer: Option<Writer>,
}

impl Bench {
    fn start(format: AccessLogFormat, file: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(format, directory.path().join(file));
        let (log, queue) = open(&settings);
        Self::with(directory, log, queue)
    }

    fn with(directory: tempfile::TempDir, log: AccessLog, queue: Queue) -> Self {
        let counters: Arc<ControlCounters> = Arc::default();
        let writer = Some(Writer::start(queue, Arc::clone(&counters)).unwrap());
        Self { directory, log, counters, writer }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn configure(&self, format: AccessLogFormat, file: &str) {
        self.log.configure(&settings(format, self.path(file)));
    }

    fn written(&self) -> u64 {
        self.counters.access_log_lines.get()
    }

    fn lost(&self) -> u64 {
        self.counters.access_log_lost.get()
    }
}

fn settings(format: AccessLogFormat, path: PathBuf) -> config::AccessLog {
    config::AccessLog { format, path: Some(path) }
}

/// A named pipe, and its reading end.
fn pipe(directory: &Path) -> (PathBuf, fs::File) {
    let path = directory.join("pipe");
    mkfifo(&path, FileMode::S_IRUSR | FileMode::S_IWUSR).unwrap();
    (path.clone(), reader(&path))
}

fn reader(path: &Path) -> fs::File {
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path).unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_full_queue_drops_at_once() {
    let settings = settings(AccessLogFormat::Text, "/nonexistent".into());
    let (log, queue) = with_capacity(&settings, 4);
    let of = |source: u8| {
        let source = SocketAddr::from(([10, 0, 0, source], 1));
        log.log(Box::new(Record { source, ..passed() }))
    };
    let results = [1, 1, 1, 1, 2, 3].map(of);
    let (fits, share, full) = (Ok(()), Err(Dropped::Share), Err(Dropped::Full));
    assert_eq!(results, [fits, fits, fits, share, fits, full]);
    // Neither does the control plane wait for room.
    log.configure(&settings);
    log.reopen();
    drop(queue);
    assert_eq!(log.log(Box::new(passed())), Err(Dropped::Full));
}

#[test]
fn what_was_queued_is_written_before_the_end() {
    let mut bench = Bench::start(AccessLogFormat::Text, "access.log");
    for _ in 0..5_000 {
        bench.log.log(Box::new(passed())).unwrap();
    }
    bench.writer = None;
    assert_eq!(bench.lines("access.log").len(), 5_000);
    assert_eq!((bench.written(), bench.lost()), (5_000, 0));
    let mode = fs::metadata(bench.path("access.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "others may read or the group may write: {mode:o}");
}

#[test]
fn a_renamed_file_is_left_when_it_is_reopened() {
    let bench = Bench::start(AccessLogFormat::Text, "access.log");
    bench.log.log(Box::new(passed())).unwrap();
    wait_until("the first line", || bench.written() == 1);
    fs::rename(bench.path("access.log"), bench.path("access.log.1")).unwrap();
    bench.log.log(Box::new(passed())).unwrap();
    wait_until("the second line", || bench.written() == 2);
    assert!(!bench.path("access.log").exists());
    bench.log.reopen();
    bench.log.log(Box::new(blocked())).unwrap();
    wait_until("the third line", || bench.written() == 3);
    assert_eq!((bench.lines("access.log.1").len(), bench.lines("access.log").len()), (2, 1));
}

#[test]
fn format_and_file_change_while_it_runs() {
    let bench = Bench::start(AccessLogFormat::Off, "access.log");
    assert!(!bench.log.is_on());
    // A record that was under way when the log was switched off.
    bench.log.log(Box::new(passed())).unwrap();
    bench.configure(AccessLogFormat::Json, "access.log");
    assert!(bench.log.is_on());
    wait_until("the file", || bench.path("access.log").exists());
    bench.log.log(Box::new(blocked())).unwrap();
    wait_until("a JSON line", || bench.lines("access.log").iter().any(|l| l.contains("UH")));
    bench.configure(AccessLogFormat::Text, "other.log");
    wait_until("the other file", || bench.path("other.log").exists());
    bench.log.log(Box::new(blocked())).unwrap();
    wait_until("a line of text", || bench.lines("other.log").len() == 1);
    bench.configure(AccessLogFormat::Off, "other.log");
    assert!(!bench.log.is_on());
    assert!(bench.lines("access.log").iter().all(|line| line.starts_with('{')));
    assert!(bench.lines("other.log")[0].starts_with('['));
    assert_eq!(bench.lost(), 0);
}

/// Logs until nothing goes on: the pipe has no room, the writer waits, the queue is full. Returns
/// how many records were taken.
fn fill(bench: &Bench) -> u64 {
    let mut taken = 0;
    wait_until("the pipe is full", || {
        while bench.log.log(Box::new(passed())).is_ok() {
            taken += 1;
        }
        let before = (bench.written(), taken);
        std::thread::sleep(writer::REST * 10);
        taken += u64::from(bench.log.log(Box::new(passed())).is_ok());
        bench.written() > 0 && (bench.written(), taken) == before
    });
    taken
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_neither_worker_nor_change_nor_end() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut reader) = pipe(directory.path());
    let to_pipe = settings(AccessLogFormat::Text, path);
    let (log, queue) = with_capacity(&to_pipe, 64);
    let mut bench = Bench::with(directory, log, queue);
    let mut taken = fill(&bench);
    bench.configure(AccessLogFormat::Text, "access.log");
    wait_until("a line in the file", || !bench.lines("access.log").is_empty());

    // What did get into the pipe are whole lines.
    let mut text = Vec::new();
    let _ = reader.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    assert!(text.lines().count() > 100);
    assert!(text.split_inclusive('\n').all(|line| line == in_text(&passed())));

    // The same at the end: blocked again, it ends in bounded time.
    bench.log.configure(&to_pipe);
    taken += fill(&bench);
    let began = Instant::now();
    bench.writer = None;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(bench.lost() > 0);
    assert_eq!(bench.written() + bench.lost(), taken, "each is either written or counted as lost");
}

#[test]
fn a_full_disk_is_counted_and_the_next_file_is_written() {
    let bench = Bench::start(AccessLogFormat::Text, "unused.log");
    bench.log.configure(&settings(AccessLogFormat::Text, "/dev/full".into()));
    wait_until("a line is lost", || {
        let _ = bench.log.log(Box::new(passed()));
        bench.lost() > 0
    });
    bench.configure(AccessLogFormat::Text, "no/such/directory.log");
    let lost = bench.lost();
    wait_until("more is lost", || {
        let _ = bench.log.log(Box::new(passed()));
        bench.lost() > lost + 1
    });
    // The directory appears: it is found without being told.
    fs::create_dir_all(bench.path("no/such")).unwrap();
    wait_until("a line is written", || {
        let _ = bench.log.log(Box::new(passed()));
        !bench.lines("no/such/directory.log").is_empty()
    });
}

/// Set in the process that plays the proxy whose standard output is closed.
const CHILD: &str = "EGRET_TEST_STDOUT_IS_CLOSED";
const SURVIVED: i32 = 7;

#[test]
fn a_closed_stdout_ends_neither_the_writer_nor_the_process() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    if std::env::var_os(CHILD).is_some() {
        write_until_lines_are_lost();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("access_log::tests::a_closed_stdout_ends_neither_the_writer_nor_the_process")
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() + "\n" == in_text(&passed())));
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(SURVIVED));
}

fn write_until_lines_are_lost() -> ! {
    let (log, queue) = open(&config::AccessLog { format: AccessLogFormat::Text, path: None });
    let counters: Arc<ControlCounters> = Arc::default();
    let writer = Writer::start(queue, Arc::clone(&counters)).unwrap();
    wait_until("lines are lost", || {
        let _ = log.log(Box::new(passed()));
        counters.access_log_lost.get() > 0
    });
    drop(writer);
    std::process::exit(SURVIVED);
}
