//! `pintle:registry`.

use std::{sync::Arc, time::Duration};

use super::config::page_len;
use crate::{
    config::Consistency,
    error::{Cause, Error},
    plugin::{
        actor::Operation,
        backend::{Backend, Call, Serving},
        bindings::registry as wit,
        convert::{self, bounds, millis, registry as from},
        loader::Exports,
        made::Made,
    },
    registry::{
        AddOutcome, Instance, InstanceState, InstancesPage, Override, RegistrationRecord,
        RegistrationStatus, RemoveOutcome, ServiceSummary, ServicesPage,
    },
};

const REGISTER: Operation = Operation::mutation("registry.register");
const REGISTER_AGAIN: Operation = REGISTER.patient();
const UPDATE: Operation = Operation::mutation("registry.update");
const DEREGISTER: Operation = Operation::mutation("registry.deregister");
const ADD: Operation = Operation::mutation("registry.add");
const REMOVE: Operation = Operation::mutation("registry.remove");
const SET_OVERRIDE: Operation = Operation::mutation("registry.set-override");
const SERVICES: Operation = Operation::read("registry.services");
const INSTANCES: Operation = Operation::read("registry.instances");
const WATCH: Operation = Operation::read("registry.watch").patient();

fn exports(exports: &Exports) -> wasmtime::Result<&wit::Guest> {
    exports.registry.as_ref().ok_or_else(|| wasmtime::format_err!("registry is not exported"))
}

impl Backend {
    /// Registers what `record` holds under its number, unless this incarnation has done so; answers
    /// the owner if the name is taken.
    ///
    /// The record is in the table of registrations already: an event may come before the answer.
    pub(crate) async fn registry_register(
        &self,
        timeout: Option<Duration>,
        record: &Arc<RegistrationRecord>,
    ) -> Result<Option<InstanceState>, Error> {
        self.register(Call::new(REGISTER, timeout), record).await
    }

    /// The same for a new incarnation, of which nobody asks it but the host.
    pub(crate) async fn registry_register_again(
        &self,
        record: &Arc<RegistrationRecord>,
    ) -> Result<Option<InstanceState>, Error> {
        self.register(Call::new(REGISTER_AGAIN, None), record).await
    }

    async fn register(
        &self,
        call: Call,
        record: &Arc<RegistrationRecord>,
    ) -> Result<Option<InstanceState>, Error> {
        let made = record.made.ensure(self, call.operation, async |serving| {
            if record.is_over() {
                return Ok(());
            }
            match self.register_on(call.on(&serving), &serving, record).await? {
                None => {
                    record.registered();
                    // By a caller that knew nothing of this request. Who deregisters it waits for it.
                    if record.is_abandoned() {
                        self.registry_close(record.id);
                    }
                }
                Some(owner) => record.taken(owner),
            }
            Ok(())
        });
        made.await?;
        Ok(match record.status() {
            RegistrationStatus::Taken(owner) => Some((*owner).clone()),
            _ => None,
        })
    }

    /// Asks one incarnation to register what `record` holds; answers the owner if the name is taken.
    async fn register_on(
        &self,
        call: Call,
        serving: &Arc<Serving>,
        record: &RegistrationRecord,
    ) -> Result<Option<InstanceState>, Error> {
        let registration = wit::Registration {
            instance: from::to_instance(record.instance()),
            ttl_ms: millis(record.ttl),
        };
        let id = record.id;
        let outcome = self.call(call, move |accessor, guest, context| {
            Box::pin(async move {
                exports(guest)?.call_register(accessor, context, id, registration).await
            })
        });
        match outcome.await? {
            wit::RegisterOutcome::Registered(_) => {
                record.kept_by(serving.number);
                Ok(None)
            }
            wit::RegisterOutcome::Taken(owner) => {
                bounds::instance(&owner)
                    .map_err(|problem| self.reject(REGISTER, serving, &problem))?;
                Ok(Some(from::state(owner)))
            }
        }
    }

    pub(crate) async fn registry_update(&self, id: u64, instance: Instance) -> Result<(), Error> {
        let instance = from::to_instance(instance);
        let updated = self.call(Call::new(UPDATE, None), move |accessor, guest, context| {
            Box::pin(
                async move { exports(guest)?.call_update(accessor, context, id, instance).await },
            )
        });
        updated.await
    }

    /// Takes out of the registry what `record` holds; its status is final already.
    ///
    /// An incarnation that ends without an answer leaves that to the next: what the plugin adopts of
    /// its predecessor would else be kept, as something that users still want.
    pub(crate) async fn registry_deregister(
        &self,
        record: &RegistrationRecord,
    ) -> Result<(), Error> {
        let told = self.deregister(record).await;
        if told.is_err() {
            // A plugin keeps what it was not able to take out, until it is told to let go of it.
            self.registry_close(record.id);
        }
        told
    }

    async fn deregister(&self, record: &RegistrationRecord) -> Result<(), Error> {
        let timeout = self.limits.call_timeout;
        let serving = self.serving(DEREGISTER, timeout).await?;
        let error = match self.deregister_on(&serving, record).await {
            Err(error) if matches!(error.cause(), Cause::Ended(_)) => error,
            told => return told,
        };
        match self.serving_after(&serving, timeout).await {
            Some(next) => self.deregister_on(&next, record).await,
            None => Err(error),
        }
    }

