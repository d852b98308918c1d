//! One label set of Istio's metrics: equality, and its text in Istio's order.
//!
//! Built once when a worker meets a label set for the first time, read at every scrape.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use super::{ResponseCode, ResponseFlags};
use crate::registry::snapshot::Cluster;
use crate::workload::{UNKNOWN, Workload};

/// What Istio prints for a canonical revision that is not known.
const LATEST: &str = "latest";
/// `destination_service` of the series that takes what found no room.
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
    pub(super) response_code: Option<ResponseCode>,
    pub(super) flags: ResponseFlags,
}

impl Labels {
    /// The series that takes what found no room of this source: of the destination only
    /// `destination_service` says something, and, of requests, that they are some.
    pub(super) fn to_other(&self) -> Self {
        let cluster = Cluster { service: Some(OTHER.into()), ..Cluster::reserved(UNKNOWN) };
        Self {
            source: Arc::clone(&self.source),
            cluster: Arc::new(cluster),
            service: None,
            destination_ip: None,
            response_code: self.response_code.map(|_| ResponseCode::Http(0)),
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

impl Labels {
    /// The 23 labels that Istio's proxy puts on its TCP metrics, in its order (its filter
    /// `istio_stats`), then `destination_ip` if the operator asked for it. Requests have 25: the
    /// status of the answer, and the one of gRPC, which is empty for HTTP/1.
    fn each(&self, mut label: impl FnMut(&str, &str)) {
        let source = &*self.source;
        let cluster = &*self.cluster;
        let workload = known(&source.workload);
        let app = known(&source.app);
        // The canonical service of a pod without the label of that name is its app label, else the
        // workload's name.
        let canonical_service = if source.app.is_some() { app } else { workload };
        label("reporter", "source");
        label("source_workload", workload);
        label("source_canonical_service", canonical_service);
        label("source_canonical_revision", source.version.as_deref().unwrap_or(LATEST));
        label("source_workload_namespace", known(&source.namespace));
        label("source_principal", known(&source.principal));
        label("source_app", app);
        label("source_version", known(&source.version));
        label("source_cluster", known(&source.cluster));
        label("destination_workload", known(&cluster.workload));
        label("destination_workload_namespace", known(&cluster.service_namespace));
        label("destination_principal", UNKNOWN);
        label("destination_app", UNKNOWN);
        label("destination_version", UNKNOWN);
        label("destination_service", self.service.as_deref().unwrap_or(known(&cluster.service)));
        label("destination_canonical_service", UNKNOWN);
        label("destination_canonical_revision", LATEST);
        label("destination_service_name", &cluster.service_name);
        label("destination_service_namespace", known(&cluster.service_namespace));
        label("destination_cluster", UNKNOWN);
        match self.response_code {
            None => label("request_protocol", "tcp"),
            Some(ResponseCode::Http(status)) => {
                label("request_protocol", "http");
                label("response_code", &status.to_string());
                label("grpc_response_status", "");
            }
            Some(ResponseCode::GrpcUnavailable) => {
                label("request_protocol", "grpc");
                label("response_code", "200");
                label("grpc_response_status", "14");
            }
        }
        label("response_flags", self.flags.label());
        label("connection_security_policy", UNKNOWN);
        if let Some(ip) = self.destination_ip {
            label("destination_ip", &ip.to_string());
        }
    }
}

fn known(value: &Option<Box<str>>) -> &str {
    value.as_deref().unwrap_or(UNKNOWN)
}

/// A label set as it is printed, made once for all its lines: a histogram has 22, and labels are
/// most of a scrape. The buffers serve one label set after the other.
#[derive(Debug, Default)]
pub(super) struct LabelText {
    /// Every label but the last one's value: `reporter="source",...,connection_security_policy`.
    all_but_last: String,
    last_value: String,
}

impl LabelText {
    /// The text of `labels`, in place of the one before.
    pub(super) fn replace(&mut self, labels: &Labels) -> &Self {
        self.all_but_last.clear();
        self.last_value.clear();
        labels.each(|name, value| {
            if !self.all_but_last.is_empty() {
                self.all_but_last.push_str("=\"");
                push_escaped(&mut self.all_but_last, &self.last_value);
                self.all_but_last.push_str("\",");
            }
            self.all_but_last.push_str(name);
            self.last_value.clear();
            self.last_value.push_str(value);
        });
        self
    }
}

impl EncodeLabelSet for LabelText {
    /// The encoder takes a label's name as it is and escapes its value, so everything up to the
    /// last value goes in as a name.
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        (self.all_but_last.as_str(), self.last_value.as_str()).encode(encoder.encode_label())
    }
}

/// Appends a label's value; what is escaped is the same in both formats (OpenMetrics 1.0.0, ABNF:
/// `escaped-char`).
fn push_escaped(text: &mut String, value: &str) {
    if !value.contains(['\\', '"', '\n']) {
        return text.push_str(value);
    }
    for char in value.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            plain => text.push(plain),
        }
    }
}
