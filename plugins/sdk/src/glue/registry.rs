use super::{Incarnation, poll};
use crate::bindings::wire::{registry as wire, types};
use crate::calls::Kind;
use crate::handles::Request;
use crate::registry::{Registered, RegistrationReporter, Registry, WatchSink};
use crate::watch::Feed;
use crate::{Error, Feature, admit};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;
use types::Context;

/// Exports `pintle:registry` for a plugin.
pub struct RegistryGlue<P>(PhantomData<P>);

/// A registration with the name that it keeps for its life.
struct Named<R> {
    service: String,
    instance: String,
    registration: Rc<R>,
}

impl<R> Named<R> {
    /// # Errors
    ///
    /// `invalid` when `instance` has another name: a plugin would store it in the wrong place.
    fn require(&self, instance: &wire::Instance) -> Result<(), Error> {
        let Self { service, instance: id, .. } = self;
        if instance.service == *service && instance.id == *id {
            return Ok(());
        }
        let (other, other_id) = (&instance.service, &instance.id);
        Err(Error::invalid(format!(
            "{service}/{id} cannot become {other}/{other_id}: register that, and deregister this"
        )))
    }
}

impl<P: Registry> wire::Guest for RegistryGlue<P> {
    async fn register(
        ctx: Context,
        id: u64,
        registration: wire::Registration,
    ) -> Result<wire::RegisterOutcome, types::Error> {
        let own = Incarnation::current();
        admit::ttl(registration.ttl_ms)?;
        let plugin = own.plugin::<P>()?;
        let removing = Rc::clone(&plugin);
        let (service, instance) =
            (registration.instance.service.clone(), registration.instance.id.clone());
        let ask = Request {
            operation: "registry.register",
            id,
            ttl: Duration::from_millis(registration.ttl_ms.into()),
            begin: async move |cx: &crate::Context, reporter| {
                let reporter = RegistrationReporter::new(reporter);
                Ok(match plugin.register(cx, registration, reporter).await? {
                    Registered::Registered { registration, validity } => {
                        let told = wire::RegisterOutcome::Registered(validity.into());
                        let registration = Rc::new(registration);
                        (Some(Named { service, instance, registration }), told)
                    }
                    Registered::Taken(by) => (None, wire::RegisterOutcome::Taken(by)),
                })
            },
            give_back: move |cx, named: Rc<Named<P::Registration>>| {
                let (plugin, registration) = (Rc::clone(&removing), Rc::clone(&named.registration));
                Box::pin(async move { plugin.deregister(&cx, registration).await }) as _
            },
            events: PhantomData,
        };
        own.registry.open(&own.calls, ctx, ask).await
    }

    async fn update(ctx: Context, id: u64, instance: wire::Instance) -> Result<(), types::Error> {
        let own = Incarnation::current();
        let named = own.registry.object::<Named<P::Registration>>(id).ok_or_else(|| {
            Error::invalid(format!("registration {id} is not open, so it cannot be updated"))
        })?;
        named.require(&instance)?;
        let registration = Rc::clone(&named.registration);
        own.call("registry.update", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.update(cx, registration, instance).await
        })
        .await
    }

    async fn deregister(ctx: Context, id: u64) -> Result<(), types::Error> {
        let own = Incarnation::current();
        let Some(named) = own.registry.object::<Named<P::Registration>>(id) else {
            return Ok(());
        };
        let registration = Rc::clone(&named.registration);
        own.call("registry.deregister", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.deregister(cx, registration).await
        })
        .await?;
        own.registry.remove(id);
        Ok(())
    }

    async fn add(
        ctx: Context,
        instance: wire::Instance,
        replace: bool,
    ) -> Result<wire::AddOutcome, types::Error> {
        let own = Incarnation::current();
        own.features().require(true, Feature::RegistryPersistent)?;
        own.call("registry.add", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.add(cx, instance, replace).await
        })
        .await
    }

    async fn remove(
        ctx: Context,
        service: String,
        id: String,
    ) -> Result<wire::RemoveOutcome, types::Error> {
        let own = Incarnation::current();
        own.features().require(true, Feature::RegistryPersistent)?;
        own.call("registry.remove", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.remove(cx, service, id).await
        })
        .await
    }

    async fn set_override(
        ctx: Context,
        service: String,
        id: String,
        operator: Option<wire::OperatorOverride>,
    ) -> Result<(), types::Error> {
        let own = Incarnation::current();
        own.features().require(true, Feature::RegistryOverride)?;
        own.call("registry.set-override", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.set_override(cx, service, id, operator).await
        })
        .await
    }

    async fn services(
        ctx: Context,
        page: Option<String>,
        limit: u32,
    ) -> Result<wire::ServicesPage, types::Error> {
        admit::page_limit(limit)?;
        Incarnation::current()
            .call("registry.services", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
                plugin.services(cx, page, limit).await
            })
            .await
    }

    async fn instances(
        ctx: Context,
        service: String,
        page: Option<String>,
        limit: u32,
        consistency: types::Consistency,
    ) -> Result<wire::InstancesPage, types::Error> {
        admit::page_limit(limit)?;
        Incarnation::current()
            .call("registry.instances", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
                plugin.instances(cx, service, page, limit, consistency).await
            })
            .await
    }

    async fn watch(_: Context, id: u64, service: Option<String>) -> Result<(), types::Error> {
        let own = Incarnation::current();
        let plugin = own.plugin::<P>()?;
        let feed = Feed::new(own.registry.open_channel(id)?, false);
        own.registry.feed(id, async move {
            let sink = WatchSink::new(feed.clone());
            if let Err(error) = plugin.watch(service, sink).await {
                feed.end(error);
            }
        });
        Ok(())
    }

    fn close(id: u64) {
        Incarnation::current().registry.close(id);
    }

    async fn poll(ctx: Context, max_events: u32) -> Result<Vec<(u64, wire::Event)>, types::Error> {
        Ok(poll(&Incarnation::current().registry.outbox, ctx, max_events).await)
    }
}
