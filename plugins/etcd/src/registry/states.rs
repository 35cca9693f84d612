//! Instances as they are stored, and as readers see them.

use crate::wire::layout::Layout;
use crate::wire::messages::KeyValue;
use crate::wire::version;
use pintle_plugin_sdk::record::{InstanceRecord, decode_override};
use pintle_plugin_sdk::registry::{InstanceHealth, InstanceState, OperatorOverride};
use std::collections::BTreeMap;

/// Names an instance: service and id.
pub(super) type Name = (String, String);

/// One instance.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    record: InstanceRecord,
    /// The lease that keeps it; 0 for a persistent one.
    pub(super) lease: i64,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
}

impl Stored {
    /// The instance that a key holds; none when it holds something else, which is logged.
    pub(super) fn new(layout: &Layout, kv: KeyValue) -> Option<Self> {
        let key = || String::from_utf8_lossy(&kv.key).into_owned();
        let record = match InstanceRecord::decode(&kv.value) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(key = key(), %error, "not shown in the registry");
                return None;
            }
        };
        let named = (record.instance.service.clone(), record.instance.id.clone());
        if layout.instance_named(&kv.key) != Some(named) {
            tracing::warn!(key = key(), "not shown in the registry: its record has another name");
            return None;
        }
        let KeyValue { lease, create_revision, mod_revision, .. } = kv;
        Some(Self { record, lease, create_revision, mod_revision })
    }

    pub(super) fn name(&self) -> Name {
        let instance = &self.record.instance;
        (instance.service.clone(), instance.id.clone())
    }

    /// When it was registered, where that is known.
    pub(super) fn registered_ms(&self) -> Option<u64> {
        self.record.registered_ms
    }

    pub(super) fn is_ephemeral(&self) -> bool {
        self.lease != 0
    }

    /// What a reader sees.
    pub(super) fn state(self, operator: Option<OperatorOverride>) -> InstanceState {
        let ephemeral = self.is_ephemeral();
        InstanceState {
            instance: self.record.instance,
            operator,
            ephemeral,
            owner: self.record.owner,
            health: InstanceHealth::Unknown,
            version: version::to_text(self.mod_revision),
            registered_ms: self.record.registered_ms,
        }
    }
}

/// What operators say, by instance.
#[derive(Debug, Default)]
pub(super) struct Operators {
    by_name: BTreeMap<Name, OperatorOverride>,
}

impl Operators {
    pub(super) fn new(layout: &Layout, kvs: Vec<KeyValue>) -> Self {
        let mut operators = Self::default();
        for kv in kvs {
            if let Some(name) = layout.operator_named(&kv.key) {
                operators.set(name, &kv.value);
            }
        }
        operators
    }

    /// Reads what an operator says.
    pub(super) fn set(&mut self, name: Name, value: &[u8]) {
        match decode_override(value) {
            Ok(operator) => drop(self.by_name.insert(name, operator)),
            Err(error) => {
                tracing::warn!(service = name.0, id = name.1, %error, "an override is ignored");
                self.by_name.remove(&name);
            }
        }
    }

    pub(super) fn clear(&mut self, name: &Name) {
        self.by_name.remove(name);
    }

    pub(super) fn of(&self, service: &str, id: &str) -> Option<OperatorOverride> {
        self.by_name.get(&(service.to_owned(), id.to_owned())).cloned()
    }

    /// What a reader sees of an instance.
    pub(super) fn merged(&self, stored: Stored) -> InstanceState {
        let operator = self.by_name.get(&stored.name()).cloned();
        stored.state(operator)
    }
}
