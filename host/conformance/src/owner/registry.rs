//! The registry in short.

use pintle::direct::registry::{
    Instance, InstanceState, RegisterOutcome, Registration, ServiceSummary,
};

use super::{Owner, call};
use crate::check::{Outcome, Stop};

/// The one instance of a service that operators say anything of.
pub(crate) const OVERRULED: &str = "x";

/// An instance that wants load.
pub(crate) fn instance(service: &str, id: &str) -> Instance {
    Instance {
        service: service.to_owned(),
        id: id.to_owned(),
        host: "10.0.0.1".to_owned(),
        port: 8080,
        version: "1.2.3".to_owned(),
        zone: Some("eu-1".to_owned()),
        weight: 100,
        enabled: true,
        labels: vec![("colour".to_owned(), "blue".to_owned())],
    }
}

impl Owner {
    /// Registers: its number, or the owner that has the name.
    pub(crate) async fn try_register(
        &self,
        instance: Instance,
        ttl_ms: u32,
    ) -> Outcome<Result<u64, InstanceState>> {
        let id = self.id();
        let ask = |ttl_ms| {
            let registration = Registration { instance: instance.clone(), ttl_ms };
            self.raw.registry_register(call(), id, registration)
        };
        Ok(match self.with_ttl(ttl_ms, ask).await? {
            RegisterOutcome::Registered(_) => Ok(id),
            RegisterOutcome::Taken(state) => Err(state),
        })
    }

    /// Registers under a name that has to be free.
    pub(crate) async fn register(&self, instance: Instance, ttl_ms: u32) -> Outcome<u64> {
        let name = format!("{}/{}", instance.service, instance.id);
        self.try_register(instance, ttl_ms).await?.map_err(|state| {
            Stop::Broken(format!("{name} is free, and a register answers taken: {state:?}"))
        })
    }

    /// All instances of a service, over as many pages as there are.
    pub(crate) async fn instances(&self, service: &str) -> Outcome<Vec<InstanceState>> {
        let mut all = Vec::new();
        let mut page = None;
        for _ in 0..1_000 {
            let name = service.to_owned();
            let listing = self.raw.registry_instances(call(), name, page, 100, self.freshest());
            let found = listing.await?;
            all.extend(found.instances);
            page = found.next;
            if page.is_none() {
                return Ok(all);
            }
        }
        Err(Stop::Broken("a listing of instances did not end within 1,000 pages".into()))
    }

    /// One instance, if it is listed.
    pub(crate) async fn find(&self, service: &str, id: &str) -> Outcome<Option<InstanceState>> {
        let all = self.instances(service).await?;
        Ok(all.into_iter().find(|state| state.instance.id == id))
    }

    /// All services, over as many pages as there are.
    pub(crate) async fn services(&self) -> Outcome<Vec<ServiceSummary>> {
        let mut all = Vec::new();
        let mut page = None;
        for _ in 0..1_000 {
            let found = self.raw.registry_services(call(), page, 100).await?;
            all.extend(found.services);
            page = found.next;
            if page.is_none() {
                return Ok(all);
            }
        }
        Err(Stop::Broken("a listing of services did not end within 1,000 pages".into()))
    }
}
