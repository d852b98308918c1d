//! Label sets that have had no traffic for long give their places to new ones.
//!
//! Nothing is lost: scrapes have seen the last numbers. A label set goes with all its flags at
//! once, and not before every connection that was opened is closed, so that what is left still
//! fits: opened minus closed are the open connections.

use std::sync::atomic::Ordering;

use strum::VariantArray;

use super::{Entry, Labels, Overflow, SeriesTable};
use crate::metrics::ResponseFlags;

/// Entries that are looked at for one that may go.
const LOOKED_AT: usize = 64;

impl<C: Default> SeriesTable<C> {
    /// Gives up one label set with all its flags, if one of the next in turn has been idle.
    pub(super) fn retire_one(&mut self) {
        let places = self.entries.capacity().max(1);
        for _ in 0..LOOKED_AT {
            self.looked_at = (self.looked_at + 1) % places;
            let Some(family) = self.family_of(self.looked_at) else { continue };
            if family.iter().all(|place| self.is_idle(&self.entries[*place as usize])) {
                family.into_iter().for_each(|place| self.retire(place));
                return;
            }
        }
    }

    /// The entries that differ in their flags alone from the one at `place`, and that one.
    fn family_of(&self, place: usize) -> Option<Vec<u32>> {
        let entry = self.entries.get(place).filter(|entry| self.is_idle(entry))?;
        let of_flags = |flags: &ResponseFlags| {
            let labels = Labels { flags: *flags, ..entry.labels.clone() };
            let hash = self.with_flags_hash(entry.series.base_hash, *flags);
            self.places.find(hash, |at| self.entries[*at as usize].labels == labels).copied()
        };
        Some(ResponseFlags::VARIANTS.iter().filter_map(of_flags).collect())
    }

    fn is_idle(&self, entry: &Entry<C>) -> bool {
        let unused = self.now.saturating_sub(entry.used.get());
        entry.series.overflow == Overflow::No && entry.held == 0 && unused >= self.idle
    }

    fn retire(&mut self, place: u32) {
        let entry = self.entries.remove(place as usize);
        if let Ok(found) = self.places.find_entry(entry.series.hash, |at| *at == place) {
            found.remove();
        }
        if let Some(made) = self.makers.get_mut(&entry.maker) {
            *made -= 1;
            if *made == 0 {
                self.makers.remove(&entry.maker);
            }
        }
        entry.series.retired.store(true, Ordering::Release);
        self.room.retired();
    }
}
