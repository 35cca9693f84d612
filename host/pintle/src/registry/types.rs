//! What registry calls take and give.

use std::{sync::Arc, time::SystemTime};

/// One running node of a service, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The service that it is part of.
    pub service: String,
    /// Tells it apart within the service.
    pub id: String,
    /// Name or address under which it is reached.
    pub host: String,
    /// Port under which it is reached.
    pub port: u16,
    /// Version of its program; empty if unknown.
    pub version: String,
    /// Where it runs.
    pub zone: Option<String>,
    /// Share of the load, 0 to 10,000; 100 is usual.
    pub weight: u32,
    /// Whether it wants load.
    pub enabled: bool,
    /// At most 64, names up to 63 and values up to 1,024 bytes.
    pub labels: Vec<(String, String)>,
}

impl Instance {
    /// An enabled instance of weight 100.
    pub fn new(
        service: impl Into<String>,
        id: impl Into<String>,
        host: impl Into<String>,
        port: u16,
    ) -> Self {
        Self {
            service: service.into(),
            id: id.into(),
            host: host.into(),
            port,
            version: String::new(),
            zone: None,
            weight: 100,
            enabled: true,
            labels: Vec::new(),
        }
    }
}

/// What an operator says of an instance; it wins over what the instance says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Override {
    /// Takes it out of, or into, the load.
    pub enabled: Option<bool>,
    /// Its share of the load.
    pub weight: Option<u32>,
    /// Why, for other operators.
    pub note: String,
}

/// Whether the backend's own probes find an instance well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceHealth {
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
    /// The backend does not probe.
    Unknown,
}

/// An instance as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceState {
    /// What it says of itself.
    pub instance: Instance,
    /// What an operator says of it.
    pub operator: Option<Override>,
    /// True when it goes away with its owner's session.
    pub ephemeral: bool,
    /// Who keeps it alive.
    pub owner: String,
    /// What the backend's probes say.
    pub health: InstanceHealth,
    /// Opaque version.
    pub version: String,
    /// Since when, where the backend knows.
    pub registered: Option<SystemTime>,
}

impl InstanceState {
    /// Whether it should get load: the operator's word, or else its own.
    #[must_use]
    pub fn enabled(&self) -> bool {
        let operator = self.operator.as_ref().and_then(|operator| operator.enabled);
        operator.unwrap_or(self.instance.enabled)
    }

    /// Its share of the load: the operator's word, or else its own.
    #[must_use]
    pub fn weight(&self) -> u32 {
        let operator = self.operator.as_ref().and_then(|operator| operator.weight);
        operator.unwrap_or(self.instance.weight)
    }
}

/// A service and how many instances it has, whatever their state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSummary {
    /// Its name.
    pub name: String,
    /// Instances.
    pub instances: u32,
}

/// Outcome of adding a persistent instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddOutcome {
    /// It is stored.
    Stored,
    /// It exists, and replacing was not asked for, or a live owner keeps it.
    Taken(Box<InstanceState>),
}

/// Outcome of removing an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveOutcome {
    /// It is gone.
    Removed,
    /// There was none.
    Absent,
    /// A live owner keeps it: stop that, or disable it.
    Ephemeral,
}

/// How a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationStatus {
    /// It is listed.
    Registered,
    /// Renewal is in doubt, and why.
    Suspect(Arc<str>),
    /// It is not listed at the moment; it is being registered again.
    Lost(Arc<str>),
    /// Another live owner has the name now. Final.
    Taken(Arc<InstanceState>),
    /// It was given up by its owner. Final.
    Ended,
}

/// What a watch on instances delivers; as [`crate::config::WatchEvent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceEvent {
    /// Forget what you know: the whole state follows.
    SnapshotBegin,
    /// An instance appeared or changed.
    Put {
        /// What is there now.
        state: Arc<InstanceState>,
        /// What was there before.
        previous: Option<Arc<InstanceState>>,
    },
    /// An instance went away.
    Removed {
        /// Its service.
        service: Arc<str>,
        /// Its id.
        id: Arc<str>,
        /// What was there before.
        previous: Option<Arc<InstanceState>>,
    },
    /// The snapshot is complete.
    SnapshotEnd,
    /// Changes in between may have been missed, and why.
    Resync(Arc<str>),
}

/// One page of services.
#[derive(Debug, Clone)]
pub struct ServicesPage {
    /// In the order of their names' bytes.
    pub services: Vec<ServiceSummary>,
    /// Present when there may be more.
    pub next: Option<String>,
}

/// One page of a service's instances.
#[derive(Debug, Clone)]
pub struct InstancesPage {
    /// By id.
    pub instances: Vec<InstanceState>,
    /// Present when there may be more.
    pub next: Option<String>,
}
