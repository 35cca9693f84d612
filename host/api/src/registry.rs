//! Registry: services and their instances.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Consistency;

/// What an instance says of itself; its service and id stand in the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// Name or address under which it is reached.
    pub host: String,
    /// Port under which it is reached.
    pub port: u16,
    /// Version of its program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Share of the load, 0 to 10,000; 100 is usual.
    #[serde(default = "usual_weight")]
    pub weight: u32,
    /// Whether it wants load.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// At most 64, names up to 63 and values up to 1,024 bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl InstanceSpec {
    /// An enabled instance of weight 100.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            version: String::new(),
            zone: None,
            weight: usual_weight(),
            enabled: true,
            labels: BTreeMap::new(),
        }
    }
}

fn usual_weight() -> u32 {
    100
}

fn yes() -> bool {
    true
}

/// Request to register an instance, or to renew and change its registration.
///
/// The server keeps it registered while this request, or a keepalive, comes again within `ttl_ms`;
/// a persistent one stays until it is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// What it says of itself.
    pub instance: InstanceSpec,
    /// Who registers: chosen by the client, unique, the same in each request. While somebody else
    /// keeps the instance registered here, the answer is `taken`. Empty is an owner like any other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// How long it is kept without a sign of life, 2,000 to 3,600,000.
    #[serde(default = "usual_ttl_ms")]
    pub ttl_ms: u64,
    /// Store it once and for all, without anybody who keeps it alive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub persistent: bool,
    /// Replace a persistent one that is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// Time for which an instance is kept without a sign of life, unless something else is asked for.
#[must_use]
pub fn usual_ttl_ms() -> u64 {
    15_000
}

/// Query of a keepalive, or of a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields, default)]
pub struct OwnerQuery {
    /// The owner that the instance was registered with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// How a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum RegistrationStatus {
    /// It is listed.
    Registered,
    /// Renewal at the backend is in doubt.
    Suspect,
    /// It is not listed at the moment; it is being registered again.
    Lost,
}

/// Answer to a registration and to a keepalive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Registration {
    /// How it stands at the backend.
    pub status: RegistrationStatus,
    /// Why, where it does not stand well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds from the sending of the request until the server gives it up, unless it hears
    /// again; absent for a persistent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_for_ms: Option<u64>,
}

/// Outcome of a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Removed {
    /// Whether there was something to remove.
    pub removed: bool,
}

/// What an operator says of an instance; it wins over what the instance says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Takes it out of, or into, the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Its share of the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Why, for other operators.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Whether the backend's own probes find an instance well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum InstanceHealth {
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
    /// The backend does not probe.
    #[default]
    #[serde(other)]
    Unknown,
}

/// An instance as readers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InstanceState {
    /// The service that it is part of.
    pub service: String,
    /// Tells it apart within the service.
    pub id: String,
    /// Name or address under which it is reached.
    pub host: String,
    /// Port under which it is reached.
    pub port: u16,
    /// Whether it should get load, the operator's word included.
    pub enabled: bool,
    /// Its share of the load, the operator's word included.
    pub weight: u32,
    /// Version of its program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Names and values.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What an operator says of it.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub operator: Option<Override>,
    /// True when it goes away with its owner.
    pub ephemeral: bool,
    /// Who keeps it alive.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// What the backend's probes say.
    #[serde(default)]
    pub health: InstanceHealth,
    /// Opaque version of what is stored.
    pub version: String,
    /// Since when, in milliseconds of the Unix epoch, where the backend knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_ms: Option<u64>,
}

/// A service and how many instances it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Instances, whatever their state.
    pub instances: u32,
}

/// Query of a listing of services or instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Most members of a page, 1 to 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Without one: the strongest that the backend declares. Instances only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// One page of services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ServicesPage {
    /// The services.
    pub services: Vec<Service>,
    /// Present when there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One page of instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InstancesPage {
    /// The instances.
    pub instances: Vec<InstanceState>,
    /// Present when there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Query of a watch on instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields, default)]
pub struct WatchQuery {
    /// Watch this service only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}
