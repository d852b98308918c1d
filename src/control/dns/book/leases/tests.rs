//! The limits, and who leaves first.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn addresses(from: u32, count: usize) -> BTreeSet<IpAddr> {
    (from..).take(count).map(|n| IpAddr::V4((0x0a00_0000 + n).into())).collect()
}

fn kept(leases: &Leases, name: &Name) -> BTreeSet<IpAddr> {
    leases.answers().recent(name.as_str()).iter().copied().collect()
}

#[test]
fn an_answer_with_more_addresses_than_the_limit_is_cut_the_same_way_each_time() {
    let (mut leases, name, now) = (Leases::default(), name("a.example"), Instant::now());
    let all = addresses(0, PER_NAME_MAX + 50);
    let told = leases.tell(&name, Family::V4, &all, (now, now + HOUR));
    assert_eq!((told, leases.len(), leases.evicted()), (Change::Some, PER_NAME_MAX, 50));
    let again = leases.tell(&name, Family::V4, &all, (now + SECOND, now + HOUR));
    assert_eq!((again, leases.len()), (Change::None, PER_NAME_MAX));
}

#[test]
fn the_oldest_addresses_of_a_name_leave_first() {
    let (mut leases, name, mut now) = (Leases::default(), name("a.example"), Instant::now());
    for from in (0..).step_by(1_000).take(5) {
        now += SECOND;
        leases.tell(&name, Family::V4, &addresses(from, 1_000), (now, now + HOUR));
    }
    let gone = 5_000 - PER_NAME_MAX;
    assert_eq!(leases.evicted(), gone as u64);
    assert_eq!(kept(&leases, &name), addresses(u32::try_from(gone).unwrap(), PER_NAME_MAX));
}

#[test]
fn the_oldest_addresses_of_all_names_leave_first() {
    let (mut leases, mut now) = (Leases::default(), Instant::now());
    let names: Vec<Name> = (0..101).map(|n| name(&format!("n{n}.example"))).collect();
    for name in &names[..100] {
        now += SECOND;
        leases.tell(name, Family::V4, &addresses(0, 1_000), (now, now + HOUR));
    }
    assert_eq!((leases.len(), leases.evicted()), (TOTAL_MAX, 0));
    // The first one is told again, so it is not the oldest any more.
    now += SECOND;
    let again = leases.tell(&names[0], Family::V4, &addresses(0, 1_000), (now, now + HOUR));
    assert_eq!(again, Change::None);
    let told = leases.tell(&names[100], Family::V4, &addresses(0, 10), (now, now + HOUR));
    assert_eq!((told, leases.len(), leases.evicted()), (Change::Some, TOTAL_MAX, 10));
    assert_eq!(leases.count(&names[0]), 1_000);
    assert_eq!(kept(&leases, &names[1]), addresses(10, 990));
    assert_eq!(leases.current(&names[1]).count(), 990);
    // What makes another name lose addresses is a change.
    now += SECOND;
    let again = leases.tell(&names[99], Family::V4, &addresses(0, 1_001), (now, now + HOUR));
    assert_eq!((again, leases.count(&names[1])), (Change::Some, 989));
}

#[test]
fn leases_end_in_their_time_and_are_looked_for_once_a_second() {
    let (mut leases, name, begin) = (Leases::default(), name("a.example"), Instant::now());
    for (n, lasts) in [(0, 10), (1, 10), (2, 11)] {
        let end = begin + SECOND * lasts + Duration::from_millis(n.into());
        leases.tell(&name, Family::V4, &addresses(n, 1), (begin, end));
    }
    leases.end_current(&name, Family::V4, begin);
    assert_eq!(leases.expire(begin + SECOND * 9), Change::None);
    assert_eq!(leases.next_end(), Some(begin + SECOND * 10));
    assert_eq!(leases.expire(begin + SECOND * 10), Change::Some);
    assert_eq!(leases.next_end(), Some(begin + SECOND * 11), "not a millisecond later");
    assert_eq!(leases.expire(begin + SECOND * 12), Change::Some);
    assert_eq!((leases.len(), leases.next_end()), (0, None));
}
