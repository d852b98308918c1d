//! From the DNS server to the published snapshot: the resolver and the reload thread, over files.

use std::fs;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, sync_channel};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use strum::VariantArray;
use tempfile::TempDir;

use super::testing::{DnsServer, Say};
use super::*;
use crate::commands::{Command, CommandSender};
use crate::control::reload::{self, Outcome, Watching};
use crate::control::testing::{real_source, target, wait_until};
use crate::metrics::ReloadResult;
use crate::questions::{self, Found, Question};
use crate::registry::Registry;
use crate::registry::snapshot::Target;
use crate::sys::waker::Waker;

/// TTL 0 is asked for anew after 10 ms.
const QUICK: Timing = Timing {
    ttl_min: Duration::from_millis(10),
    ttl_max: Duration::from_secs(3600),
    retry_min: Duration::from_millis(10),
    retry_max: Duration::from_millis(10),
    absence_hold: Duration::from_millis(100),
};

/// A registry in files, with the resolver and the reload thread that keep it.
struct Bench {
    directory: TempDir,
    registry: Registry,
    counters: Arc<ControlCounters>,
    names: Names,
    first_answers: Receiver<()>,
    reload: reload::Handle,
    questions: questions::Sender,
    answers: Receiver<Command>,
    // Dropped before the reload thread, as in the control plane.
    runtime: Option<Runtime>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.runtime.take());
    }
}

fn write_config(directory: &TempDir, servers: &[SocketAddr]) {
    let servers: Vec<String> = servers.iter().map(|server| format!("'{server}'")).collect();
    let servers = servers.join(", ");
    let text =
        format!("registry: ['registry.yaml']\nnames: {{ dnsServers: [{servers}], grace: 10ms }}\n");
    fs::write(directory.path().join("egret.yaml"), text).unwrap();
}

/// One entry per host, each on port 5432 without listed addresses.
fn write_registry(directory: &TempDir, hosts: &[&str]) {
    let entries: Vec<String> = hosts
        .iter()
        .map(|host| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {{ name: {}, namespace: shop }}\n\
                 spec: {{ hosts: [{host}], resolution: DNS, \
                 ports: [{{ number: 5432, name: tcp, protocol: TCP }}] }}\n",
                host.replace('.', "-")
            )
        })
        .collect();
    let text = match entries.is_empty() {
        true => "apiVersion: v1\nkind: List\nitems: []\n".into(),
        false => entries.join("---\n"),
    };
    fs::write(directory.path().join("registry.yaml"), text).unwrap();
}

