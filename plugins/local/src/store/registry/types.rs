//! Requests and answers about instances.

use crate::store::lease::Validity;
use crate::store::record::{InstanceRecord, Label, OverrideRecord};

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The service that it is one of.
    pub service: String,
    /// Its name among the instances of the service.
    pub id: String,
    /// Where it listens.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Version of the program.
    pub version: String,
    /// Where it runs.
    pub zone: Option<String>,
    /// Share of the load.
    pub weight: u32,
    /// Whether it wants load.
    pub enabled: bool,
    /// Anything else.
    pub labels: Vec<(String, String)>,
}

/// What an operator says of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Whether it shall get load.
    pub enabled: Option<bool>,
    /// Its share of the load.
    pub weight: Option<u32>,
    /// Why.
    pub note: String,
}

/// What a reader sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceState {
    /// What the instance says of itself.
    pub instance: Instance,
    /// What an operator says of it.
    pub operator: Option<Override>,
    /// The lease that keeps it; none when nobody has to.
    pub lease: Option<u64>,
    /// Who keeps it.
    pub owner: String,
    /// Revision of the last change, the operator's included.
    pub revision: u64,
    /// When it was registered, in milliseconds of the Unix epoch.
    pub registered_ms: u64,
}

/// A request to register an instance for as long as its owner lives.
#[derive(Clone, Debug)]
pub struct Register {
    /// The instance.
    pub instance: Instance,
    /// How long it stays after the last renewal, in milliseconds.
    pub ttl_ms: u32,
    /// Who keeps it.
    pub owner: String,
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It is registered.
    Registered {
        /// Number of the lease that keeps it.
        lease: u64,
        /// Until when.
        validity: Validity,
    },
    /// Another live owner has the name.
    Taken(Box<InstanceState>),
}

/// What became of adding an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is stored.
    Stored,
    /// There is one already.
    Taken(Box<InstanceState>),
}

/// What became of removing an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Removed,
    /// There was none.
    Absent,
    /// A live owner keeps it.
    Ephemeral,
}

/// A service and how many instances it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSummary {
    /// The service.
    pub name: String,
    /// Instances, whatever their state.
    pub instances: u32,
}

impl Instance {
    pub(crate) fn into_record(self) -> InstanceRecord {
        let labels = self.labels.into_iter().map(|(name, value)| Label { name, value }).collect();
        InstanceRecord {
            host: self.host,
            port: self.port.into(),
            version: self.version,
            zone: self.zone,
            weight: self.weight,
            enabled: self.enabled,
            labels,
            ..InstanceRecord::default()
        }
    }
}

impl InstanceState {
    pub(crate) fn from_records(
        service: &str,
        id: &str,
        record: InstanceRecord,
        operator: Option<OverrideRecord>,
    ) -> Self {
        let labels = record.labels.into_iter().map(|label| (label.name, label.value)).collect();
        Self {
            instance: Instance {
                service: service.to_owned(),
                id: id.to_owned(),
                host: record.host,
                port: u16::try_from(record.port).unwrap_or_default(),
                version: record.version,
                zone: record.zone,
                weight: record.weight,
                enabled: record.enabled,
                labels,
            },
            operator: operator.map(Override::from),
            lease: (record.lease != 0).then_some(record.lease),
            owner: record.owner,
            revision: record.revision,
            registered_ms: record.registered_ms,
        }
    }
}

impl From<OverrideRecord> for Override {
    fn from(record: OverrideRecord) -> Self {
        Self { enabled: record.enabled, weight: record.weight, note: record.note }
    }
}

impl From<Override> for OverrideRecord {
    fn from(operator: Override) -> Self {
        Self { enabled: operator.enabled, weight: operator.weight, note: operator.note }
    }
}
