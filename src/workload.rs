//! Who is the source: a source address names a workload.
//!
//! The first question a worker asks about an accepted connection; the answer fills the `source_*`
//! labels and decides nothing. The workloads file is decoded here and read by [`crate::load`].

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Serialize;

use crate::config::Config;
use crate::diagnostics::{Diagnostic, Diagnostics, Finding};
use crate::identity::Identity;
use crate::prefix::{self, Prefixes};
use crate::yaml::fields::Fields;
use crate::yaml::{self, Node, values};

/// What a label says that is not known.
pub(crate) const UNKNOWN: &str = "unknown";

/// One workload's identity, as it stands in the `source_*` labels. `None` prints as `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
pub struct Workload {
    /// `source_workload`.
    pub workload: Option<Box<str>>,
    /// `source_workload_namespace`.
    pub namespace: Option<Box<str>>,
    /// `source_app`, `source_canonical_service`.
    pub app: Option<Box<str>>,
    /// `source_version`, `source_canonical_revision`.
    pub version: Option<Box<str>>,
    /// `source_principal`.
    pub principal: Option<Box<str>>,
    /// `source_cluster`.
    pub cluster: Option<Box<str>>,
}

/// Source address or CIDR to workload; the longest prefix wins.
#[derive(Debug, Clone)]
pub struct Workloads {
    prefixes: Prefixes<Identity<Workload>>,
    len: usize,
    unknown: Identity<Workload>,
}

impl Default for Workloads {
    fn default() -> Self {
        Self::none(&Config::default().cluster_id)
    }
}

impl Workloads {
    /// No workload is known; all sources are in the cluster `cluster_id`.
    #[must_use]
    pub fn none(cluster_id: &str) -> Self {
        let unknown = Workload { cluster: Some(cluster_id.into()), ..Workload::default() };
        Self { prefixes: Prefixes::default(), len: 0, unknown: Identity::new(unknown) }
    }

    /// The workloads in `text`, which was read from `file`, and the warnings about it. They are in
    /// the cluster `cluster_id` if the file does not say another one.
    ///
    /// # Errors
    /// Every diagnostic found, when at least one of them is an error.
    pub fn parse(
        text: &str,
        file: &Path,
        cluster_id: &str,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut diagnostics = Diagnostics::new(file);
        let mut workloads = Self::none(cluster_id);
        match yaml::only_document(text) {
            Ok(root) => workloads.read(&root, &mut diagnostics),
            Err(finding) => {
                diagnostics.error(finding.fix("to name no workload, write `workloads: []`"));
            }
        }
        diagnostics.all_or_nothing(workloads)
    }

    /// The workload that owns `source`; the unknown one if none does.
    #[must_use]
    pub fn find(&self, source: IpAddr) -> &Identity<Workload> {
        let longest = self.prefixes.longest(source.to_canonical());
        longest.map_or(&self.unknown, |(_, workload)| workload)
    }

    /// How many workloads the file names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn read(&mut self, root: &Node<'_>, diagnostics: &mut Diagnostics) {
        let mut fields = Fields::of(root, "", diagnostics);
        let Some(node) = fields.get("workloads") else {
            let message = "there is no list `workloads`";
            fields
                .diagnostics()
                .error(Finding::at(root.line, message).fix("write `workloads:` first"));
            return fields.refuse_others();
        };
        match values::items(node) {
            Ok(items) => {
                for item in items {
                    self.add(item, fields.diagnostics());
                }
            }
            Err(finding) => fields.diagnostics().error(finding),
        }
        fields.refuse_others();
    }

    fn add(&mut self, node: &Node<'_>, diagnostics: &mut Diagnostics) {
        let mut fields = Fields::of(node, "workloads[]", diagnostics);
        let mut addresses: Vec<(usize, IpNet)> = Vec::new();
        fields.read("addresses", &mut addresses, |node| {
            values::list(node, |item| Ok((item.line, prefix::parse(item)?)))
        });
        let mut workload =
            Workload { cluster: self.unknown.value.cluster.clone(), ..Workload::default() };
        let slots = [
            ("workload", &mut workload.workload),
            ("namespace", &mut workload.namespace),
            ("app", &mut workload.app),
            ("version", &mut workload.version),
            ("principal", &mut workload.principal),
            ("cluster", &mut workload.cluster),
        ];
        for (name, slot) in slots {
            fields.read_optional(name, slot, label);
        }
        if let Some(missing) = dropped_by_kiali(&workload) {
            let message =
                format!("Kiali drops the series of a workload with a namespace and {missing}");
            let fix = "write it, or leave out the namespace";
            fields.diagnostics().warning(Finding::at(node.line, message).fix(fix));
        }
        if addresses.is_empty() && fields.get("addresses").is_none_or(values::is_empty_list) {
            let fix = "list the workload's addresses under `addresses`";
            let finding = Finding::at(node.line, "a workload without addresses owns no connection");
            fields.diagnostics().error(finding.fix(fix));
        }
        let workload = Identity::new(workload);
        self.len += 1;
        for (line, prefix) in addresses {
            if self.prefixes.get(&prefix).is_some() {
                let message = format!(
                    "{} belongs to an earlier workload in this file",
                    prefix::display(&prefix)
                );
                let fix = "the earlier one keeps it; remove one of them";
                fields.diagnostics().warning(Finding::at(line, message).fix(fix));
            } else {
                self.prefixes.insert(prefix, workload.clone());
            }
        }
        fields.refuse_others();
    }
}

/// What Kiali misses in the series of `workload`, if it takes them for bad ones: those with a
/// namespace, and without a name or a cluster (`IsBadSourceTelemetry` in Kiali's
/// `graph/telemetry/istio/util`).
fn dropped_by_kiali(workload: &Workload) -> Option<&'static str> {
    let is_known =
        |label: &Option<Box<str>>| label.as_deref().is_some_and(|label| label != UNKNOWN);
    if !is_known(&workload.namespace) {
        return None;
    }
    if !is_known(&workload.workload) && !is_known(&workload.app) {
        return Some("neither `workload` nor `app`");
    }
    (!is_known(&workload.cluster)).then_some("no `cluster`")
}

/// The value of a label.
pub(crate) fn label(node: &Node<'_>) -> Result<Box<str>, Finding> {
    /// Longer than any Kubernetes name or SPIFFE ID in use; a label is repeated in every series.
    const BYTES_MAX: usize = 512;
    let text = values::text(node)?;
    if text.is_empty() {
        return Err(Finding::at(node.line, "is empty").fix("leave it out: it prints as unknown"));
    }
    if text.len() > BYTES_MAX {
        return Err(Finding::at(node.line, format!("is longer than {BYTES_MAX} bytes")));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests;
