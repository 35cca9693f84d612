//! Changing instances, inside a turn.

use super::feed::InstanceChange;
use super::read;
use super::types::{Added, Instance, InstanceState, Override, Register, Registered, Removed};
use crate::store::key::check_name;
use crate::store::lease::{Kept, check_ttl, incarnation_of};
use crate::store::record::{InstanceRecord, OverrideRecord, TableId};
use crate::store::tables::instance_key;
use crate::store::turn::Turn;
use crate::store::{Result, StoreError};
use prost::Message;
use std::sync::Arc;

/// Most labels of an instance.
pub const LABELS_MAX: usize = 64;
/// Most bytes of each text of an instance, but for its names and labels.
const TEXT_BYTES_MAX: usize = 1_024;

/// Whose registrations a repeated one may continue, besides those of named predecessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Nobody's.
    NamedOnly,
    /// Those of an earlier incarnation that had the same owner, for the same address: such an
    /// incarnation is gone for certain, since a store has one user at a time.
    SameOwnerAndAddress,
}

impl Turn<'_> {
    /// Registers an instance for as long as its lease lives.
    pub fn register(&mut self, register: &Register, adoption: Adoption) -> Result<Registered> {
        let Register { instance, ttl_ms, owner } = register;
        check_instance(instance)?;
        check_ttl(*ttl_ms)?;
        let (service, id) = (&instance.service, &instance.id);
        let now_ns = self.clock.monotonic_ns();
        let previous = self.instance(service, id)?;
        let mut registered_ms = self.clock.unix_ms();
        if let Some(state) = &previous {
            let live = state.lease.is_none_or(|lease| self.memory.leases.is_valid(lease, now_ns));
            if live && !self.may_adopt(state, register, adoption) {
                return Ok(Registered::Taken(Box::new(state.clone())));
            }
            if let Some(lease) = state.lease {
                self.memory.leases.remove(lease);
            }
            if live {
                registered_ms = state.registered_ms;
            }
        }
        let lease = self.next_lease()?;
        let record = InstanceRecord {
            lease,
            ttl_ms: *ttl_ms,
            owner: owner.clone(),
            registered_ms,
            ..instance.clone().into_record()
        };
        self.write_instance(service, id, record, previous)?;
        let kept = Kept::Instance(Arc::from(service.as_str()), Arc::from(id.as_str()));
        let validity = self.memory.leases.insert(lease, *ttl_ms, self.clock.monotonic_ns(), kept);
        Ok(Registered::Registered { lease, validity })
    }

    fn may_adopt(&self, state: &InstanceState, register: &Register, adoption: Adoption) -> bool {
        let Some(incarnation) = state.lease.map(incarnation_of) else { return false };
        if self.memory.predecessors.contains(&incarnation) {
            return true;
        }
        let instance = &state.instance;
        adoption == Adoption::SameOwnerAndAddress
            && incarnation != self.memory.incarnation
            && state.owner == register.owner
            && instance.host == register.instance.host
            && instance.port == register.instance.port
    }

    /// Replaces what an instance says of itself; answers false when the lease does not keep it any
    /// more.
    pub fn update(&mut self, lease: u64, instance: &Instance) -> Result<bool> {
        check_instance(instance)?;
        let Some((service, id)) = self.kept_instance(lease) else { return Ok(false) };
        if (instance.service.as_str(), instance.id.as_str()) != (&*service, &*id) {
            return Err(StoreError::invalid(format!(
                "the registration is of instance `{id}` of service `{service}`, and its name \
                 cannot change: deregister it and register another"
            )));
        }
        let Some(record) = read::record(self.tables.instances()?, &service, &id)? else {
            return Ok(false);
        };
        let previous = self.instance(&service, &id)?;
        let record = InstanceRecord {
            lease: record.lease,
            ttl_ms: record.ttl_ms,
            owner: record.owner,
            registered_ms: record.registered_ms,
            ..instance.clone().into_record()
        };
        self.write_instance(&service, &id, record, previous)?;
        Ok(true)
    }

    /// Removes the instance that a lease keeps; answers whether there was one.
    pub fn deregister(&mut self, lease: u64) -> Result<bool> {
        let Some((service, id)) = self.kept_instance(lease) else { return Ok(false) };
        self.memory.leases.remove(lease);
        self.remove_instance(&service, &id)?;
        Ok(true)
    }

    /// Stores an instance that nobody has to keep.
    pub fn add(&mut self, instance: &Instance, replace: bool, owner: &str) -> Result<Added> {
        check_instance(instance)?;
        let (service, id) = (&instance.service, &instance.id);
        self.expire_instance(service, id)?;
        let previous = self.instance(service, id)?;
        let mut registered_ms = self.clock.unix_ms();
        if let Some(state) = &previous {
            if state.lease.is_some() || !replace {
                return Ok(Added::Taken(Box::new(state.clone())));
            }
            registered_ms = state.registered_ms;
        }
        let owner = owner.to_owned();
        let record = InstanceRecord { owner, registered_ms, ..instance.clone().into_record() };
        self.write_instance(service, id, record, previous)?;
        Ok(Added::Stored)
    }

    /// Removes an instance that nobody keeps.
    pub fn remove(&mut self, service: &str, id: &str) -> Result<Removed> {
        check_name("name of a service", service)?;
        check_name("instance id", id)?;
        self.expire_instance(service, id)?;
        match self.instance(service, id)? {
            None => Ok(Removed::Absent),
            Some(state) if state.lease.is_some() => Ok(Removed::Ephemeral),
            Some(_) => {
                self.remove_instance(service, id)?;
                Ok(Removed::Removed)
            }
        }
    }

    /// Sets or clears what an operator says of an instance, existing or not.
    pub fn set_override(
        &mut self,
        service: &str,
        id: &str,
        operator: Option<Override>,
    ) -> Result<()> {
        check_name("name of a service", service)?;
        check_name("instance id", id)?;
        if let Some(operator) = &operator {
            check_override(operator)?;
        }
        let previous = self.instance(service, id)?;
        let record = read::record(self.tables.instances()?, service, id)?;
        let row = instance_key(service, id);
        match operator {
            Some(operator) => {
                let operator = OverrideRecord::from(operator).encode_to_vec();
                self.tables.insert(TableId::Overrides, row, operator)?;
            }
            None => self.tables.remove(TableId::Overrides, row)?,
        }
        // The instance gets a new revision, so that readers can tell which of two states is later.
        match record {
            Some(record) => self.write_instance(service, id, record, previous),
            None => Ok(()),
        }
    }

    /// Removes instances that nobody renewed in time.
    pub(crate) fn expire_instance(&mut self, service: &str, id: &str) -> Result<()> {
        let now_ns = self.clock.monotonic_ns();
        let lease = read::record(self.tables.instances()?, service, id)?.map(|record| record.lease);
        match lease {
            Some(lease) if lease != 0 && !self.memory.leases.is_valid(lease, now_ns) => {
                self.memory.leases.remove(lease);
                self.effects.ended(lease, "its time to live ran out");
                self.remove_instance(service, id)
            }
            _ => Ok(()),
        }
    }

    fn kept_instance(&self, lease: u64) -> Option<(Arc<str>, Arc<str>)> {
        match &self.memory.leases.lease(lease)?.kept {
            Kept::Instance(service, id) => Some((Arc::clone(service), Arc::clone(id))),
            Kept::Claim(_) => None,
        }
    }

    fn instance(&mut self, service: &str, id: &str) -> Result<Option<InstanceState>> {
        let Some(record) = read::record(self.tables.instances()?, service, id)? else {
            return Ok(None);
        };
        let operator = read::operator(self.tables.overrides()?, service, id)?;
        Ok(Some(InstanceState::from_records(service, id, record, operator)))
    }

    fn write_instance(
        &mut self,
        service: &str,
        id: &str,
        mut record: InstanceRecord,
        previous: Option<InstanceState>,
    ) -> Result<()> {
        record.revision = self.next_revision();
        let row = instance_key(service, id);
        self.tables.insert(TableId::Instances, row, record.encode_to_vec())?;
        let operator = read::operator(self.tables.overrides()?, service, id)?;
        let state = InstanceState::from_records(service, id, record, operator);
        let (service, id) = (service.to_owned(), id.to_owned());
        let change = InstanceChange { service, id, state: Some(state), previous };
        self.effects.instances.push(change);
        Ok(())
    }

    pub(crate) fn remove_instance(&mut self, service: &str, id: &str) -> Result<()> {
        let previous = self.instance(service, id)?;
        if previous.is_none() {
            return Ok(());
        }
        self.next_revision();
        self.tables.remove(TableId::Instances, instance_key(service, id))?;
        let (service, id) = (service.to_owned(), id.to_owned());
        self.effects.instances.push(InstanceChange { service, id, state: None, previous });
        Ok(())
    }
}

