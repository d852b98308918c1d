//! A service in the admin server's registry dump.

use serde::{Serialize, Serializer};

use super::{Service, Target};
use crate::prefix;
use crate::sniff::Name;

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut view = serializer.serialize_struct("Service", 11)?;
        view.serialize_field("entry", &self.entry)?;
        view.serialize_field("host", &self.cluster.value.service_name)?;
        let addresses: Vec<String> = self.addresses.iter().map(prefix::display).collect();
        view.serialize_field("addresses", &addresses)?;
        view.serialize_field("port", &self.port)?;
        view.serialize_field("name", &self.reach.by_name.map(|source| source.label()))?;
        view.serialize_field("resolution", self.resolution.label())?;
        let (endpoints, target_port) = match &self.target {
            Target::OriginalDestination { target_port } => (&[][..], *target_port),
            Target::Endpoints(endpoints) => (&**endpoints, None),
        };
        view.serialize_field("targetPort", &target_port)?;
        view.serialize_field("endpoints", endpoints)?;
        let names: Vec<&str> = self.resolved_names.iter().map(Name::as_str).collect();
        view.serialize_field("resolvedNames", &names)?;
        view.serialize_field("origin", &self.origin)?;
        view.serialize_field("stale", &self.is_stale)?;
        view.end()
    }
}
