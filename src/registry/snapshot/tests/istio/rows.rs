//! Chosen registries, connections and documents, and what Istio makes of them: by its own tests,
//! its validation and its simulation of Envoy. `tests/verdicts` has one in each line.

use super::*;

/// A registry under `REGISTRY_ONLY`.
#[derive(Deserialize)]
struct Lookups {
    about: String,
    /// The workload's.
    namespace: Option<String>,
    documents: Vec<serde_json::Value>,
    connections: Vec<Lookup>,
}

#[derive(Deserialize)]
struct Lookup {
    #[serde(flatten)]
    call: Call,
    /// Where it must be able to go.
    #[serde(default)]
    to: Vec<String>,
    #[serde(flatten)]
    kept: Option<Kept>,
}

/// Something on which Istio and Egret differ on purpose.
#[derive(Deserialize)]
struct Kept {
    /// What Egret says.
    here: String,
    /// Why.
    kept: String,
}

/// A document of the registry.
#[derive(Deserialize)]
struct OneDocument {
    about: String,
    text: String,
    /// `accept`, `refuse`, or `warn`.
    istio: String,
    #[serde(flatten)]
    kept: Option<Kept>,
}

#[test]
fn chosen_connections_are_decided_as_in_istio() {
    let mut count = 0;
    for line in include_str!("../../../../../tests/verdicts/lookups.jsonl").lines() {
        let lookups: Lookups = serde_json::from_str(line).unwrap();
        let parse = |document: &serde_json::Value| {
            service_entry::parse(&document.to_string(), Path::new("e.yaml")).unwrap().0
        };
        let entries: Vec<_> = lookups.documents.iter().flat_map(parse).collect();
        let mut config = Config::default();
        config.outbound_traffic_policy.mode = Mode::RegistryOnly;
        let workloads = workloads(lookups.namespace.as_deref());
        let (snapshot, _) =
            Snapshot::build(1, Arc::new(config), &entries, workloads, &Answers::default());
        for Lookup { call, to, kept } in lookups.connections {
            let Call { destination, speaks, name, istio, .. } = &call;
            let row = format!("{}: {destination} {speaks} {name:?}", lookups.about);
            let wanted = match &kept {
                Some(Kept { here, kept }) => {
                    assert_ne!(here, istio, "{row}: {kept}");
                    here
                }
                None => istio,
            };
            assert_eq!(verdict(&snapshot, &call), *wanted, "{row}");
            let goes_to = targets(&snapshot, &call);
            assert!(to.iter().all(|one| goes_to.contains(one)), "{row}: {goes_to:?}");
            count += 1;
        }
    }
    assert_eq!(count, 198);
}

/// The workload of this namespace that calls.
fn workloads(namespace: Option<&str>) -> Arc<Workloads> {
    let Some(namespace) = namespace else { return Arc::default() };
    let text = format!("workloads: [{{addresses: [{SOURCE}], namespace: {namespace}}}]");
    Arc::new(Workloads::parse(&text, Path::new("w.yaml"), "Kubernetes").unwrap().0)
}

/// Where the connection goes, if it finds a service.
fn targets(snapshot: &Snapshot, call: &Call) -> Vec<String> {
    let host = call.host();
    let decision = snapshot.decide(SOURCE, call.destination, call.shown(host.as_ref()));
    let Verdict::Service(service, matched) = decision.verdict else { return Vec::new() };
    match (service.destination(matched, call.destination), &service.target) {
        (Destination::Original { port, .. }, _) => {
            vec![SocketAddr::new(call.destination.ip(), port).to_string()]
        }
        (Destination::Endpoints, Target::Endpoints(list)) => {
            list.iter().flat_map(|one| [one.to_string(), one.ip().to_string()]).collect()
        }
        (Destination::Endpoints, Target::OriginalDestination { .. }) => panic!("no endpoints"),
        (Destination::Named { .. }, _) => vec![call.name.clone().expect("it shows a name")],
    }
}

#[test]
fn chosen_documents_are_accepted_or_refused_as_in_istio() {
    let mut count = 0;
    for line in include_str!("../../../../../tests/verdicts/documents.jsonl").lines() {
        let OneDocument { about, text, istio, kept } = serde_json::from_str(line).unwrap();
        let egret = match service_entry::parse(&text, Path::new("e.yaml")) {
            Err(_) => "refuse",
            Ok((_, warnings)) if warnings.is_empty() => "accept",
            Ok(_) => "warn",
        };
        let is_right = match &kept {
            Some(Kept { here, kept }) => {
                assert_ne!(*here, istio, "{about}: {kept}");
                egret == here
            }
            // A warning that says what Egret does not act on is no difference.
            None => egret == istio || (egret, &*istio) == ("warn", "accept"),
        };
        assert!(is_right, "{about}: Istio {istio}, Egret {egret}\n{text}");
        count += 1;
    }
    assert_eq!(count, 95);
}
