//! The schedule, and what each reply changes, over times that the tests make up.

use std::net::IpAddr;

use super::Family::{V4, V6};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(600);

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn found(addresses: &[&str], ttl_s: u32) -> Reply {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Reply::Addresses(addresses, SECOND * ttl_s)
}

fn absent() -> Reply {
    Reply::Absent("none")
}

fn failed() -> Reply {
    Reply::Failed("SERVFAIL".into())
}

/// A book with one name, and a clock.
struct Bench {
    book: Book,
    name: Name,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let (mut book, now) = (Book::new(Timing::default()), Instant::now());
        let name = name("a.example");
        book.set_grace(GRACE);
        book.want(&BTreeSet::from([name.clone()]), now);
        Self { book, name, now }
    }

    /// Goes to the time at which the question is due, and settles it. Returns the result, whether
    /// the addresses have changed, and the seconds until the next question.
    fn settle(&mut self, family: Family, reply: Reply) -> (DnsResult, bool, u64) {
        self.now = self.now.max(self.book.next_due(family).unwrap());
        assert_eq!(self.book.take_due(family, self.now), Some(self.name.clone()));
        assert_eq!(self.book.next_due(family), None, "asked for twice at a time");
        let settled = self.book.settle(&self.name, family, reply, self.now).unwrap();
        let wait = self.book.next_due(family).unwrap() - self.now;
        (settled.result, settled.is_changed, wait.as_secs())
    }

    /// Where connections go.
    fn current(&self) -> Vec<String> {
        texts(self.book.answers().current(self.name.as_str()))
    }

    /// What vouches for the name, after `time` more.
    fn recent_in(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.book.expire(self.now);
        texts(self.book.answers().recent(self.name.as_str()))
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(IpAddr::to_string).collect()
}

#[test]
fn the_ttl_of_each_family_holds_within_its_bounds() {
    for (ttl, wait) in [(300, 300), (0, 1), (1, 1), (9000, 3600)] {
        for (family, address) in [(V4, "192.0.2.1"), (V6, "2001:db8::1")] {
            let (result, is_changed, next) = Bench::new().settle(family, found(&[address], ttl));
            assert_eq!((result, is_changed, next), (DnsResult::Success, true, wait));
        }
    }
}

#[test]
fn answers_are_compared_as_sets() {
    let mut bench = Bench::new();
    let mut is_changed = |list: &[&str]| bench.settle(V4, found(list, 60)).1;
    assert!(is_changed(&["192.0.2.2", "192.0.2.1"]));
    assert!(!is_changed(&["192.0.2.1", "192.0.2.2", "192.0.2.1"]));
    assert!(is_changed(&["192.0.2.1"]));
    assert_eq!(bench.current(), ["192.0.2.1"]);
}

#[test]
fn an_address_vouches_for_its_name_for_its_ttl_and_at_least_for_the_grace() {
    for (ttl_s, holds) in [(1, GRACE), (900, SECOND * 900), (200_000, LEASE_MAX)] {
        let mut bench = Bench::new();
        bench.settle(V4, found(&["192.0.2.1"], ttl_s));
        bench.now += SECOND * 100;
        bench.book.ask_all(bench.now);
        bench.settle(V4, found(&["192.0.2.2"], ttl_s));
        assert_eq!(bench.current(), ["192.0.2.2"]);
        let left = holds - SECOND * 101;
        assert_eq!(bench.recent_in(left), ["192.0.2.1", "192.0.2.2"], "TTL {ttl_s} s");
        // The current one stays, for want of a newer one.
        assert_eq!(bench.recent_in(SECOND * 3), ["192.0.2.2"], "TTL {ttl_s} s");
        assert_eq!(bench.recent_in(LEASE_MAX * 3), ["192.0.2.2"]);
    }
}

