//! `pintle:registry`.

use super::time;
use crate::{
    plugin::bindings::registry as wit,
    registry::{Instance, InstanceHealth, InstanceState, Override},
};

pub(crate) fn to_instance(instance: Instance) -> wit::Instance {
    wit::Instance {
        service: instance.service,
        id: instance.id,
        host: instance.host,
        port: instance.port,
        version: instance.version,
        zone: instance.zone,
        weight: instance.weight,
        enabled: instance.enabled,
        labels: instance.labels,
    }
}

fn from_instance(instance: wit::Instance) -> Instance {
    Instance {
        service: instance.service,
        id: instance.id,
        host: instance.host,
        port: instance.port,
        version: instance.version,
        zone: instance.zone,
        weight: instance.weight,
        enabled: instance.enabled,
        labels: instance.labels,
    }
}

pub(crate) fn to_override(operator: Override) -> wit::OperatorOverride {
    let Override { enabled, weight, note } = operator;
    wit::OperatorOverride { enabled, weight, note }
}

pub(crate) fn state(state: wit::InstanceState) -> InstanceState {
    InstanceState {
        instance: from_instance(state.instance),
        operator: state.operator.map(|wit::OperatorOverride { enabled, weight, note }| Override {
            enabled,
            weight,
            note,
        }),
        ephemeral: state.ephemeral,
        owner: state.owner,
        health: match state.health {
            wit::Health::Healthy => InstanceHealth::Healthy,
            wit::Health::Unhealthy => InstanceHealth::Unhealthy,
            wit::Health::Unknown => InstanceHealth::Unknown,
        },
        version: state.version,
        registered: time(state.registered_ms),
    }
}
