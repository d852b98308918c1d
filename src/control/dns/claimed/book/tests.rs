//! Whose turn it is, and what is known of each name, over times that the tests make up.

use super::record::ADDRESSES_MAX;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A book, a clock, and what connections were told.
struct Bench {
    book: ClaimedBook,
    now: Instant,
    connections: u64,
    told: Vec<Answer>,
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn pod(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn found(addresses: &[&str], ttl_s: u32) -> Reply {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Reply::Addresses(addresses, SECOND * ttl_s)
}

fn none() -> Reply {
    Reply::Absent("none")
}

fn failed() -> Reply {
    Reply::Failed("SERVFAIL".into())
}

impl Bench {
    fn new() -> Self {
        let book = ClaimedBook::new(Timing::default());
        Self { book, now: Instant::now() + 3600 * SECOND, connections: 0, told: Vec::new() }
    }

    /// A connection of `source` needs `name`, and waits 5 s; its number.
    fn ask(&mut self, text: &str, source: IpAddr) -> u64 {
        self.connections += 1;
        let question =
            Question { name: name(text), source, worker: 0, connection: self.connections };
        let answer = self.book.ask(question, self.now + 5 * SECOND, self.now);
        self.told.extend(answer);
        self.connections
    }

    /// All that may be asked for now.
    fn asked(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some((name, families)) = self.book.next_to_ask(self.now) {
            all.push(match families.as_slice() {
                [Family::V4, Family::V6] => name.to_string(),
                some => format!("{name} {some:?}"),
            });
        }
        all
    }

    fn reply(&mut self, text: &str, family: Family, reply: Reply) -> DnsResult {
        let (result, answers) = self.book.settle(&name(text), family, reply, self.now);
        self.told.extend(answers);
        result
    }

    /// Both families.
    fn replies(&mut self, text: &str, v4: Reply, v6: Reply) {
        self.reply(text, Family::V4, v4);
        self.reply(text, Family::V6, v6);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.book.next_time().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            let answers = self.book.on_time(self.now);
            self.told.extend(answers);
        }
        self.now = end;
    }

    /// What connections were told since the last time: the number and the addresses.
    fn told(&mut self) -> Vec<(u64, String)> {
        let text = |found: &Found| match found {
            Found::Addresses(list) => {
                list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        };
        self.told.drain(..).map(|answer| (answer.connection, text(&answer.found))).collect()
    }

    /// A new connection is told this at once.
    fn is_told(&mut self, text: &str, expected: &str) {
        let connection = self.ask(text, pod(1));
        assert_eq!(self.told(), [(connection, expected.to_owned())], "{text}");
    }

    /// A new connection has to wait, and these questions are asked for it.
    fn waits(&mut self, text: &str, questions: &[&str]) -> u64 {
        let connection = self.ask(text, pod(1));
        assert_eq!(self.told(), []);
        assert_eq!(self.asked(), questions);
        connection
    }
}

#[test]
fn a_name_is_asked_for_once_for_all_that_wait_and_again_when_its_ttl_is_over() {
    let mut bench = Bench::new();
    let first = bench.waits("a.example", &["a.example"]);
    let second = bench.waits("a.example", &[]);
    bench.reply("a.example", Family::V4, found(&["192.0.2.1", "192.0.2.2"], 30));
    assert_eq!(bench.told(), [], "the other family may come");
    bench.reply("a.example", Family::V6, found(&["2001:db8::1"], 60));
    let addresses = "192.0.2.1 192.0.2.2 2001:db8::1".to_owned();
    assert_eq!(bench.told(), [(first, addresses.clone()), (second, addresses.clone())]);
    bench.pass(29 * SECOND);
    bench.is_told("a.example", &addresses);
    assert_eq!(bench.asked(), [""; 0]);
    // One family holds: nobody waits for the other one, which is asked for.
    bench.pass(2 * SECOND);
    bench.is_told("a.example", &addresses);
    assert_eq!(bench.asked(), ["a.example [V4]"]);
    bench.reply("a.example", Family::V4, found(&["192.0.2.9"], 30));
    bench.is_told("a.example", "192.0.2.9 2001:db8::1");
    bench.pass(61 * SECOND);
    bench.waits("a.example", &["a.example"]);
}

#[test]
fn the_first_addresses_wait_50_ms_for_those_of_the_other_family() {
    for (family, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let address = if family == Family::V4 { "192.0.2.1" } else { "2001:db8::1" };
        let mut bench = Bench::new();
        let first = bench.waits("a.example", &["a.example"]);
        bench.reply("a.example", family, found(&[address], 300));
        bench.pass(49 * MILLISECOND);
        let second = bench.waits("a.example", &[]);
        bench.pass(MILLISECOND);
        assert_eq!(bench.told(), [(first, address.into()), (second, address.into())]);
        // From then on nobody waits for it.
        bench.is_told("a.example", address);
        bench.pass(10 * SECOND);
        bench.reply("a.example", other, failed());
        assert_eq!(bench.told(), []);
        bench.is_told("a.example", address);
        assert_eq!(bench.asked(), [""; 0], "what fails is not asked for at once");
        bench.pass(5 * SECOND);
        bench.is_told("a.example", address);
        assert_eq!(bench.asked(), [format!("a.example [{other:?}]")]);
    }
}

#[test]
fn a_name_without_addresses_is_not_asked_for_with_every_connection() {
    for (v4, v6) in [(none(), none()), (failed(), failed()), (none(), failed())] {
        let mut bench = Bench::new();
        let first = bench.waits("a.example", &["a.example"]);
        bench.replies("a.example", v4.clone(), v6.clone());
        assert_eq!(bench.told(), [(first, "Nothing".into())]);
        bench.pass(4 * SECOND);
        bench.is_told("a.example", "Nothing");
        bench.pass(SECOND);
        let second = bench.waits("a.example", &["a.example"]);
        bench.replies("a.example", found(&["192.0.2.1"], 0), none());
        assert_eq!(bench.told(), [(second, "192.0.2.1".into())], "it is back");
        // TTL 0 counts as 1 s.
        bench.is_told("a.example", "192.0.2.1");
        bench.pass(SECOND);
        bench.waits("a.example", &["a.example [V4]"]);
    }
}

#[test]
fn a_failing_server_leaves_the_last_addresses_and_an_absence_is_believed_after_30_s() {
    let mut bench = Bench::new();
    bench.waits("a.example", &["a.example"]);
    bench.replies("a.example", found(&["192.0.2.1"], 1), none());
    bench.told();
    for reply in [failed(), none()] {
        bench.pass(61 * SECOND);
        let connection = bench.waits("a.example", &["a.example"]);
        bench.replies("a.example", reply, none());
        assert_eq!(bench.told(), [(connection, "192.0.2.1".into())]);
    }
    bench.pass(61 * SECOND);
    let connection = bench.waits("a.example", &["a.example"]);
    bench.replies("a.example", none(), none());
    assert_eq!(bench.told(), [(connection, "Nothing".into())]);
}

#[test]
fn a_source_that_has_its_share_of_questions_leaves_turns_to_others() {
    let mut bench = Bench::new();
    for n in 0..500 {
        bench.ask(&format!("n{n}.evil.example"), pod(1));
    }
    let first = bench.asked();
    assert_eq!(first.len(), ASKED_PER_SOURCE_MAX);
    let victim = bench.ask("api.example", pod(2));
    assert_eq!(bench.asked(), ["api.example"]);
    bench.replies("api.example", found(&["192.0.2.1"], 30), none());
    assert_eq!(bench.told(), [(victim, "192.0.2.1".into())]);
    // One of its own that is settled makes room for the next one.
    bench.replies(&first[0].clone(), failed(), failed());
    assert_eq!(bench.asked(), ["n16.evil.example"]);
    // Whoever wants a name that waits in another's queue need not wait there.
    let victim = bench.ask("n400.evil.example", pod(2));
    assert_eq!(bench.asked(), ["n400.evil.example"]);
    bench.told();
    bench.replies("n400.evil.example", found(&["192.0.2.2"], 30), none());
    assert_eq!(bench.told(), [(401, "192.0.2.2".into()), (victim, "192.0.2.2".into())]);
}

#[test]
fn sources_whose_names_nobody_answers_hold_up_no_other_one() {
    let mut bench = Bench::new();
    for n in 0..40 {
        for source in 1..=4 {
            bench.ask(&format!("n{n}.p{source}.example"), pod(source));
        }
    }
    assert_eq!(bench.asked().len(), ASKED_MAX);
    let victim = bench.ask("api.example", pod(5));
    bench.ask("more.example", pod(5));
    assert_eq!(bench.asked(), ["api.example"], "one of each that has none");
    bench.replies("api.example", found(&["192.0.2.1"], 30), none());
    assert_eq!(bench.told(), [(victim, "192.0.2.1".into())]);
    assert_eq!(bench.asked(), ["more.example"]);
    // There is an end to it.
    for n in 6..=250 {
        bench.ask(&format!("p{n}.example"), pod(n));
    }
    assert_eq!(bench.asked().len(), ASKED_BESIDE_MAX - 1);
    // The others have kept their turns.
    bench.replies("more.example", failed(), failed());
    assert_eq!(bench.asked().len(), 1);
}

#[test]
fn sources_take_turns() {
    let mut bench = Bench::new();
    for n in 1..=20 {
        for name in 0..10 {
            bench.ask(&format!("n{name}.p{n}.example"), pod(n));
        }
    }
    let asked = bench.asked();
    assert_eq!(asked.len(), ASKED_MAX);
    for n in 1..=20 {
        let own = asked.iter().filter(|name| name.contains(&format!(".p{n}."))).count();
        assert!((3..=4).contains(&own), "source {n}: {own}");
    }
}

#[test]
fn for_whom_it_is_too_late_nothing_is_asked() {
    let mut bench = Bench::new();
    for n in 0..40 {
        bench.ask(&format!("n{n}.example"), pod(1));
    }
    assert_eq!(bench.asked().len(), 16);
    bench.pass(6 * SECOND);
    let alive = bench.ask("n39.example", pod(1));
    bench.replies("n0.example", found(&["192.0.2.1"], 30), none());
    assert_eq!(bench.told(), [], "its connection has gone");
    assert_eq!(bench.asked(), ["n39.example"]);
    bench.replies("n39.example", found(&["192.0.2.1"], 30), none());
    assert_eq!(bench.told(), [(alive, "192.0.2.1".into())]);
}

#[test]
fn names_are_bounded_for_each_source_and_in_all() {
    let mut bench = Bench::new();
    let resolve = |bench: &mut Bench, text: &str, source| {
        bench.ask(text, source);
        bench.asked();
        bench.replies(text, found(&["192.0.2.1"], 3600), none());
        bench.pass(2 * MILLISECOND);
    };
    resolve(&mut bench, "api.example", pod(2));
    for n in 0..2 * NAMES_PER_SOURCE_MAX {
        resolve(&mut bench, &format!("n{n}.evil.example"), pod(1));
    }
    assert_eq!(bench.book.len(), NAMES_PER_SOURCE_MAX + 1);
    bench.told();
    bench.is_told("api.example", "192.0.2.1");
    bench.is_told("n1500.evil.example", "192.0.2.1");
    bench.waits("n900.evil.example", &["n900.evil.example"]);
    // With many sources the greediest one gives.
    for source in 3..=6 {
        for n in 0..NAMES_PER_SOURCE_MAX {
            resolve(&mut bench, &format!("n{n}.p{source}.example"), pod(source));
        }
    }
    assert_eq!(bench.book.len(), NAMES_MAX);
    bench.told();
    bench.is_told("api.example", "192.0.2.1");
}

#[test]
fn a_source_that_fills_its_queue_is_told_so_and_is_served_again_later() {
    let mut bench = Bench::new();
    for n in 0..NAMES_PER_SOURCE_MAX {
        bench.ask(&format!("n{n}.evil.example"), pod(1));
    }
    assert_eq!(bench.told(), []);
    bench.is_told("more.evil.example", "NoRoom");
    assert_eq!(bench.book.len(), NAMES_PER_SOURCE_MAX);
    // Of a name that it waits for already it may have so many connections.
    for _ in 0..WAITING_PER_SOURCE_MAX - NAMES_PER_SOURCE_MAX {
        bench.ask("n7.evil.example", pod(1));
    }
    assert_eq!(bench.told(), []);
    bench.is_told("n7.evil.example", "NoRoom");
    for asked in bench.asked() {
        bench.replies(&asked, failed(), failed());
    }
    bench.told();
    // Nobody waits for the others any more.
    bench.pass(6 * SECOND);
    assert_eq!(bench.asked(), [""; 0]);
    bench.pass(UNUSED_MAX + EXPIRY_PERIOD);
    assert_eq!(bench.book.len(), 0);
    bench.waits("more.evil.example", &["more.evil.example"]);
}

#[test]
fn a_name_that_nobody_needs_is_forgotten() {
    let mut bench = Bench::new();
    for text in ["a.example", "b.example"] {
        bench.waits(text, &[text]);
        bench.replies(text, found(&["192.0.2.1"], 3600), found(&["2001:db8::1"], 3600));
        bench.told();
    }
    for _ in 0..10 {
        bench.pass(60 * SECOND);
        bench.is_told("a.example", "192.0.2.1 2001:db8::1");
    }
    assert_eq!(bench.book.len(), 1);
    bench.pass(320 * SECOND);
    assert_eq!(bench.book.len(), 0);
    assert_eq!(bench.book.next_time(), None);
    assert!(bench.book.sources.is_empty());
}

#[test]
fn a_new_server_is_asked_what_the_old_one_has_not_answered() {
    let mut bench = Bench::new();
    bench.waits("held.example", &["held.example"]);
    bench.replies("held.example", found(&["192.0.2.1"], 3600), none());
    bench.told();
    let waiting = bench.waits("a.example", &["a.example"]);
    bench.book.ask_all(bench.now);
    assert_eq!(bench.asked(), ["a.example"]);
    bench.replies("a.example", found(&["192.0.2.2"], 30), none());
    assert_eq!(bench.told(), [(waiting, "192.0.2.2".into())]);
    bench.is_told("held.example", "192.0.2.1");
    assert_eq!(bench.asked(), ["held.example"], "the new server may know better");
}

#[test]
fn a_new_server_is_asked_by_a_source_whose_queue_is_full() {
    let mut bench = Bench::new();
    for n in 0..NAMES_PER_SOURCE_MAX {
        bench.ask(&format!("n{n}.evil.example"), pod(1));
    }
    assert_eq!(bench.asked().len(), ASKED_PER_SOURCE_MAX);
    for n in 0..ASKED_PER_SOURCE_MAX {
        bench.ask(&format!("n{n}.shop.example"), pod(2));
        bench.ask(&format!("n{n}.shop.example"), pod(1));
    }
    assert_eq!(bench.asked().len(), ASKED_PER_SOURCE_MAX);
    bench.is_told("more.evil.example", "NoRoom");
    bench.book.ask_all(bench.now);
    let asked = bench.asked();
    let of = |domain: &str| asked.iter().filter(|name| name.ends_with(domain)).count();
    assert_eq!((of(".evil.example"), of(".shop.example")), (16, 16));
}

#[test]
fn a_source_that_only_waited_for_the_names_of_others_is_forgotten() {
    let mut bench = Bench::new();
    bench.ask("a.example", pod(1));
    assert_eq!(bench.asked(), ["a.example"]);
    bench.ask("a.example", pod(2));
    bench.book.ask_all(bench.now);
    bench.pass(6 * SECOND);
    assert_eq!(bench.asked(), [""; 0], "it is too late for both");
    bench.pass(UNUSED_MAX + EXPIRY_PERIOD);
    assert!(bench.book.sources.is_empty());
}

#[test]
fn answers_are_cut_to_a_size() {
    let mut bench = Bench::new();
    bench.waits("a.example", &["a.example"]);
    let many = (0..1000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
    bench.replies("a.example", Reply::Addresses(many, SECOND), none());
    assert_eq!(bench.told()[0].1.split(' ').count(), ADDRESSES_MAX);
}
