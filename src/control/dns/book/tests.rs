//! The schedule, and what each reply changes, over times that the tests make up.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

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
        let (mut book, now) =
            (Book::new(Timing::default(), LoopbackAnswers::Refused), Instant::now());
        let name = name("a.example");
        book.want(&BTreeSet::from([name.clone()]), now);
        Self { book, name, now }
    }

    /// Goes to the time at which the name is due, and settles it. Returns the result, whether the
    /// addresses have changed, and the seconds until the next question.
    fn settle(&mut self, v4: Reply, v6: Reply) -> (DnsResult, bool, u64) {
        self.now = self.now.max(self.book.next_due().unwrap());
        assert_eq!(self.book.take_due(self.now), Some(self.name.clone()));
        assert_eq!(self.book.next_due(), None, "asked for twice at a time");
        let settled = self.book.settle(&self.name, Replies { v4, v6 }, self.now).unwrap();
        let wait = self.book.next_due().unwrap() - self.now;
        (settled.result, settled.is_changed, wait.as_secs())
    }

    fn addresses(&self) -> Vec<String> {
        let answers = self.book.answers();
        let addresses = answers.get(self.name.as_str());
        addresses.map_or_else(Vec::new, |list| list.iter().map(IpAddr::to_string).collect())
    }
}

#[test]
fn the_shorter_ttl_of_both_families_holds_within_its_bounds() {
    let mut bench = Bench::new();
    for (v4, v6, wait) in [(300, 20, 20), (20, 300, 20), (0, 300, 1), (1, 1, 1), (9000, 9000, 3600)]
    {
        let (result, _, next) =
            bench.settle(found(&["192.0.2.1"], v4), found(&["2001:db8::1"], v6));
        assert_eq!((result, next), (DnsResult::Success, wait));
    }
    assert_eq!(bench.settle(found(&["192.0.2.1"], 60), absent()).2, 60);
}

#[test]
fn answers_are_compared_as_sets() {
    let mut bench = Bench::new();
    let mut is_changed = |list: &[&str]| bench.settle(found(list, 60), absent()).1;
    assert!(is_changed(&["192.0.2.2", "192.0.2.1"]));
    assert!(!is_changed(&["192.0.2.1", "192.0.2.2", "192.0.2.1"]));
    assert!(is_changed(&["192.0.2.1"]));
    assert_eq!(bench.addresses(), ["192.0.2.1"]);
}

#[test]
fn failures_keep_the_last_good_for_ever_and_are_retried_ever_later() {
    let mut bench = Bench::new();
    bench.settle(found(&["192.0.2.1"], 60), found(&["2001:db8::1"], 60));
    for wait in [5, 10, 20, 40, 60, 60] {
        assert_eq!(bench.settle(failed(), failed()), (DnsResult::Failure, false, wait));
    }
    for _ in 0..2_000 {
        bench.settle(failed(), absent());
    }
    assert_eq!(bench.addresses(), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(bench.settle(found(&["192.0.2.9"], 60), absent()), (DnsResult::Success, true, 60));
    assert_eq!(bench.addresses(), ["192.0.2.9"]);
    assert_eq!(bench.settle(failed(), failed()).2, 5, "the back-off begins anew");
}

#[test]
fn one_familys_failure_does_not_hold_up_the_other() {
    let mut bench = Bench::new();
    bench.settle(found(&["192.0.2.1"], 60), found(&["2001:db8::1"], 60));
    let settled = bench.settle(found(&["192.0.2.2"], 60), failed());
    assert_eq!(settled, (DnsResult::Success, true, 5));
    assert_eq!(bench.addresses(), ["192.0.2.2", "2001:db8::1"]);
    bench.settle(found(&["192.0.2.2"], 60), absent());
    assert_eq!(bench.addresses(), ["192.0.2.2"]);
}

#[test]
fn an_absence_is_believed_once_it_has_held() {
    let mut bench = Bench::new();
    bench.settle(found(&["192.0.2.1"], 60), absent());
    // 0, 5 and 15 s after the first "none".
    for wait in [5, 10, 20] {
        assert_eq!(bench.settle(absent(), absent()), (DnsResult::Empty, false, wait));
    }
    assert_eq!(bench.settle(absent(), absent()), (DnsResult::Empty, true, 40));
    assert!(bench.addresses().is_empty());
    assert_eq!(bench.settle(found(&["192.0.2.1"], 60), absent()), (DnsResult::Success, true, 60));
}

#[test]
fn an_absence_that_passes_takes_nothing_away() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.settle(found(&["192.0.2.1"], 60), absent());
        bench.settle(absent(), absent());
        bench.settle(absent(), absent());
        assert_eq!(bench.addresses(), ["192.0.2.1"]);
    }
}

