//! Which endpoint is tried next.

use super::*;

const ENDPOINTS: [&str; 5] =
    ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80", "[2001:db8::1]:80", "[2001:db8::2]:80"];

/// The order in which all are tried, by their index.
fn order(first: usize, wants_v4: bool, failed: &[usize]) -> Vec<usize> {
    let endpoints = ENDPOINTS.map(|text| text.parse::<SocketAddr>().unwrap());
    let has_failed = |address| failed.iter().any(|index| endpoints[*index] == address);
    let (mut tried, mut wants_v4) = (Vec::new(), wants_v4);
    while let Some(index) = choose(&endpoints, first, &tried, wants_v4, has_failed) {
        tried.push(index);
        wants_v4 = !endpoints[index].is_ipv4();
    }
    tried
}

#[test]
fn the_families_take_turns_in_the_round_and_what_has_failed_goes_last() {
    for (first, wants_v4, failed, expected) in [
        (0, true, &[][..], [0, 3, 1, 4, 2]),
        (0, false, &[], [3, 0, 4, 1, 2]),
        // Each begins elsewhere in the round.
        (1, true, &[], [1, 3, 2, 4, 0]),
        (4, true, &[], [0, 4, 1, 3, 2]),
        (4, false, &[], [4, 0, 3, 1, 2]),
        (0, true, &[0], [1, 3, 2, 4, 0]),
        (0, true, &[3, 4], [0, 1, 2, 3, 4]),
        // A family that is dead costs nothing, the wanted one included.
        (0, true, &[0, 1, 2], [3, 4, 0, 1, 2]),
        (2, true, &[0, 1, 2, 3, 4], [2, 3, 0, 4, 1]),
    ] {
        assert_eq!(order(first, wants_v4, failed), expected, "{first} {wants_v4} {failed:?}");
    }
}