    /// The same on one incarnation. What it has not registered itself it adopts first.
    async fn deregister_on(
        &self,
        serving: &Arc<Serving>,
        record: &RegistrationRecord,
    ) -> Result<(), Error> {
        record.made.settled().await;
        let is_known = record.is_kept_by(serving.number);
        if !is_known {
            let adopting = Call::new(REGISTER_AGAIN, None).on(serving);
            if self.register_on(adopting, serving, record).await?.is_some() {
                // Another has the name, so this one is not listed.
                return Ok(());
            }
        }
        let (id, call) = (record.id, Call::new(DEREGISTER, None).on(serving));
        let gone = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_deregister(accessor, context, id).await })
        });
        gone.await
    }

    pub(crate) async fn registry_add(
        &self,
        timeout: Option<Duration>,
        instance: Instance,
        replace: bool,
    ) -> Result<AddOutcome, Error> {
        let call = Call::new(ADD, timeout).needs_if(true, "registry.persistent");
        let instance = from::to_instance(instance);
        let outcome = self.call(call, move |accessor, guest, context| {
            Box::pin(
                async move { exports(guest)?.call_add(accessor, context, instance, replace).await },
            )
        });
        Ok(match outcome.await? {
            wit::AddOutcome::Stored => AddOutcome::Stored,
            wit::AddOutcome::Taken(owner) => AddOutcome::Taken(Box::new(from::state(owner))),
        })
    }

    pub(crate) async fn registry_remove(
        &self,
        timeout: Option<Duration>,
        service: String,
        id: String,
    ) -> Result<RemoveOutcome, Error> {
        let call = Call::new(REMOVE, timeout).needs_if(true, "registry.persistent");
        let outcome = self.call(call, move |accessor, guest, context| {
            Box::pin(
                async move { exports(guest)?.call_remove(accessor, context, service, id).await },
            )
        });
        Ok(match outcome.await? {
            wit::RemoveOutcome::Removed => RemoveOutcome::Removed,
            wit::RemoveOutcome::Absent => RemoveOutcome::Absent,
            wit::RemoveOutcome::Ephemeral => RemoveOutcome::Ephemeral,
        })
    }

    pub(crate) async fn registry_set_override(
        &self,
        timeout: Option<Duration>,
        service: String,
        id: String,
        operator: Option<Override>,
    ) -> Result<(), Error> {
        let call = Call::new(SET_OVERRIDE, timeout).needs_if(true, "registry.override");
        let operator = operator.map(from::to_override);
        let set = self.call(call, move |accessor, guest, context| {
            Box::pin(async move {
                exports(guest)?.call_set_override(accessor, context, service, id, operator).await
            })
        });
        set.await
    }

    pub(crate) async fn registry_services(
        &self,
        timeout: Option<Duration>,
        page: Option<String>,
        limit: u32,
    ) -> Result<ServicesPage, Error> {
        let limit = page_len(limit);
        let page = self.call(Call::new(SERVICES, timeout), move |accessor, guest, context| {
            Box::pin(
                async move { exports(guest)?.call_services(accessor, context, page, limit).await },
            )
        });
        let wit::ServicesPage { services, next } = page.await?;
        let summary = |wit::ServiceSummary { name, instances }| ServiceSummary { name, instances };
        Ok(ServicesPage { services: services.into_iter().map(summary).collect(), next })
    }

    pub(crate) async fn registry_instances(
        &self,
        timeout: Option<Duration>,
        service: String,
        page: Option<String>,
        limit: u32,
        consistency: Consistency,
    ) -> Result<InstancesPage, Error> {
        let (limit, consistency) = (page_len(limit), convert::consistency(consistency));
        let page = self.call(Call::new(INSTANCES, timeout), move |accessor, guest, context| {
            Box::pin(async move {
                let guest = exports(guest)?;
                guest.call_instances(accessor, context, service, page, limit, consistency).await
            })
        });
        let wit::InstancesPage { instances, next } = page.await?;
        Ok(InstancesPage { instances: instances.into_iter().map(from::state).collect(), next })
    }

    /// Opens upstream watch `id`; its events come over the pump.
    pub(crate) async fn registry_watch(
        &self,
        made: &Made,
        id: u64,
        service: Option<String>,
    ) -> Result<(), Error> {
        let opened = made.ensure(self, WATCH, async |serving| {
            let call = Call::new(WATCH, None).on(&serving);
            self.call(call, move |accessor, guest, context| {
                Box::pin(
                    async move { exports(guest)?.call_watch(accessor, context, id, service).await },
                )
            })
            .await
        });
        opened.await.map(Option::unwrap_or_default)
    }

    /// Ends watch `id`, or gives up registration `id` without waiting for the server.
    pub(crate) fn registry_close(&self, id: u64) {
        let Some(serving) = self.serving_now() else { return };
        let runtime = self.shared.engine.host_runtime();
        serving.incarnation.post_urgent(&runtime, move |accessor, guest| {
            Box::pin(async move { exports(guest)?.call_close(accessor, id).await })
        });
    }
}