#[test]
fn a_lease_is_renewed_and_a_shorter_ttl_takes_nothing_back() {
    let mut bench = Bench::new();
    bench.settle(V4, found(&["192.0.2.1"], 3000));
    bench.book.ask_all(bench.now);
    bench.settle(V4, found(&["192.0.2.1"], 1));
    bench.settle(V4, found(&["192.0.2.2"], 1));
    assert_eq!(bench.recent_in(SECOND * 2990), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(bench.recent_in(SECOND * 20), ["192.0.2.2"]);
    // Told again, it begins anew.
    bench.settle(V4, found(&["192.0.2.1"], 1));
    bench.settle(V4, found(&["192.0.2.2"], 1));
    assert_eq!(bench.recent_in(GRACE - SECOND * 5), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(bench.recent_in(SECOND * 5), ["192.0.2.2"]);
}

/// As S3 does: of 4 000 addresses each answer has eight others, with a TTL of 5 s.
#[test]
fn what_rotates_through_thousands_vouches_for_its_name_within_each_lease() {
    let address = |n: u32| IpAddr::V4((0x0a00_0000 + n % 4_000).into());
    let mut bench = Bench::new();
    let begin = bench.now;
    // What each workload was told at the same time, and may use until then.
    let mut told: Vec<(IpAddr, Instant)> = Vec::new();
    let mut n = 0_u32;
    while bench.now - begin < Duration::from_secs(3600) {
        let eight: Vec<IpAddr> = (0..8).map(|step| address(n * 7_919 + step * 501)).collect();
        bench.settle(V4, Reply::Addresses(eight.clone(), SECOND * 5));
        bench.book.expire(bench.now);
        told.retain(|(_, until)| *until > bench.now);
        told.extend(eight.into_iter().map(|ip| (ip, bench.now + GRACE)));
        let answers = bench.book.answers();
        let recent: BTreeSet<IpAddr> =
            answers.recent(bench.name.as_str()).iter().copied().collect();
        let blocked = told.iter().filter(|(ip, _)| !recent.contains(ip)).count();
        assert_eq!(blocked, 0, "after {:?}", bench.now - begin);
        assert!(recent.len() <= 8 * 121, "{} are kept", recent.len());
        n += 1;
    }
    assert!(n >= 720, "{n} answers");
    assert_eq!(bench.book.evicted(), 0);
}

#[test]
fn failures_keep_the_last_good_for_ever_and_are_retried_ever_later() {
    let mut bench = Bench::new();
    bench.settle(V4, found(&["192.0.2.1"], 60));
    bench.settle(V6, found(&["2001:db8::1"], 60));
    for wait in [5, 10, 20, 40, 60, 60] {
        assert_eq!(bench.settle(V4, failed()), (DnsResult::Failure, false, wait));
        assert_eq!(bench.settle(V6, failed()), (DnsResult::Failure, false, wait));
    }
    for _ in 0..2_000 {
        bench.settle(V4, failed());
    }
    assert_eq!(bench.current(), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(bench.settle(V4, found(&["192.0.2.9"], 60)), (DnsResult::Success, true, 60));
    assert_eq!(bench.current(), ["192.0.2.9", "2001:db8::1"]);
    assert_eq!(bench.settle(V4, failed()).2, 5, "the back-off begins anew");
}

#[test]
fn a_family_that_nobody_answers_holds_up_nothing() {
    for (answered, silent, address) in [(V4, V6, "192.0.2.1"), (V6, V4, "2001:db8::1")] {
        let mut bench = Bench::new();
        assert_eq!(bench.book.take_due(silent, bench.now), Some(bench.name.clone()));
        assert!(!bench.book.is_tried());
        assert_eq!(bench.settle(answered, found(&[address], 60)), (DnsResult::Success, true, 60));
        assert!(bench.book.is_tried(), "the start waits for the silent family");
        assert_eq!(bench.current(), [address]);
        assert_eq!(bench.book.error(&bench.name), None);
    }
}

#[test]
fn a_name_with_addresses_of_one_family_is_as_it_should_be() {
    let mut bench = Bench::new();
    bench.settle(V4, found(&["192.0.2.1"], 60));
    assert_eq!(bench.settle(V6, absent()), (DnsResult::Success, false, 5));
    assert_eq!(bench.book.failing(), 0);
    assert_eq!(bench.settle(V6, found(&["2001:db8::1"], 60)), (DnsResult::Success, true, 60));
    assert_eq!(bench.current(), ["192.0.2.1", "2001:db8::1"]);
}

#[test]
fn an_absence_is_believed_once_it_has_held() {
    let mut bench = Bench::new();
    bench.settle(V4, found(&["192.0.2.1"], 60));
    bench.settle(V4, absent());
    bench.settle(V4, found(&["192.0.2.1"], 60));
    // 0, 5 and 15 s after the first "none".
    for wait in [5, 10, 20] {
        assert_eq!(bench.settle(V4, absent()), (DnsResult::Success, false, wait));
        assert_eq!(bench.current(), ["192.0.2.1"]);
    }
    assert_eq!(bench.settle(V4, absent()), (DnsResult::Empty, true, 40));
    assert!(bench.current().is_empty(), "connections are led there still");
    // What was told lately may be used still.
    assert_eq!(bench.recent_in(Duration::ZERO), ["192.0.2.1"]);
    assert_eq!(bench.settle(V4, found(&["192.0.2.1"], 60)), (DnsResult::Success, true, 60));
    assert_eq!(bench.current(), ["192.0.2.1"]);
}

#[test]
fn an_absence_that_passes_takes_nothing_away() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.settle(V4, found(&["192.0.2.1"], 60));
        bench.settle(V4, absent());
        bench.settle(V4, absent());
        assert_eq!(bench.current(), ["192.0.2.1"]);
    }
}

#[test]
fn ipv4_addresses_in_aaaa_records_are_none() {
    let mut bench = Bench::new();
    let mapped = ["::ffff:127.0.0.1", "::ffff:192.0.2.1"];
    assert_eq!(bench.settle(V6, found(&mapped, 60)), (DnsResult::Empty, false, 5));
    bench.settle(V6, found(&["::ffff:192.0.2.1", "2001:db8::1"], 60));
    // Where an address leads is asked when it is connected to.
    bench.settle(V4, found(&["127.0.0.1"], 60));
    assert_eq!(bench.current(), ["127.0.0.1", "2001:db8::1"]);
}

#[test]
fn names_that_stay_keep_their_addresses_and_their_time() {
    let mut bench = Bench::new();
    bench.settle(V4, found(&["192.0.2.1"], 60));
    let due = bench.book.next_due(V4);
    let (a, b) = (name("a.example"), name("b.example"));
    bench.book.want(&BTreeSet::from([a.clone(), b.clone()]), bench.now);
    assert!(!bench.book.is_tried());
    assert_eq!(bench.book.take_due(V4, bench.now), Some(b.clone()));
    assert_eq!(bench.book.take_due(V4, bench.now), None);
    assert_eq!(bench.book.next_due(V4), due);
    assert_eq!(bench.current(), ["192.0.2.1"]);

    bench.book.want(&BTreeSet::from([a]), bench.now);
    let late = found(&["192.0.2.3"], 60);
    assert_eq!(bench.book.settle(&b, V4, late, bench.now), None, "nobody wants it any more");
    assert_eq!(bench.book.len(), 1);
    assert!(bench.book.is_tried());
    bench.book.want(&BTreeSet::new(), bench.now);
    assert_eq!(bench.book.addresses(), 0, "a name that nobody wants is not vouched for");
}

#[test]
fn a_name_dropped_and_wanted_again_while_asked_for_is_asked_for_once() {
    let mut bench = Bench::new();
    let names = BTreeSet::from([bench.name.clone()]);
    assert!(bench.book.take_due(V4, bench.now).is_some());
    bench.book.want(&BTreeSet::new(), bench.now);
    bench.book.want(&names, bench.now);
    let reply = found(&["192.0.2.1"], 60);
    assert!(bench.book.settle(&bench.name.clone(), V4, reply, bench.now).is_some());
    assert_eq!(bench.book.take_due(V4, bench.now), None);
    assert_eq!(bench.book.next_due(V4), Some(bench.now + SECOND * 60));
}

#[test]
fn the_view_says_what_is_kept_and_why() {
    let mut bench = Bench::new();
    bench.settle(V4, found(&["192.0.2.2"], 60));
    bench.settle(V4, found(&["192.0.2.1"], 60));
    bench.settle(V6, absent());
    bench.settle(V4, failed());
    bench.settle(V6, absent());
    let view = serde_json::to_value(bench.book.view(bench.now + SECOND * 2)).unwrap();
    let expected = serde_json::json!([{
        "name": "a.example",
        "addresses": ["192.0.2.1"],
        "vouching": 2,
        "ttlLeftS": 0,
        "answerAgeS": 62,
        "claimed": false,
        "nextQuestionInS": 3,
        "error": "A: SERVFAIL",
        "errorAgeS": 2,
    }]);
    assert_eq!(view, expected);
}
