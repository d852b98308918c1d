//! One label set of Istio's metrics: equality, and its text in Istio's order.
//!
//! Built once when a worker meets a label set for the first time, read at every scrape.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelSetEncoder};

use super::ResponseFlags;
use crate::registry::snapshot::Cluster;
use crate::workload::Workload;

/// What Istio prints where nothing is known.
const UNKNOWN: &str = "unknown";
/// What Istio prints for a canonical revision that is not known.
const LATEST: &str = "latest";
/// `destination_service` of the one series that takes what found no room.
const OTHER: &str = "other";

/// A label set without its constant labels.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    pub(super) source: Arc<Workload>,
    pub(super) cluster: Arc<Cluster>,
    /// `destination_service`, if it is not the cluster's own.
    pub(super) service: Option<Arc<str>>,
    pub(super) destination_ip: Option<IpAddr>,
    /// Of requests only.
    pub(super) response_code: Option<u16>,
    pub(super) flags: ResponseFlags,
}

impl Labels {
    /// The series that takes what found no room: only `destination_service` says something, and, of
    /// requests, that they are some.
    pub(super) fn other(response_code: Option<u16>) -> Self {
        let cluster = Cluster {
            service_name: UNKNOWN.into(),
            service: Some(OTHER.into()),
            service_namespace: None,
        };
        Self {
            source: Arc::new(Workload::default()),
            cluster: Arc::new(cluster),
            service: None,
            destination_ip: None,
            response_code,
            flags: ResponseFlags::None,
        }
    }
}

impl PartialEq for Labels {
    /// Pointers first: within one generation equal values are the same allocation.
    fn eq(&self, other: &Self) -> bool {
        self.flags == other.flags
            && self.response_code == other.response_code
            && self.destination_ip == other.destination_ip
            && self.service == other.service
            && (Arc::ptr_eq(&self.cluster, &other.cluster) || self.cluster == other.cluster)
            && (Arc::ptr_eq(&self.source, &other.source) || self.source == other.source)
    }
}

impl EncodeLabelSet for Labels {
    /// The 23 labels that Istio's proxy puts on its TCP metrics, in its order (its filter
    /// `istio_stats`), then `destination_ip` if the operator asked for it. Requests have 25: the
    /// status of the answer, and the one of gRPC, which is empty for HTTP/1.
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        let source = &*self.source;
        let cluster = &*self.cluster;
        let workload = known(&source.workload);
        let app = known(&source.app);
        // The canonical service of a pod without the label of that name is its app label, else the
        // workload's name.
        let canonical_service = if source.app.is_some() { app } else { workload };
        let service = self.service.as_deref().unwrap_or(known(&cluster.service));
        let code = self.response_code.map(|code| code.to_string());
        let protocol = if code.is_some() { "http" } else { "tcp" };
        let before_code: [(&str, &str); 21] = [
            ("reporter", "source"),
            ("source_workload", workload),
            ("source_canonical_service", canonical_service),
            ("source_canonical_revision", source.version.as_deref().unwrap_or(LATEST)),
            ("source_workload_namespace", known(&source.namespace)),
            ("source_principal", known(&source.principal)),
            ("source_app", app),
            ("source_version", known(&source.version)),
            ("source_cluster", known(&source.cluster)),
            ("destination_workload", UNKNOWN),
            ("destination_workload_namespace", UNKNOWN),
            ("destination_principal", UNKNOWN),
            ("destination_app", UNKNOWN),
            ("destination_version", UNKNOWN),
            ("destination_service", service),
            ("destination_canonical_service", UNKNOWN),
            ("destination_canonical_revision", LATEST),
            ("destination_service_name", &cluster.service_name),
            ("destination_service_namespace", known(&cluster.service_namespace)),
            ("destination_cluster", UNKNOWN),
            ("request_protocol", protocol),
        ];
        for (name, value) in before_code {
            encode_label(encoder, name, value)?;
        }
        if let Some(code) = &code {
            encode_label(encoder, "response_code", code)?;
            encode_label(encoder, "grpc_response_status", "")?;
        }
        encode_label(encoder, "response_flags", self.flags.label())?;
        encode_label(encoder, "connection_security_policy", UNKNOWN)?;
        match self.destination_ip {
            Some(ip) => encode_label(encoder, "destination_ip", &ip.to_string()),
            None => Ok(()),
        }
    }
}

fn known(value: &Option<Box<str>>) -> &str {
    value.as_deref().unwrap_or(UNKNOWN)
}

fn encode_label(encoder: &mut LabelSetEncoder, name: &str, value: &str) -> fmt::Result {
    let mut label = encoder.encode_label();
    let mut key = label.encode_label_key()?;
    fmt::Write::write_str(&mut key, name)?;
    let mut text = key.encode_label_value()?;
    EncodeLabelValue::encode(&value, &mut text)?;
    text.finish()
}
