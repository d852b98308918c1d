//! Where the lives have been: each phase of a connection, with each gate, and what happened to it
//! there.

use crate::run::Coverage;

const PHASES: [&str; 10] = [
    "waiting",
    "recognising",
    "resolving",
    "connecting",
    "relaying",
    "retiring",
    "answering",
    "lingering",
    "resetting",
    "closing",
];

const GATES: [&str; 7] =
    ["open", "detecting", "observing", "tls", "http1", "http1 observed", "http2"];

const EVENTS: [&str; 13] = [
    "connected",
    "received",
    "sent",
    "readable",
    "writable",
    "dead",
    "buffer free",
    "ack due",
    "visit",
    "resolved",
    "due",
    "give way",
    "end",
];

/// Cells that were met less often are listed with a seed that meets them.
const RARE: u64 = 20;

/// Cells that the product cannot reach: phases, events, gates (`*`: all of them), and why.
const UNREACHABLE: &[(&str, &str, &str, &str)] = &[
    ("waiting|recognising", "*", "open|observing|tls|http1 observed", "it is decided"),
    ("waiting", "*", "http1", "the first bytes of its head are held"),
    ("waiting|recognising", "connected", "*", "no attempt is in flight before it is decided"),
    ("waiting|recognising", "sent|writable", "detecting|http1", "Egret says nothing yet"),
    ("waiting|recognising", "due", "detecting|http1", "no deadline is set"),
    ("waiting", "dead|ack due", "detecting", "whoever was connected before has spoken"),
    ("connecting", "*", "http1 observed", "HTTP/1 is observed once it is connected"),
    ("connecting", "sent|writable", "open|detecting|observing|tls|http1", "nothing is said yet"),
    ("connecting", "ack due", "open|detecting|observing|tls|http2", "only HTTP/1 connects again"),
    ("connecting", "received|readable|buffer free", "observing|tls", "nothing is asked for"),
    ("connecting|relaying", "due", "detecting", "it goes where it meant to: no other endpoint"),
    ("relaying|retiring", "connected", "detecting", "it goes where it meant to: one attempt"),
    ("relaying", "sent|writable", "detecting", "who speaks first ends the detection"),
    ("retiring", "*", "open|observing|tls", "it has no requests between which it could be changed"),
    ("answering", "*", "open|detecting|observing|http1 observed", "it is told nothing"),
    ("answering|lingering|resetting", "connected", "*", "there is no attempt, and no upstream"),
    ("answering", "readable", "tls", "what was received has decided"),
    ("lingering", "*", "observing", "what is observed is not blocked, nor drained"),
    ("lingering", "sent|writable|ack due", "*", "all is said, and there is no upstream"),
    ("resetting", "*", "detecting|observing", "nothing has passed that could be unacknowledged"),
];

/// Cells that some order of events may reach, and that no seed of the tests' own does: phases,
/// events, gates.
const UNMET: &[(&str, &str, &str)] = &[
    // No name of the scenarios is resolved on demand.
    ("resolving", "*", "*"),
    ("*", "resolved", "*"),
    ("waiting", "dead|buffer free|ack due|give way|end", "http2"),
    ("recognising", "dead|ack due", "detecting|http1|http2"),
    ("connecting", "received|writable", "http2"),
    ("connecting", "readable", "detecting|http2"),
    ("connecting", "buffer free", "open|detecting|http1"),
    ("connecting", "give way|end", "detecting"),
    ("relaying", "buffer free|give way|end", "detecting"),
    ("retiring", "connected", "http1|http1 observed|http2"),
    ("retiring", "sent", "detecting|http1|http1 observed"),
    ("retiring", "readable", "http1 observed|http2"),
    ("retiring", "writable|dead|give way", "detecting|http1|http1 observed|http2"),
    ("retiring", "buffer free|due", "detecting|http1 observed"),
    ("retiring", "ack due", "detecting|http1 observed|http2"),
    ("retiring", "visit", "http1 observed"),
    ("retiring", "end", "detecting|http1|http2"),
    ("answering", "received|dead|buffer free", "tls"),
    ("answering", "readable|end", "http1"),
    ("answering", "ack due", "tls|http2"),
    ("answering", "due|give way", "tls|http1"),
    ("lingering", "received", "tls"),
    ("lingering", "readable|end", "http1 observed"),
    ("lingering", "dead|due", "open|detecting|tls|http1 observed"),
    ("lingering", "buffer free", "open|detecting|tls|http1|http1 observed|http2"),
    ("lingering", "give way", "detecting|http1 observed"),
    ("resetting", "writable|end", "tls|http2"),
    ("resetting", "buffer free", "tls|http1|http2"),
    ("resetting", "ack due", "open|tls|http1|http1 observed"),
    ("resetting", "give way", "tls"),
    ("closing", "connected", "detecting|observing|http1 observed"),
    ("closing", "received|readable|dead|visit", "observing"),
    ("closing", "sent|writable", "detecting|observing"),
    ("closing", "buffer free", "open|detecting|observing|http1|http1 observed|http2"),
    ("closing", "ack due", "detecting|observing|http1|http1 observed"),
    ("closing", "due", "open|detecting|observing|http1 observed|http2"),
    ("closing", "give way", "detecting|observing|http1|http1 observed|http2"),
    ("closing", "end", "observing|http1|http2"),
];

