//! `pintle:registry`: a key for each instance, kept by a lease; what operators say stands apart.

mod keeper;
mod states;
mod watch;

pub use keeper::Registration;
pub(crate) use keeper::Registrations;

use crate::client::{DELETE_RANGE, Lane, PUT, TXN};
use crate::etcd::Etcd;
use crate::lock::unix_ms;
use crate::reader::Read;
use crate::wire::layout::Range;
use crate::wire::messages::{
    Compare, CompareResult, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request,
    RequestOp, Response, TxnRequest, TxnResponse,
};
use bytes::Bytes;
use pintle_plugin_sdk::record::{InstanceRecord, encode_override};
use pintle_plugin_sdk::registry::{
    AddOutcome, Consistency, Instance, InstancesPage, OperatorOverride, RegisterRequest,
    Registered, RegistrationReporter, Registry, RemoveOutcome, ServiceSummary, ServicesPage,
    WatchSink,
};
use pintle_plugin_sdk::{Context, Error};
use states::{Operators, Stored};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

/// How often a persistent instance is written when others write it too.
const ADD_ATTEMPTS_MAX: usize = 8;

impl Registry for Etcd {
    type Registration = Registration;

    async fn register(
        self: Rc<Self>,
        cx: &Context,
        request: RegisterRequest,
        reporter: RegistrationReporter,
    ) -> Result<Registered<Registration>, Error> {
        self.register_instance(cx, request, reporter).await
    }

    async fn update(
        &self,
        cx: &Context,
        registration: Rc<Registration>,
        instance: Instance,
    ) -> Result<(), Error> {
        self.update_instance(cx, &registration, instance).await
    }

    async fn deregister(&self, cx: &Context, registration: Rc<Registration>) -> Result<(), Error> {
        self.deregister_instance(cx, &registration).await
    }

    async fn add(
        &self,
        cx: &Context,
        instance: Instance,
        replace: bool,
    ) -> Result<AddOutcome, Error> {
        let key = self.layout.instance(&instance.service, &instance.id);
        let value = Bytes::from(self.record(instance, unix_ms()).encode()?);
        let put = || PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        let mut condition = Compare::created(key.clone(), CompareResult::Equal, 0);
        for _ in 0..ADD_ATTEMPTS_MAX {
            let request = TxnRequest {
                compare: vec![condition],
                success: vec![Request::Put(put()).into()],
                failure: self.look(&key),
            };
            let answer = self.client.call(cx, Lane::Data, TXN, request).await?;
            if answer.succeeded {
                return Ok(AddOutcome::Stored);
            }
            condition = match self.found(answer)? {
                None => Compare::created(key.clone(), CompareResult::Equal, 0),
                Some(found) if replace && !found.is_ephemeral() => {
                    Compare::modified(key.clone(), CompareResult::Equal, found.mod_revision)
                }
                Some(found) => {
                    return Ok(AddOutcome::Taken(found.state(self.operator_of(cx, &key).await?)));
                }
            };
        }
        Err(Error::conflict("others write this instance all the time; nothing was stored"))
    }

    async fn remove(
        &self,
        cx: &Context,
        service: String,
        id: String,
    ) -> Result<RemoveOutcome, Error> {
        let key = self.layout.instance(&service, &id);
        let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
        let request = TxnRequest {
            compare: vec![
                Compare::created(key.clone(), CompareResult::Greater, 0),
                Compare::attached(key.clone(), 0),
            ],
            success: vec![Request::DeleteRange(delete).into()],
            failure: self.look(&key),
        };
        let answer = self.client.call(cx, Lane::Data, TXN, request).await?;
        if answer.succeeded {
            return Ok(RemoveOutcome::Removed);
        }
        let is_there = found_key(answer).is_some();
        Ok(if is_there { RemoveOutcome::Ephemeral } else { RemoveOutcome::Absent })
    }

    async fn set_override(
        &self,
        cx: &Context,
        service: String,
        id: String,
        operator: Option<OperatorOverride>,
    ) -> Result<(), Error> {
        let key = self.layout.operator(&service, &id);
        match operator {
            Some(operator) => {
                let value = encode_override(&operator)?.into();
                let put = PutRequest { key, value, ..Default::default() };
                self.client.call(cx, Lane::Data, PUT, put).await?;
            }
            None => {
                let delete = DeleteRangeRequest { key, ..Default::default() };
                self.client.call(cx, Lane::Data, DELETE_RANGE, delete).await?;
            }
        }
        Ok(())
    }

