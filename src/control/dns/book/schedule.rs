//! How one question to DNS has gone, and when it is asked again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Reply, Timing};

/// See the module.
#[derive(Debug, Default)]
pub(in crate::control::dns) struct Schedule {
    /// When the last reply with addresses came, and until when it holds.
    pub(in crate::control::dns) answered: Option<(Instant, Instant)>,
    /// What went wrong last, and when; `None` once all is well.
    pub(in crate::control::dns) error: Option<(String, Instant)>,
    /// Replies in a row that were not what was hoped for.
    failures: u32,
    /// Since when the reply is "there are none".
    absent_since: Option<Instant>,
    /// Not asked again before this time; `None`: it is being asked, or never was.
    pub(in crate::control::dns) next: Option<Instant>,
    pub(in crate::control::dns) was_asked: bool,
}

/// What a reply changes.
#[derive(Debug)]
pub(in crate::control::dns) enum News {
    /// These are the addresses, for so long.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none any more.
    Gone,
    /// It is said that there are none, but that is not believed yet.
    PerhapsGone,
    /// Nothing: the question has failed.
    Failed,
}

impl Schedule {
    /// Takes in a reply: what it changes, and how long the next question waits.
    pub(in crate::control::dns) fn take_in(
        &mut self,
        reply: Reply,
        now: Instant,
        timing: &Timing,
    ) -> (News, Duration) {
        self.was_asked = true;
        match reply {
            Reply::Addresses(addresses, told_ttl) => {
                let ttl = told_ttl.clamp(timing.ttl_min, timing.ttl_max);
                self.succeeded(now, ttl);
                (News::Addresses(addresses, told_ttl), ttl)
            }
            Reply::Absent(why) => {
                let is_believed = self.is_absent(why, now, timing.absence_hold);
                let news = if is_believed { News::Gone } else { News::PerhapsGone };
                (news, self.back_off(timing))
            }
            Reply::Failed(why) => {
                self.failed(why, now);
                (News::Failed, self.back_off(timing))
            }
        }
    }

    /// The last reply was "there are none".
    pub(in crate::control::dns) fn is_about_absence(&self) -> bool {
        self.absent_since.is_some()
    }

    fn succeeded(&mut self, now: Instant, ttl: Duration) {
        self.answered = Some((now, now + ttl));
        self.absent_since = None;
        self.error = None;
        self.failures = 0;
    }

    /// "There are none", and why; returns whether that is believed.
    fn is_absent(&mut self, why: &str, now: Instant, hold: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.error = Some((why.into(), now));
        let since = *self.absent_since.get_or_insert(now);
        let is_believed = now.saturating_duration_since(since) >= hold;
        if is_believed {
            self.answered = None;
        }
        is_believed
    }

    fn failed(&mut self, why: String, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.error = Some((why, now));
        self.absent_since = None;
    }

    fn back_off(&self, timing: &Timing) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        timing.retry_min.saturating_mul(1 << doublings).min(timing.retry_max)
    }
}
