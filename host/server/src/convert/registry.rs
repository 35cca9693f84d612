//! Registry.

use pintle::registry as host;
use pintle_api::{
    event::{InstanceEvent, InstancePut, InstanceRemoved, Resync},
    registry as api,
};

use super::epoch_ms;

pub(crate) fn instance(service: String, id: String, spec: api::InstanceSpec) -> host::Instance {
    host::Instance {
        service,
        id,
        host: spec.host,
        port: spec.port,
        version: spec.version,
        zone: spec.zone,
        weight: spec.weight,
        enabled: spec.enabled,
        labels: spec.labels.into_iter().collect(),
    }
}

pub(crate) fn state(state: &host::InstanceState) -> api::InstanceState {
    let instance = &state.instance;
    api::InstanceState {
        service: instance.service.clone(),
        id: instance.id.clone(),
        host: instance.host.clone(),
        port: instance.port,
        enabled: state.enabled(),
        weight: state.weight(),
        program_version: instance.version.clone(),
        zone: instance.zone.clone(),
        labels: instance.labels.iter().cloned().collect(),
        operator: state.operator.clone().map(|operator| api::Override {
            enabled: operator.enabled,
            weight: operator.weight,
            note: operator.note,
        }),
        ephemeral: state.ephemeral,
        owner: state.owner.clone(),
        health: match state.health {
            host::InstanceHealth::Healthy => api::InstanceHealth::Healthy,
            host::InstanceHealth::Unhealthy => api::InstanceHealth::Unhealthy,
            host::InstanceHealth::Unknown => api::InstanceHealth::Unknown,
        },
        version: state.version.clone(),
        registered_ms: state.registered.map(epoch_ms),
    }
}

pub(crate) fn operator(operator: api::Override) -> host::Override {
    host::Override { enabled: operator.enabled, weight: operator.weight, note: operator.note }
}

pub(crate) fn event(event: host::InstanceEvent) -> InstanceEvent {
    match event {
        host::InstanceEvent::SnapshotBegin => InstanceEvent::SnapshotBegin,
        host::InstanceEvent::SnapshotEnd => InstanceEvent::SnapshotEnd,
        host::InstanceEvent::Resync(reason) => {
            InstanceEvent::Resync(Resync { reason: reason.to_string() })
        }
        host::InstanceEvent::Put { state: present, previous } => {
            InstanceEvent::Put(Box::new(InstancePut {
                instance: state(&present),
                previous: previous.as_deref().map(state),
            }))
        }
        host::InstanceEvent::Removed { service, id, previous } => {
            InstanceEvent::Removed(Box::new(InstanceRemoved {
                service: service.to_string(),
                id: id.to_string(),
                previous: previous.as_deref().map(state),
            }))
        }
    }
}
