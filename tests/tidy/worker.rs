//! What keeps the worker and the gate easy to follow: who changes what, counted on the text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Source, crate_paths, is_function, product, report};

/// More than these, and the worker decides again what its connections should.
const WORKER_METHODS_MAX: usize = 39;

/// A state is one of these: a match on it names each of them, so that the compiler asks about a new
/// one.
const STATES: [&str; 5] = ["Phase::", "Upstream::", "Gate::", "Outcome::", "Self::Open"];

/// The product's sources of the worker and the gate.
fn sources() -> Vec<Source> {
    let is_here = |source: &Source| {
        let mut modules = source.module.split("::");
        matches!(modules.next(), Some("worker" | "gate")) && !source.is_test()
    };
    let sources: Vec<Source> = product().into_iter().filter(is_here).collect();
    assert!(sources.len() > 15, "only {} files of the worker and the gate", sources.len());
    sources
}

fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The functions in which `text` stands, and how often it does.
fn functions_with(text: &str) -> BTreeMap<String, usize> {
    let mut functions = BTreeMap::new();
    for source in sources() {
        let mut function = String::new();
        for (_, line) in source.product_lines() {
            if is_function(line) {
                let name = line.split("fn ").nth(1).unwrap_or_default();
                name.split(['(', '<']).next().unwrap_or_default().clone_into(&mut function);
            }
            let found = code(line).matches(text).count();
            if found > 0 {
                *functions.entry(format!("{}: {function}", source.path.display())).or_default() +=
                    found;
            }
        }
    }
    functions
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(place, count)| (place.to_owned(), count)).collect()
}

#[test]
fn the_gate_knows_neither_the_worker_nor_the_system() {
    let mut offences = BTreeSet::new();
    let mut seen = 0;
    // Its tests, too: what they show needs no socket.
    for source in product().iter().filter(|source| source.module.split("::").next() == Some("gate"))
    {
        seen += 1;
        for (number, line) in (1..).zip(source.text.lines()) {
            let is_above =
                |path: &String| matches!(path.split("::").next(), Some("worker" | "sys"));
            if crate_paths(line).iter().any(is_above) {
                offences.insert(source.at(number));
            }
        }
    }
    assert!(seen > 5, "only {seen} files of the gate");
    report("the gate says what may pass, and moves nothing itself", &offences);
}

#[test]
fn the_worker_has_few_methods() {
    let mut methods = BTreeSet::new();
    for source in sources() {
        let is_worker = source.path == Path::new("src/worker.rs")
            || source.path.parent() == Some(Path::new("src/worker"));
        let mut is_inside = false;
        for (number, line) in source.product_lines().filter(|_| is_worker) {
            if line.starts_with("impl") {
                is_inside = line.contains(" Worker<");
            }
            if is_inside && indent(line) == 4 && is_function(line) {
                methods.insert(source.at(number));
            }
        }
    }
    assert!(methods.len() > 10, "only {} methods of the worker seen", methods.len());
    assert!(
        methods.len() <= WORKER_METHODS_MAX,
        "what concerns one connection is a method of the connection; the worker has {} of its own",
        methods.len()
    );
}

#[test]
fn a_connection_is_looked_up_in_one_place() {
    let expected = counts([("src/worker.rs: visit", 1), ("src/worker.rs: with", 1)]);
    assert_eq!(
        functions_with("connections.get"),
        expected,
        "an event reaches its connection through `with`, which knows the key of one that is gone; \
         `visit` goes over all"
    );
    assert_eq!(
        functions_with("connections["),
        BTreeMap::new(),
        "a slot that is empty, or has a new connection, panics or confuses two of them"
    );
}

#[test]
fn a_state_is_changed_in_one_place() {
    assert_eq!(
        functions_with("self.phase = "),
        counts([("src/worker/connection.rs: set_phase", 1)]),
        "a gauge depends on the phase; who sets it elsewhere forgets the gauge"
    );
    assert_eq!(
        functions_with("self.upstream = "),
        counts([
            ("src/worker/connection.rs: leave_undecided", 1),
            ("src/worker/connection.rs: set_upstream", 1),
            ("src/worker/connection.rs: take_closing", 1)
        ]),
        "a gauge depends on whether the first bytes are awaited; who sets it elsewhere forgets it"
    );
    let replaced = ["std::mem::replace(&mut self.upstream", "std::mem::take(&mut self.upstream"];
    let places: BTreeMap<_, _> = replaced.iter().flat_map(|text| functions_with(text)).collect();
    assert_eq!(
        places,
        counts([("src/worker/connection.rs: take_closing", 1)]),
        "only a closing upstream connection gives away what follows it"
    );
}

/// The arms of the match that begins on the first line: their numbers, and their patterns.
fn arms(lines: &[(usize, &str)]) -> Vec<(usize, String)> {
    let (_, first) = lines[0];
    // rustfmt has put the arms four columns behind the line's first word.
    let (outer, mut arms): (usize, Vec<(usize, String)>) = (indent(first), Vec::new());
    let mut is_pattern = false;
    for (number, line) in lines[1..].iter().copied() {
        if !line.is_empty() && indent(line) <= outer {
            break;
        }
        let begins =
            indent(line) == outer + 4 && !line.trim_start().starts_with(['{', '}', '/', '|']);
        match arms.last_mut() {
            Some((_, pattern)) if is_pattern => pattern.push_str(code(line).trim()),
            _ if begins => arms.push((number, code(line).trim().to_owned())),
            Some(_) | None => continue,
        }
        is_pattern = !code(line).contains("=>");
    }
    arms
}

/// The pattern takes whatever is left: `_`, or a name.
fn takes_all(pattern: &str) -> bool {
    let name = pattern.split("=>").next().unwrap_or_default().trim();
    !name.is_empty()
        && !matches!(name, "true" | "false")
        && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn a_match_on_a_state_names_every_state() {
    let mut offences = BTreeSet::new();
    let mut seen = 0;
    for source in sources() {
        let lines: Vec<_> = source.product_lines().collect();
        for (index, (_, line)) in lines.iter().enumerate() {
            if !code(line).contains("match ") || !line.ends_with('{') {
                continue;
            }
            let arms = arms(&lines[index..]);
            let pattern = |arm: &str| arm.split("=>").next().unwrap_or_default().to_owned();
            let names = |(_, arm): &(usize, String)| {
                STATES.iter().any(|state| pattern(arm).contains(state))
            };
            if !arms.iter().any(names) {
                continue;
            }
            seen += 1;
            let all = arms.iter().filter(|(_, arm)| takes_all(arm));
            offences.extend(all.map(|(number, _)| source.at(*number)));
        }
    }
    assert!(seen > 30, "only {seen} matches on a state seen");
    report("a new state would go unnoticed here; name those that are meant", &offences);
}

#[test]
fn the_look_at_matches_finds_what_takes_all() {
    let text = [
        "    match self.phase {",
        "        // Why.",
        "        Phase::Open",
        "            if x =>",
        "        {",
        "            match y {",
        "                _ => 1,",
        "            }",
        "        }",
        "        _ => 2,",
        "    }",
    ];
    let lines: Vec<_> = (1..).zip(text).collect();
    let found = arms(&lines);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].1.starts_with("Phase::Open") && takes_all(&found[1].1), "{found:?}");
    assert!(takes_all("other => x") && !takes_all("Phase::Open => x") && !takes_all("_ if a => x"));
}
