//! What a series is looked for by, and what it stands for.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{Labels, SeriesIndex, SeriesTable};
use crate::metrics::{ResponseCode, ResponseFlags};
use crate::registry::snapshot::{Cluster, Identity};
use crate::workload::Workload;

/// What a connection is accounted to.
#[derive(Debug, Clone, Copy)]
pub struct SeriesKey<'a> {
    /// Who opened it: the `source_*` labels.
    pub source: &'a Identity<Workload>,
    /// Where it went: the `destination_service*` labels.
    pub cluster: &'a Identity<Cluster>,
    /// `destination_service`, if the connection or request has shown a name: in its normal form.
    /// `None`: the cluster's own.
    pub service: Option<&'a str>,
    /// `destination_ip`, if `metrics.destinationIp` is set.
    pub destination_ip: Option<IpAddr>,
    /// What a request was answered. `None` for a connection.
    pub response_code: Option<ResponseCode>,
    /// `response_flags`: none while it lives, then those of its close reason.
    pub flags: ResponseFlags,
    /// Who has a share of the table: the source's address.
    pub maker: IpAddr,
}

/// The hashes of a label set: of its source, of all but its flags, of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashes {
    pub(super) source: u64,
    pub(super) base: u64,
    pub(super) whole: u64,
}

impl SeriesKey<'_> {
    /// The hash of the label set without its flags, from the hashes that the identities carry.
    pub(super) fn base_hash(&self, hashes: &RandomState) -> u64 {
        let mut hasher = hashes.build_hasher();
        hasher.write_u64(self.source.hash);
        hasher.write_u64(self.cluster.hash);
        if let Some(code) = self.response_code {
            hasher.write_u16(code.number());
        }
        match self.destination_ip {
            None => {}
            Some(IpAddr::V4(ip)) => hasher.write_u32(ip.to_bits()),
            Some(IpAddr::V6(ip)) => hasher.write_u128(ip.to_bits()),
        }
        if let Some(service) = self.service {
            hasher.write(service.as_bytes());
        }
        hasher.finish()
    }

    pub(super) fn to_labels(self) -> Labels {
        Labels {
            source: Arc::clone(&self.source.value),
            cluster: Arc::clone(&self.cluster.value),
            service: self.service.map(Into::into),
            destination_ip: self.destination_ip,
            response_code: self.response_code,
            flags: self.flags,
        }
    }
}

impl<C: Default> SeriesTable<C> {
    /// `destination_service_name` of a series.
    #[must_use]
    pub fn cluster_name(&self, index: SeriesIndex) -> &str {
        &self.entries[index.0 as usize].labels.cluster.service_name
    }

    /// The name that the connections of a series have shown, in its normal form. `None`: they have
    /// shown none, or the series stands for several names.
    #[must_use]
    pub fn shown_name(&self, index: SeriesIndex) -> Option<&str> {
        self.entries[index.0 as usize].labels.service.as_deref()
    }
}