impl Bench {
    fn start(server: &DnsServer, hosts: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_config(&directory, &[server.address]);
        write_registry(&directory, hosts);
        let config_file = directory.path().join("egret.yaml");
        let (source, snapshot) =
            real_source(&config_file, Watching::PollOnly, Duration::from_secs(3600));
        let registry = Registry::new(snapshot);
        let (wanted, names_wanted) = watch::channel(Wanted::default());
        let (target, counters) = target(&registry, wanted);
        let reload = reload::Handle::start(source, target).unwrap();
        let (told, first_answers) = sync_channel(1);
        let (worker, answers) = CommandSender::new(Waker::new().unwrap());
        let (questions, asked) = questions::channel();
        let inputs = Inputs {
            wanted: names_wanted,
            offer: reload.offer(),
            counters: Arc::clone(&counters),
            first_answers: told,
            claims: Claimed { questions: asked, workers: vec![worker] },
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let names = spawn_with(inputs, &runtime, QUICK);
        let runtime = Some(runtime);
        Self {
            directory,
            registry,
            counters,
            names,
            first_answers,
            reload,
            questions,
            answers,
            runtime,
        }
    }

    fn await_first_answers(&self) {
        self.first_answers.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    /// The addresses that the current snapshot sends connections for `host` to.
    fn endpoints(&self, host: &str) -> Vec<String> {
        let snapshot = self.registry.current();
        let service = snapshot.services().find(|s| &*s.cluster.value.service_name == host);
        match &service.expect("the host is registered").target {
            Target::Endpoints(list) => list.iter().map(|e| e.ip().to_string()).collect(),
            Target::OriginalDestination { .. } => panic!("{host} is not resolved"),
        }
    }

    fn wait_for(&self, host: &str, addresses: &[&str]) {
        let what = format!("{host} is at {addresses:?}");
        wait_until(&what, || self.endpoints(host) == addresses);
    }

    /// A connection claims `name`.
    fn claim(&self, name: &str, connection: u64) {
        let name = Name::parse(name.as_bytes()).unwrap();
        let source = "192.0.2.200".parse().unwrap();
        assert!(self.questions.ask(Question { name, source, worker: 0, connection }));
    }

    /// What a connection is told next: which one, of which name, and the addresses.
    fn told(&self) -> (u64, String, Vec<String>) {
        match self.answers.recv_timeout(Duration::from_secs(10)).unwrap() {
            Command::Resolved { name, connection, found } => {
                let addresses = match found {
                    Found::Addresses(list) => list.iter().map(IpAddr::to_string).collect(),
                    Found::Nothing => Vec::new(),
                    Found::NoRoom => panic!("there is room"),
                };
                (connection, name.to_string(), addresses)
            }
            other => panic!("{other:?}"),
        }
    }

    fn generation(&self) -> u64 {
        self.registry.current().generation
    }

    fn reload(&self) -> Outcome {
        self.reload.ask().blocking_recv().unwrap()
    }

    fn count(&self, result: DnsResult) -> u64 {
        self.counters.dns_resolutions(result).get()
    }

    /// Waits until `result` has come several times more.
    fn wait_for_more(&self, result: DnsResult) {
        let before = self.count(result);
        wait_until(&format!("more of {result:?}"), || self.count(result) > before + 3);
    }
}

#[test]
fn the_first_answers_are_published_before_they_are_told() {
    let server = DnsServer::start();
    server.say_addresses("db.example", &["192.0.2.7"]);
    server.say("dead.example", Say::Code(ResponseCode::ServFail));
    let bench = Bench::start(&server, &["db.example", "dead.example"]);
    bench.await_first_answers();
    assert_eq!(bench.endpoints("db.example"), ["192.0.2.7"]);
    assert!(bench.endpoints("dead.example").is_empty());
    assert_eq!(bench.generation(), 2);
    assert_eq!(bench.counters.config_generation.get(), 2);
    assert_eq!(bench.counters.dns_names.get(), 2);
    assert_eq!(bench.counters.reloads(ReloadResult::Success).get(), 0, "no reload is counted");
    // By an address that the name resolved to, and by no other.
    let snapshot = bench.registry.current();
    let verdict = |to: &str| format!("{:?}", snapshot.lookup(to.parse().unwrap()));
    assert!(verdict("192.0.2.7:5432").starts_with("Service"));
    assert!(verdict("192.0.2.8:5432").starts_with("Passthrough"));
}

#[test]
fn without_names_nothing_is_asked_or_published() {
    let bench = Bench::start(&DnsServer::start(), &[]);
    bench.await_first_answers();
    assert_eq!(bench.generation(), 1);
    assert!(DnsResult::VARIANTS.iter().all(|result| bench.count(*result) == 0));
}

#[test]
fn an_expired_answer_is_asked_for_again_and_a_change_is_published() {
    let server = DnsServer::start();
    server.say_addresses("db.example", &["192.0.2.1", "192.0.2.2"]);
    let bench = Bench::start(&server, &["db.example"]);
    bench.wait_for("db.example", &["192.0.2.1", "192.0.2.2"]);
    // The same set in another order is no change.
    server.say_addresses("db.example", &["192.0.2.2", "192.0.2.1"]);
    bench.wait_for_more(DnsResult::Success);
    assert_eq!(bench.generation(), 2);
    server.say_addresses("db.example", &["192.0.2.3"]);
    bench.wait_for("db.example", &["192.0.2.3"]);
    assert_eq!(bench.generation(), 3);
}

#[test]
fn an_answer_that_holds_is_not_asked_for_again() {
    let server = DnsServer::start();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    server.say("held.example", Say::Addresses(vec![address], 3600));
    server.say_addresses("other.example", &["192.0.2.2"]);
    let bench = Bench::start(&server, &["held.example", "other.example"]);
    bench.await_first_answers();
    // On a busy machine a first answer may be late, and be asked for again.
    let held = server.asked("held.example", RecordType::A);
    let other = server.asked("other.example", RecordType::A);
    wait_until("the other is asked for again", || {
        server.asked("other.example", RecordType::A) > other + 1
    });
    assert_eq!(server.asked("held.example", RecordType::A), held);
    let view = serde_json::to_value(bench.names.view()).unwrap();
    assert_eq!(view[0]["name"], "held.example");
    assert_eq!(view[0]["addresses"], serde_json::json!(["192.0.2.1"]));
    assert!(view[0]["ttlLeftS"].as_u64().unwrap() > 3500);
    assert_eq!(view[0]["error"], serde_json::Value::Null);
}

/// What servers and what stands before them do, and what a name comes to nevertheless.
#[test]
fn odd_servers_are_understood() {
    const V4: &str = "192.0.2.1";
    const V6: &str = "2001:db8::1";
    let found = |list: &[&str]| {
        Say::Addresses(list.iter().map(|text| text.parse().unwrap()).collect(), 3600)
    };
    let both = || Box::new(found(&[V4, V6]));
    let code = |code| Box::new(Say::Code(code));
    let cases: [(&str, Say, &[&str]); 19] = [
        ("a.example", found(&[V4]), &[V4]),
        ("aaaa.example", found(&[V6]), &[V6]),
        ("both.example", *both(), &[V4, V6]),
        ("ttl-0.example", Say::Addresses(vec![V4.parse().unwrap()], 0), &[V4]),
        ("silent-aaaa.example", Say::NothingAbout(RecordType::AAAA, both()), &[V4]),
        ("silent-a.example", Say::NothingAbout(RecordType::A, both()), &[V6]),
        ("formerr.example", Say::Edns(code(ResponseCode::FormErr), both()), &[V4, V6]),
        ("notimp.example", Say::Edns(code(ResponseCode::NotImp), both()), &[V4, V6]),
        ("servfail.example", Say::Edns(code(ResponseCode::ServFail), both()), &[V4, V6]),
        ("badvers.example", Say::Edns(code(ResponseCode::BADVERS), both()), &[V4, V6]),
        (
            "bare-formerr.example",
            Say::Edns(Box::new(Say::BareCode(ResponseCode::FormErr)), both()),
            &[V4, V6],
        ),
        ("silent-edns.example", Say::Edns(Box::new(Say::Nothing), both()), &[V4, V6]),
        ("silent-plain.example", Say::Edns(both(), Box::new(Say::Nothing)), &[V4, V6]),
        ("truncated.example", Say::Truncated(both()), &[V4, V6]),
        (
            "truncated-plain.example",
            Say::Edns(Box::new(Say::Nothing), Box::new(Say::Truncated(both()))),
            &[V4, V6],
        ),
        ("alias.example", Say::Alias("alias2.example", 3600), &[V4, V6]),
        ("alias2.example", Say::Alias("both.example", 3600), &[V4, V6]),
        ("dangling.example", Say::Alias("nowhere.example", 3600), &[]),
        ("circle.example", Say::Alias("circle2.example", 3600), &[]),
    ];
    let server = DnsServer::start();
    server.say("circle2.example", Say::Alias("circle3.example", 0));
    server.say("circle3.example", Say::Code(ResponseCode::ServFail));
    for (host, says, _) in cases.clone() {
        server.say(host, says);
    }
    let bench = Bench::start(&server, &cases.each_ref().map(|(host, ..)| *host));
    for (host, _, addresses) in cases {
        bench.wait_for(host, addresses);
    }
}

#[test]
fn a_server_that_dislikes_edns_is_asked_without_from_then_on() {
    let server = DnsServer::start();
    let answer = || Box::new(Say::Addresses(vec!["192.0.2.1".parse().unwrap()], 0));
    server.say("old.example", Say::Edns(Box::new(Say::Nothing), answer()));
    let bench = Bench::start(&server, &["old.example"]);
    bench.wait_for("old.example", &["192.0.2.1"]);
    let (before, begun) = (bench.count(DnsResult::Success), Instant::now());
    wait_until("ten more answers", || bench.count(DnsResult::Success) > before + 10);
    assert!(begun.elapsed() < Duration::from_secs(5), "each waits for the form that fails");
}

#[test]
fn the_next_server_is_asked_when_one_fails() {
    for fails in [Say::Code(ResponseCode::ServFail), Say::Code(ResponseCode::Refused)] {
        let (broken, sound) = (DnsServer::start(), DnsServer::start());
        broken.say("db.example", fails);
        sound.say_addresses("db.example", &["192.0.2.1"]);
        let bench = Bench::start(&broken, &["db.example"]);
        write_config(&bench.directory, &[broken.address, sound.address]);
        bench.reload();
        bench.wait_for("db.example", &["192.0.2.1"]);
    }
}

#[test]
fn names_whose_one_family_nobody_answers_do_not_wait_for_each_other() {
    let server = DnsServer::start();
    let hosts: Vec<String> = (0..100).map(|n| format!("h{n}.example")).collect();
    for host in &hosts {
        let answer = Say::Addresses(vec!["192.0.2.1".parse().unwrap()], 3600);
        server.say(host, Say::NothingAbout(RecordType::AAAA, Box::new(answer)));
    }
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let bench = Bench::start(&server, &hosts);
    let begun = Instant::now();
    bench.await_first_answers();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for host in hosts {
        assert_eq!(bench.endpoints(host), ["192.0.2.1"]);
    }
}

#[test]
fn an_address_vouches_after_the_answer_that_had_it_and_not_for_ever() {
    let server = DnsServer::start();
    server.say_addresses("db.example", &["192.0.2.1"]);
    let bench = Bench::start(&server, &["db.example"]);
    let found_by = |address: &str| {
        let snapshot = bench.registry.current();
        let found = snapshot.lookup(SocketAddr::new(address.parse().unwrap(), 5432));
        matches!(found, crate::registry::Verdict::Service(..))
    };
    let text = fs::read_to_string(bench.directory.path().join("egret.yaml")).unwrap();
    let text = text.replace("grace: 10ms", "grace: 2s");
    fs::write(bench.directory.path().join("egret.yaml"), text).unwrap();
    bench.reload();
    bench.wait_for("db.example", &["192.0.2.1"]);
    bench.wait_for_more(DnsResult::Success);
    server.say_addresses("db.example", &["192.0.2.2"]);
    bench.wait_for("db.example", &["192.0.2.2"]);
    assert!(found_by("192.0.2.1") && found_by("192.0.2.2"));
    wait_until("the lease ends", || !found_by("192.0.2.1"));
    assert!(found_by("192.0.2.2"));
    wait_until("it is counted", || bench.counters.dns_addresses.get() == 1);
}

#[test]
fn the_ttl_of_an_alias_counts() {
    let server = DnsServer::start();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    server.say("www.example", Say::Alias("cdn.example", 0));
    server.say("cdn.example", Say::Addresses(vec![address], 3600));
    let bench = Bench::start(&server, &["www.example"]);
    bench.wait_for("www.example", &["192.0.2.1"]);
    bench.wait_for_more(DnsResult::Success);
}

#[test]
fn a_failing_server_leaves_the_last_good_addresses() {
    let server = DnsServer::start();
    server.say_addresses("db.example", &["192.0.2.1"]);
    let bench = Bench::start(&server, &["db.example"]);
    bench.wait_for("db.example", &["192.0.2.1"]);
    server.say("db.example", Say::Code(ResponseCode::ServFail));
    bench.wait_for_more(DnsResult::Failure);
    server.say("db.example", Say::Code(ResponseCode::Refused));
    bench.wait_for_more(DnsResult::Failure);
    assert_eq!(bench.endpoints("db.example"), ["192.0.2.1"]);
    assert_eq!(bench.generation(), 2);
    let view = serde_json::to_value(bench.names.view()).unwrap();
    assert!(view[0]["error"].is_string(), "{view}");
}

#[test]
fn a_name_that_is_gone_loses_its_addresses_and_gets_them_back() {
    let server = DnsServer::start();
    server.say_addresses("db.example", &["192.0.2.1"]);
    let bench = Bench::start(&server, &["db.example"]);
    bench.wait_for("db.example", &["192.0.2.1"]);
    server.say("db.example", Say::Code(ResponseCode::NXDomain));
    bench.wait_for("db.example", &[]);
    assert!(bench.count(DnsResult::Empty) > 1, "the first NXDOMAIN was believed");
    server.say_addresses("db.example", &["192.0.2.1"]);
    bench.wait_for("db.example", &["192.0.2.1"]);
    // The name exists, but it has no address.
    server.say_addresses("db.example", &[]);
    bench.wait_for("db.example", &[]);
}

#[test]
fn a_name_with_ipv6_addresses_alone_is_resolved() {
    let server = DnsServer::start();
    server.say_addresses("six.example", &["2001:db8::1", "2001:db8::2"]);
    let bench = Bench::start(&server, &["six.example"]);
    bench.wait_for("six.example", &["2001:db8::1", "2001:db8::2"]);
    assert!(server.asked("six.example", RecordType::A) > 0);
}

#[test]
fn a_reload_keeps_the_answers_of_names_that_stay() {
    let server = DnsServer::start();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    server.say("stays.example", Say::Addresses(vec![address], 3600));
    server.say_addresses("comes.example", &["192.0.2.2"]);
    let bench = Bench::start(&server, &["stays.example"]);
    bench.await_first_answers();
    write_registry(&bench.directory, &["stays.example", "comes.example"]);
    let Outcome::Success { generation } = bench.reload() else { panic!("refused") };
    assert_eq!(bench.endpoints("stays.example"), ["192.0.2.1"], "in the reloaded generation");
    bench.wait_for("comes.example", &["192.0.2.2"]);
    assert!(bench.generation() > generation);
    assert_eq!(bench.counters.reloads(ReloadResult::Success).get(), 1);
    assert_eq!(server.asked("stays.example", RecordType::A), 1);
}

#[test]
fn a_name_that_was_removed_is_not_asked_for_and_comes_back_with_new_addresses() {
    let server = DnsServer::start();
    for host in ["goes.example", "stays.example"] {
        server.say_addresses(host, &["192.0.2.1"]);
    }
    let bench = Bench::start(&server, &["goes.example", "stays.example"]);
    bench.await_first_answers();
    write_registry(&bench.directory, &["stays.example"]);
    bench.reload();
    wait_until("one name is left", || bench.counters.dns_names.get() == 1);
    // What was under way may still arrive.
    bench.wait_for_more(DnsResult::Success);
    let asked = server.asked("goes.example", RecordType::A);
    bench.wait_for_more(DnsResult::Success);
    assert_eq!(server.asked("goes.example", RecordType::A), asked);

    server.say("goes.example", Say::Code(ResponseCode::ServFail));
    write_registry(&bench.directory, &["goes.example", "stays.example"]);
    bench.reload();
    bench.wait_for_more(DnsResult::Failure);
    assert!(bench.endpoints("goes.example").is_empty(), "an old answer came back");
    server.say_addresses("goes.example", &["192.0.2.9"]);
    bench.wait_for("goes.example", &["192.0.2.9"]);
}

#[test]
fn other_servers_are_asked_after_a_reload_that_names_them() {
    let (old, new) = (DnsServer::start(), DnsServer::start());
    let addresses = |text: &str| Say::Addresses(vec![text.parse().unwrap()], 3600);
    old.say("db.example", addresses("192.0.2.1"));
    new.say("db.example", addresses("192.0.2.2"));
    let bench = Bench::start(&old, &["db.example"]);
    bench.wait_for("db.example", &["192.0.2.1"]);
    write_config(&bench.directory, &[new.address]);
    bench.reload();
    bench.wait_for("db.example", &["192.0.2.2"]);
    assert_eq!(old.asked("db.example", RecordType::A), 1);
}

#[test]
fn a_server_that_never_answers_holds_up_neither_other_names_nor_reloads_nor_the_end() {
    let server = DnsServer::start();
    server.say("silent.example", Say::Nothing);
    server.say_addresses("db.example", &["192.0.2.1"]);
    let bench = Bench::start(&server, &["silent.example", "db.example"]);
    bench.wait_for("db.example", &["192.0.2.1"]);
    wait_until("it was asked", || server.asked("silent.example", RecordType::A) > 0);
    assert!(bench.first_answers.try_recv().is_err(), "not every name has an answer");
    let begun = Instant::now();
    write_registry(&bench.directory, &["silent.example", "db.example", "more.example"]);
    assert_eq!(bench.reload(), Outcome::Success { generation: 3 });
    drop(bench);
    assert!(begun.elapsed() < question::SERVER_MAX, "waited for an answer");
}

#[test]
fn many_changes_make_few_generations() {
    let server = DnsServer::start();
    let hosts: Vec<String> = (0..200).map(|n| format!("h{n}.example")).collect();
    for host in &hosts {
        server.say(host, Say::Addresses(vec!["192.0.2.1".parse().unwrap()], 3600));
    }
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let bench = Bench::start(&server, &hosts);
    bench.await_first_answers();
    assert!(bench.count(DnsResult::Success) >= 200);
    for host in hosts {
        assert_eq!(bench.endpoints(host), ["192.0.2.1"]);
    }
    // Alone each would have made one; there are two a second at most.
    assert!(bench.generation() < 20, "{}", bench.generation());
}

#[test]
fn a_claimed_name_is_resolved_when_it_is_needed_and_when_its_ttl_has_run_out() {
    let server = DnsServer::start();
    let address = |text: &str, ttl| Say::Addresses(vec![text.parse().unwrap()], ttl);
    server.say("held.wild.example", address("192.0.2.1", 3600));
    server.say("brief.wild.example", address("192.0.2.2", 0));
    let bench = Bench::start(&server, &[]);
    bench.await_first_answers();
    for round in 0..3 {
        bench.claim("held.wild.example", round);
        assert_eq!(bench.told(), (round, "held.wild.example".into(), vec!["192.0.2.1".into()]));
    }
    for family in [RecordType::A, RecordType::AAAA] {
        assert_eq!(server.asked("held.wild.example", family), 1);
    }
    bench.claim("brief.wild.example", 7);
    assert_eq!(bench.told().2, ["192.0.2.2"]);
    server.say("brief.wild.example", address("192.0.2.3", 0));
    wait_until("it is asked for again", || {
        bench.claim("brief.wild.example", 8);
        bench.told().2 == ["192.0.2.3"]
    });
    // Nothing is asked for that no connection needs, and no generation is made.
    let asked = server.asked("brief.wild.example", RecordType::A);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.asked("brief.wild.example", RecordType::A), asked);
    assert_eq!(bench.generation(), 1);
    let view = serde_json::to_value(bench.names.view()).unwrap();
    assert_eq!(view[1]["name"], "held.wild.example");
    assert_eq!((&view[1]["claimed"], &view[1]["vouching"]), (&true.into(), &0.into()));
    wait_until("they are counted", || bench.counters.dns_claimed_names.get() == 2);
}

#[test]
fn a_claimed_name_with_a_silent_family_does_not_wait_for_it() {
    let server = DnsServer::start();
    let both = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
    let answer = || Box::new(Say::Addresses(both.clone(), 3600));
    server.say("a.wild.example", Say::NothingAbout(RecordType::AAAA, answer()));
    server.say("b.wild.example", Say::NothingAbout(RecordType::A, answer()));
    server.say("c.wild.example", *answer());
    server.say("none.wild.example", Say::Code(ResponseCode::NXDomain));
    let bench = Bench::start(&server, &[]);
    let begun = Instant::now();
    for (name, addresses) in [
        ("a.wild.example", &["192.0.2.1"][..]),
        ("b.wild.example", &["2001:db8::1"]),
        ("c.wild.example", &["192.0.2.1", "2001:db8::1"]),
        ("none.wild.example", &[]),
    ] {
        bench.claim(name, 1);
        assert_eq!(bench.told().2, addresses, "{name}");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn other_servers_are_asked_for_claimed_names_after_a_reload_that_names_them() {
    let (silent, new) = (DnsServer::start(), DnsServer::start());
    silent.say("a.wild.example", Say::Nothing);
    new.say_addresses("a.wild.example", &["192.0.2.1"]);
    let bench = Bench::start(&silent, &[]);
    bench.claim("a.wild.example", 1);
    wait_until("it was asked for", || silent.asked("a.wild.example", RecordType::A) > 0);
    write_config(&bench.directory, &[new.address]);
    bench.reload();
    assert_eq!(bench.told(), (1, "a.wild.example".into(), vec!["192.0.2.1".into()]));
}
