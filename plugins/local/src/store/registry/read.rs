//! Reading instances, from a read transaction and a write transaction alike.

use super::types::{InstanceState, ServiceSummary};
use crate::store::record::{InstanceRecord, OverrideRecord, decode};
use crate::store::tables::instance_key;
use crate::store::{Result, StoreError};
use redb::ReadableTable;
use std::ops::Bound::{Excluded, Unbounded};

type Key = &'static [u8];

/// What is stored of an instance.
pub(crate) fn record(
    instances: &impl ReadableTable<Key, Key>,
    service: &str,
    id: &str,
) -> Result<Option<InstanceRecord>> {
    match instances.get(instance_key(service, id).as_slice())? {
        None => Ok(None),
        Some(record) => decode("registry.instances", record.value()).map(Some),
    }
}

/// What is stored of an operator's word about an instance.
pub(crate) fn operator(
    overrides: &impl ReadableTable<Key, Key>,
    service: &str,
    id: &str,
) -> Result<Option<OverrideRecord>> {
    match overrides.get(instance_key(service, id).as_slice())? {
        None => Ok(None),
        Some(record) => decode("registry.overrides", record.value()).map(Some),
    }
}

/// What a scan of instances covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Service(String),
}

/// Instances in the order of their services and ids, after the given one.
pub(crate) fn scan(
    instances: &impl ReadableTable<Key, Key>,
    overrides: &impl ReadableTable<Key, Key>,
    scope: &Scope,
    after: Option<(&str, &str)>,
    limit: usize,
) -> Result<Vec<InstanceState>> {
    let first = match (after, scope) {
        (Some((service, id)), _) => instance_key(service, id),
        (None, Scope::Service(service)) => instance_key(service, ""),
        (None, Scope::All) => Vec::new(),
    };
    let mut states = Vec::new();
    for row in instances.range::<&[u8]>((Excluded(first.as_slice()), Unbounded))? {
        let (key, record) = row?;
        let (service, id) = split(key.value())?;
        if matches!(scope, Scope::Service(wanted) if wanted != service) || states.len() >= limit {
            break;
        }
        let record = decode("registry.instances", record.value())?;
        let operator = operator(overrides, service, id)?;
        states.push(InstanceState::from_records(service, id, record, operator));
    }
    Ok(states)
}

/// Services after the given one, in the order of their bytes.
pub(crate) fn services(
    instances: &impl ReadableTable<Key, Key>,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<ServiceSummary>, bool)> {
    // Behind all instances of the service: ids begin after the 0x00, and 0x01 begins no name.
    let first = after.map(|service| [service.as_bytes(), &[1]].concat()).unwrap_or_default();
    let mut services: Vec<ServiceSummary> = Vec::new();
    for row in instances.range::<&[u8]>(first.as_slice()..)? {
        let (key, _) = row?;
        let (service, _) = split(key.value())?;
        if let Some(last) = services.last_mut().filter(|last| last.name == service) {
            last.instances = last.instances.saturating_add(1);
            continue;
        }
        if services.len() >= limit {
            return Ok((services, true));
        }
        services.push(ServiceSummary { name: service.to_owned(), instances: 1 });
    }
    Ok((services, false))
}

pub(crate) fn split(key: &[u8]) -> Result<(&str, &str)> {
    std::str::from_utf8(key).ok().and_then(|key| key.split_once('\0')).ok_or_else(|| {
        StoreError::Damaged {
            table: "registry.instances",
            reason: "a key is not of the form `service 0x00 id`".into(),
        }
    })
}