fn fits(pattern: &str, name: &str) -> bool {
    pattern.split('|').any(|one| one == "*" || one == name)
}

fn is_left_out((phase, event, gate): (&str, &str, &str)) -> bool {
    UNMET.iter().any(|(phases, events, gates)| {
        fits(phases, phase) && fits(events, event) && fits(gates, gate)
    })
}

fn is_unreachable((phase, event, gate): (&str, &str, &str)) -> Option<&'static str> {
    let found = UNREACHABLE.iter().find(|(phases, events, gates, _)| {
        fits(phases, phase) && fits(events, event) && fits(gates, gate)
    });
    found.map(|(.., why)| *why)
}

/// The table: how often each event has met each phase, by gate.
pub(crate) fn print(met: &Coverage) {
    let widths = GATES.map(|gate| gate.len().max(9));
    let heads: Vec<_> =
        GATES.iter().zip(widths).map(|(gate, width)| format!("{gate:>width$}")).collect();
    eprintln!("{:24} {}", "phase, event", heads.join(" "));
    for phase in PHASES {
        for event in EVENTS {
            let cell = |gate: &'static str| match met.get(&(phase, event, gate)) {
                Some((times, _)) => times.to_string(),
                None if is_unreachable((phase, event, gate)).is_some() => "-".into(),
                None => "0".into(),
            };
            let cells: Vec<_> = GATES
                .iter()
                .zip(widths)
                .map(|(gate, width)| format!("{:>width$}", cell(gate)))
                .collect();
            eprintln!("{:24} {}", format!("{phase}, {event}"), cells.join(" "));
        }
    }
    let rare = met.iter().filter(|(_, (times, _))| *times < RARE);
    for ((phase, event, gate), (times, seed)) in rare {
        eprintln!("rare: {phase}, {event}, {gate}: {times}, first by seed {seed}");
    }
}

/// No cell that can be met is empty, and none is met that cannot be.
pub(crate) fn is_complete(met: &Coverage) {
    let mut wrong = Vec::new();
    for phase in PHASES {
        for event in EVENTS {
            for gate in GATES {
                let cell = (phase, event, gate);
                match (met.get(&cell), is_unreachable(cell)) {
                    (None, None) if is_left_out(cell) => {}
                    (None, None) => wrong.push(format!("{cell:?} was not met")),
                    (Some((_, seed)), Some(why)) => {
                        wrong.push(format!("{cell:?} was met by seed {seed}: {why}"));
                    }
                    (Some(_), None) | (None, Some(_)) => {}
                }
            }
        }
    }
    for (phase, event, gate) in met.keys() {
        let is_known = PHASES.contains(phase) && EVENTS.contains(event) && GATES.contains(gate);
        if !is_known {
            wrong.push(format!("{phase}, {event}, {gate} is not in the table"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
