//! Under which flags a scrape shows the connections that have ended.
//!
//! A connection is opened before its flags are known, and closed when they are. With Istio both
//! lines of a connection have the same labels: its proxy takes the flags when it first reports the
//! connection, five seconds after the beginning or at the end, and keeps them. So
//! `opened - closed` is what is open, line by line.
//!
//! The same here, with scrapes in the place of reports. Workers count what has happened: opened
//! without flags, closed with flags. For an end with flags a scrape shows one opening less without
//! flags, and one more with these; but no line may go back, and what an earlier scrape has shown as
//! open without flags ends without flags.

use std::collections::HashMap;

use super::SeriesSum;
use super::fold::{Fold, Group};
use crate::metrics::ResponseFlags;
use crate::metrics::series::SeriesCells;

/// What scrapes have shown of a label set; of one without flags: for all flags together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shown {
    /// Ends with flags, under these.
    flagged: u64,
    /// Ends with flags, under none.
    bare: u64,
    /// Openings, of a label set without flags.
    opened: u64,
}

impl Fold<SeriesCells> {
    /// The sums of all label sets, as a scrape shows them.
    pub(super) fn show(&mut self) -> Vec<SeriesSum> {
        // Closed before opened: a connection that opens and closes meanwhile shows as open, and
        // opened minus closed is never negative.
        let closed: Vec<u64> = self.groups().map(Group::closed).collect();
        let mut sums: Vec<SeriesSum> =
            self.groups().zip(closed).map(|(group, closed)| group.sum(closed)).collect();
        let groups = &mut self.groups;
        let mut bare = HashMap::new();
        for (at, group) in groups.iter().enumerate() {
            if group.labels.flags == ResponseFlags::None {
                bare.insert(group.base_hash, at);
                sums[at].opened = sums[at].opened.saturating_sub(group.shown.flagged);
                sums[at].closed += group.shown.bare;
            }
        }
        for at in 0..groups.len() {
            match bare.get(&groups[at].base_hash) {
                Some(&base) if base != at => move_ends(groups, &mut sums, at, base),
                Some(_) | None => {}
            }
        }
        for at in bare.into_values() {
            groups[at].shown.opened = sums[at].opened;
        }
        sums
    }
}