#[test]
fn addresses_that_only_this_node_may_go_to_are_none() {
    let mut bench = Bench::new();
    let v4 = ["0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"];
    let v6 = ["::", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"];
    let settled = bench.settle(found(&v4, 60), found(&v6, 60));
    assert_eq!(settled, (DnsResult::Empty, false, 5));
    bench.settle(found(&["127.0.0.1", "192.0.2.1"], 60), found(&["::ffff:192.0.2.1"], 60));
    assert_eq!(bench.addresses(), ["192.0.2.1"]);

    bench.book.loopback = LoopbackAnswers::Accepted;
    bench.settle(found(&v4, 60), found(&v6, 60));
    assert_eq!(bench.addresses(), ["127.0.0.1", "::1"]);
}

#[test]
fn more_addresses_than_the_limit_are_cut_to_the_same_ones_each_time() {
    let mut bench = Bench::new();
    let mut all: Vec<IpAddr> =
        (0..2_000_u32).map(|n| IpAddr::V4((0x0a00_0000 + n).into())).collect();
    bench.settle(Reply::Addresses(all.clone(), SECOND), absent());
    assert_eq!(bench.addresses().len(), ADDRESSES_MAX);
    all.reverse();
    assert!(!bench.settle(Reply::Addresses(all, SECOND), absent()).1);
}

#[test]
fn names_that_stay_keep_their_addresses_and_their_time() {
    let mut bench = Bench::new();
    bench.settle(found(&["192.0.2.1"], 60), absent());
    let due = bench.book.next_due();
    let (a, b) = (name("a.example"), name("b.example"));
    bench.book.want(&BTreeSet::from([a.clone(), b.clone()]), bench.now);
    assert!(!bench.book.is_tried());
    assert_eq!(bench.book.take_due(bench.now), Some(b.clone()));
    assert_eq!(bench.book.take_due(bench.now), None);
    assert_eq!(bench.book.next_due(), due);
    assert_eq!(bench.addresses(), ["192.0.2.1"]);

    bench.book.want(&BTreeSet::from([a]), bench.now);
    let late = Replies { v4: found(&["192.0.2.3"], 60), v6: absent() };
    assert_eq!(bench.book.settle(&b, late, bench.now), None, "nobody wants it any more");
    assert_eq!(bench.book.len(), 1);
    assert!(bench.book.is_tried());
}

#[test]
fn a_name_dropped_and_wanted_again_while_asked_for_is_asked_for_once() {
    let mut bench = Bench::new();
    let names = BTreeSet::from([bench.name.clone()]);
    assert!(bench.book.take_due(bench.now).is_some());
    bench.book.want(&BTreeSet::new(), bench.now);
    bench.book.want(&names, bench.now);
    let replies = Replies { v4: found(&["192.0.2.1"], 60), v6: absent() };
    assert!(bench.book.settle(&bench.name.clone(), replies, bench.now).is_some());
    assert_eq!(bench.book.take_due(bench.now), None);
    assert_eq!(bench.book.next_due(), Some(bench.now + SECOND * 60));
}

#[test]
fn the_view_says_what_is_kept_and_why() {
    let mut bench = Bench::new();
    bench.settle(found(&["192.0.2.1"], 60), absent());
    bench.settle(failed(), absent());
    let view = serde_json::to_value(bench.book.view(bench.now + SECOND * 2)).unwrap();
    let expected = serde_json::json!([{
        "name": "a.example",
        "addresses": ["192.0.2.1"],
        "ttlLeftS": 0,
        "answerAgeS": 62,
        "nextQuestionInS": 3,
        "error": "SERVFAIL",
        "errorAgeS": 2,
    }]);
    assert_eq!(view, expected);
}
