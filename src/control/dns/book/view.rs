//! What is known of a name, for the admin server.

use std::net::IpAddr;
use std::time::Instant;

use serde::Serialize;

use super::{Family, Schedule};
use crate::sniff::Name;

/// One name; times in whole seconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::control) struct View {
    pub(in crate::control::dns) name: String,
    /// A workload has claimed it, and an entry lets Egret resolve what is claimed.
    claimed: bool,
    /// Those of the last answers.
    addresses: Vec<IpAddr>,
    /// How many vouch for the name, those included.
    vouching: usize,
    /// Until the first of the answers runs out; 0 when one is kept for want of a newer one.
    ttl_left_s: Option<u64>,
    answer_age_s: Option<u64>,
    /// `null` while the questions are under way.
    next_question_in_s: Option<u64>,
    error: Option<String>,
    error_age_s: Option<u64>,
}

impl View {
    /// A name with these current addresses, by the schedules of its two questions.
    pub(super) fn new(
        name: &Name,
        addresses: Vec<IpAddr>,
        vouching: usize,
        schedules: [&Schedule; 2],
        now: Instant,
    ) -> Self {
        let until = |time: Instant| time.saturating_duration_since(now).as_secs();
        let since = |time: Instant| now.saturating_duration_since(time).as_secs();
        let answered = || schedules.into_iter().filter_map(|schedule| schedule.answered);
        let error = error(schedules, addresses.len());
        Self {
            name: name.as_str().into(),
            claimed: false,
            addresses,
            vouching,
            ttl_left_s: answered().map(|(_, expires)| until(expires)).min(),
            answer_age_s: answered().map(|(at, _)| since(at)).min(),
            next_question_in_s: schedules.into_iter().filter_map(|s| s.next).map(until).min(),
            error_age_s: error.as_ref().map(|(_, at)| since(*at)),
            error: error.map(|(error, _)| error),
        }
    }

    /// The same of a name that a workload has claimed. It vouches for nothing.
    pub(in crate::control::dns) fn claimed(
        name: &Name,
        addresses: Vec<IpAddr>,
        schedules: [&Schedule; 2],
        now: Instant,
    ) -> Self {
        Self { claimed: true, ..Self::new(name, addresses, 0, schedules, now) }
    }
}

/// What went wrong last with a name that has so many addresses, and when.
pub(super) fn error(schedules: [&Schedule; 2], addresses: usize) -> Option<(String, Instant)> {
    Family::BOTH.into_iter().find_map(|family| {
        let schedule = schedules[family as usize];
        let (why, at) = schedule.error.as_ref()?;
        // That a name has addresses of one family only is no error.
        let is_error = !schedule.is_about_absence() || addresses == 0;
        is_error.then(|| (format!("{}: {why}", family.record()), *at))
    })
}