/// Shows the new ends of the label set at `at` with their flags, as far as the openings of the one
/// without flags, at `base`, allow it.
fn move_ends(groups: &mut [Group<SeriesCells>], sums: &mut [SeriesSum], at: usize, base: usize) {
    // What was never open is counted as opened here.
    let ends = sums[at].closed.saturating_sub(sums[at].opened);
    let before = groups[at].shown;
    let new = ends.saturating_sub(before.flagged + before.bare);
    let openings = sums[base].opened.saturating_sub(groups[base].shown.opened);
    let flagged = new.min(openings);
    for place in [at, base] {
        groups[place].shown.flagged += flagged;
        groups[place].shown.bare += new - flagged;
    }
    sums[base].opened -= flagged;
    sums[base].closed += new - flagged;
    sums[at].opened += groups[at].shown.flagged;
    sums[at].closed -= groups[at].shown.bare;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use crate::drain::Phase;
    use crate::metrics::series::SeriesKey;
    use crate::metrics::testing::{another_maker, cluster, key, read_strictly, workload};
    use crate::metrics::{Format, MetricsHub, ResponseFlags};

    /// What may happen between two scrapes.
    #[derive(Debug, Clone, Copy)]
    enum Happens {
        Opened,
        /// One that was open ends, if there is one.
        Closed(ResponseFlags),
        /// One ends that never was.
        Failed(ResponseFlags),
        Scraped,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        let flags = || {
            use ResponseFlags::{ConnectFailed, DownstreamReset, None, UpstreamRemoteReset};
            prop::sample::select(vec![None, ConnectFailed, DownstreamReset, UpstreamRemoteReset])
        };
        prop_oneof![
            3 => Just(Happens::Opened),
            3 => flags().prop_map(Happens::Closed),
            1 => flags().prop_map(Happens::Failed),
            2 => Just(Happens::Scraped),
        ]
    }

    /// By flags: opened and closed, as a scrape shows them.
    type Lines = HashMap<String, [f64; 2]>;

    fn scrape(hub: &MetricsHub) -> Lines {
        let text = hub.encode(Format::Text, Phase::Serving);
        let mut lines = Lines::new();
        for (line, value) in read_strictly(&text, Format::Text) {
            let at = match line.split_once('{').map(|(name, _)| name) {
                Some("istio_tcp_connections_opened_total") => 0,
                Some("istio_tcp_connections_closed_total") => 1,
                _ => continue,
            };
            let flags = line.split("response_flags=\"").nth(1).unwrap();
            let flags = flags.split('"').next().unwrap().to_owned();
            lines.entry(flags).or_default()[at] = value;
        }
        lines
    }

    proptest! {
        #[test]
        fn opened_minus_closed_is_what_is_open_line_by_line_and_no_line_goes_back(
            life in prop::collection::vec(happens(), 0..60),
        ) {
            let hub = MetricsHub::new(10, 1);
            let mut worker = hub.worker(0);
            let (source, cluster) = (workload("shop"), cluster("api.example"));
            let series = worker.series.find(key(&source, &cluster));
            let (mut open, mut ever) = (0.0, 0.0);
            let mut before = Lines::new();
            for step in life.into_iter().chain([Happens::Scraped]) {
                match step {
                    Happens::Opened => {
                        worker.series.cells(series).opened.add(1);
                        (open, ever) = (open + 1.0, ever + 1.0);
                    }
                    Happens::Closed(flags) if open > 0.0 => {
                        let series = worker.series.with_flags(series, flags);
                        worker.series.cells(series).count_closed();
                        open -= 1.0;
                    }
                    Happens::Closed(_) => {}
                    Happens::Failed(flags) => {
                        let series = worker.series.with_flags(series, flags);
                        worker.series.cells(series).count_failed();
                        ever += 1.0;
                    }
                    Happens::Scraped => {
                        let lines = scrape(&hub);
                        for (flags, [opened, closed]) in &lines {
                            let expected = if flags == "-" { open } else { 0.0 };
                            prop_assert_eq!(opened - closed, expected, "{} {:?}", flags, lines);
                            let last = before.get(flags).copied().unwrap_or_default();
                            prop_assert!(*opened >= last[0] && *closed >= last[1]);
                        }
                        prop_assert_eq!(lines.values().map(|line| line[0]).sum::<f64>(), ever);
                        before = lines;
                    }
                }
            }
        }
    }

    #[test]
    fn an_end_has_its_flags_unless_a_scrape_has_shown_it_open() {
        let hub = MetricsHub::new(10, 1);
        let mut worker = hub.worker(0);
        let (source, cluster) = (workload("shop"), cluster("api.example"));
        let series = worker.series.find(key(&source, &cluster));
        let reset = worker.series.with_flags(series, ResponseFlags::UpstreamRemoteReset);
        worker.series.cells(series).opened.add(2);
        worker.series.cells(reset).count_closed();
        let lines = |bare, reset| Lines::from([("-".to_owned(), bare), ("UR".to_owned(), reset)]);
        assert_eq!(scrape(&hub), lines([1.0, 0.0], [1.0, 1.0]));
        worker.series.cells(reset).count_closed();
        assert_eq!(scrape(&hub), lines([1.0, 1.0], [1.0, 1.0]));
    }
    /// A connection is open, and then it is reset, under one label set beside so many of others.
    /// What each line has opened and closed, before and after.
    fn life_beside(others: usize, workers: usize, series_max: usize) -> [Vec<[f64; 2]>; 2] {
        let hub = MetricsHub::new(series_max, workers);
        let mut all: Vec<_> = (0..workers).map(|id| hub.worker(id)).collect();
        let (source, cluster) = (workload("shop"), cluster("api.example"));
        let series = all[0].series.find(key(&source, &cluster));
        all[0].series.cells(series).opened.add(1);
        for n in 0..others {
            let name = format!("{n}.example");
            let maker = another_maker();
            let key = SeriesKey { service: Some(&name), maker, ..key(&source, &cluster) };
            all[workers - 1].series.find(key);
        }
        let open = scrape_lines(&hub);
        let reset = all[0].series.with_flags(series, ResponseFlags::UpstreamRemoteReset);
        all[0].series.cells(reset).count_closed();
        [open, scrape_lines(&hub)]
    }

    /// The lines that anything is counted in.
    fn scrape_lines(hub: &MetricsHub) -> Vec<[f64; 2]> {
        let text = hub.encode(Format::Text, Phase::Serving);
        let mut lines: HashMap<String, [f64; 2]> = HashMap::new();
        for (line, value) in read_strictly(&text, Format::Text) {
            let of = |at: usize, name: &str| line.strip_prefix(name).map(|labels| (at, labels));
            let opened = of(0, "istio_tcp_connections_opened_total");
            if let Some((at, labels)) = opened.or(of(1, "istio_tcp_connections_closed_total")) {
                lines.entry(labels.to_owned()).or_default()[at] = value;
            }
        }
        lines.into_values().filter(|line| *line != [0.0, 0.0]).collect()
    }

    #[test]
    fn a_connection_is_closed_where_it_was_opened_when_there_is_no_room_for_its_flags() {
        let expected = [vec![[1.0, 0.0]], vec![[1.0, 1.0]]];
        // The worker's table is full, or all label sets together are as many as there may be.
        assert_eq!(life_beside(3, 1, 4), expected);
        assert_eq!(life_beside(15, 2, 16), expected);
    }
}