    async fn services(
        &self,
        cx: &Context,
        page: Option<String>,
        limit: u32,
    ) -> Result<ServicesPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // All of them for each page: etcd sorts `web-admin/…` before `web/…`, names do not.
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut rest = Some(self.layout.instances(None));
        while let Some(range) = rest.take() {
            let read = Read {
                range: range.clone(),
                revision: 0,
                consistency: Consistency::Linearizable,
                keys_only: true,
            };
            let part = self.reader.part(cx, read, usize::MAX).await?;
            if part.more {
                rest = part.kvs.last().and_then(|last| range.after(&last.key));
            }
            for kv in part.kvs {
                if let Some((name, _)) = self.layout.instance_named(&kv.key) {
                    *counts.entry(name).or_default() += 1;
                }
            }
        }
        let after = page.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = counts.range((after, Bound::Unbounded));
        let summary = |(name, instances): (&String, &u32)| ServiceSummary {
            name: name.clone(),
            instances: *instances,
        };
        let services: Vec<_> = found.by_ref().take(limit).map(summary).collect();
        let next = services.last().filter(|_| found.next().is_some());
        let next = next.map(|service| service.name.clone());
        Ok(ServicesPage { services, next })
    }

    async fn instances(
        &self,
        cx: &Context,
        service: String,
        page: Option<String>,
        limit: u32,
        consistency: Consistency,
    ) -> Result<InstancesPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut rest = Some(self.layout.instances(Some(&service)));
        if let Some(page) = &page {
            let last = self.layout.instance(&service, page);
            rest = rest.and_then(|range| range.after(&last));
        }
        let (mut stored, mut next, mut revision) = (Vec::new(), None, 0);
        while let Some(range) = rest.take() {
            let room = limit.saturating_sub(stored.len());
            let read = Read { range: range.clone(), revision, consistency, keys_only: false };
            let part = self.reader.part(cx, read, room).await?;
            revision = part.revision;
            let last = part.kvs.last().map(|last| last.key.clone()).filter(|_| part.more);
            stored.extend(part.kvs.into_iter().filter_map(|kv| Stored::new(&self.layout, kv)));
            if let Some(last) = last {
                next = self.layout.instance_named(&last).map(|(_, id)| id);
                // A key that names no instance cannot end a page.
                rest = if next.is_none() { range.after(&last) } else { None };
            }
        }
        let mut operators = Operators::default();
        if !stored.is_empty() {
            // Of the same moment as the instances.
            let range = self.layout.operators(Some(&service));
            let kvs = self.reader.all(cx, range, revision).await?;
            operators = Operators::new(&self.layout, kvs);
        }
        let instances = stored.into_iter().map(|stored| operators.merged(stored)).collect();
        Ok(InstancesPage { instances, next })
    }

    async fn watch(self: Rc<Self>, service: Option<String>, sink: WatchSink) -> Result<(), Error> {
        self.follow_registry(service, sink).await
    }
}

impl Etcd {
    /// The record of an instance that this backend keeps.
    fn record(&self, instance: Instance, registered_ms: u64) -> InstanceRecord {
        InstanceRecord { instance, owner: self.owner.clone(), registered_ms: Some(registered_ms) }
    }

    /// Operations that read what stands in the way.
    fn look(&self, key: &[u8]) -> Vec<RequestOp> {
        let range = RangeRequest { key: key.to_vec(), ..RangeRequest::default() };
        vec![Request::Range(range).into()]
    }

    /// What [`look`](Self::look) found.
    ///
    /// # Errors
    ///
    /// `conflict` when something is there that is no instance.
    fn found(&self, answer: TxnResponse) -> Result<Option<Stored>, Error> {
        let Some(kv) = found_key(answer) else { return Ok(None) };
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        let unreadable =
            || Error::conflict(format!("`{key}` holds something that is no instance: delete it"));
        Stored::new(&self.layout, kv).map(Some).ok_or_else(unreadable)
    }

    /// What an operator says of the instance with this key.
    async fn operator_of(
        &self,
        cx: &Context,
        instance: &[u8],
    ) -> Result<Option<OperatorOverride>, Error> {
        let Some((service, id)) = self.layout.instance_named(instance) else { return Ok(None) };
        let range = Range::of_key(self.layout.operator(&service, &id));
        let kvs = self.reader.all(cx, range, 0).await?;
        Ok(Operators::new(&self.layout, kvs).of(&service, &id))
    }
}

fn found_key(answer: TxnResponse) -> Option<KeyValue> {
    answer.responses.into_iter().find_map(|op| match op.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    })
}