fn check_instance(instance: &Instance) -> Result<()> {
    check_name("name of a service", &instance.service)?;
    check_name("instance id", &instance.id)?;
    let texts = [
        ("host", instance.host.as_str()),
        ("version", &instance.version),
        ("zone", instance.zone.as_deref().unwrap_or_default()),
    ];
    for (what, text) in texts {
        if text.len() > TEXT_BYTES_MAX {
            return Err(StoreError::invalid(format!(
                "the {what} of an instance takes at most {TEXT_BYTES_MAX} bytes"
            )));
        }
    }
    check_weight(instance.weight)?;
    if instance.labels.len() > LABELS_MAX {
        return Err(StoreError::TooLarge {
            limit: "labels_max",
            what: "the number of labels",
            actual: instance.labels.len() as u64,
            max: LABELS_MAX as u64,
        });
    }
    for (name, value) in &instance.labels {
        if name.is_empty() || name.len() > 63 || value.len() > 1_024 {
            return Err(StoreError::invalid(
                "a label has a name of 1 to 63 bytes and a value of up to 1,024 bytes",
            ));
        }
    }
    Ok(())
}

fn check_override(operator: &Override) -> Result<()> {
    if let Some(weight) = operator.weight {
        check_weight(weight)?;
    }
    if operator.note.len() > TEXT_BYTES_MAX {
        return Err(StoreError::invalid(format!(
            "the note of an override takes at most {TEXT_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn check_weight(weight: u32) -> Result<()> {
    if weight > 10_000 {
        return Err(StoreError::invalid(format!("a weight is 0 to 10,000, not {weight}")));
    }
    Ok(())
}
