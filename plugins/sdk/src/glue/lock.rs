use super::{Incarnation, poll};
use crate::bindings::wire::{lock as wire, types};
use crate::calls::Kind;
use crate::handles::Request;
use crate::lock::{Acquired, LeaseReporter, Lock, WatchSink};
use crate::{Feature, admit};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;
use types::Context;

/// Exports `pintle:lock` for a plugin.
pub struct LockGlue<P>(PhantomData<P>);

impl<P: Lock> wire::Guest for LockGlue<P> {
    async fn acquire(
        ctx: Context,
        id: u64,
        request: wire::AcquireRequest,
    ) -> Result<wire::AcquireOutcome, types::Error> {
        let own = Incarnation::current();
        admit::acquire(&own.features(), &request)?;
        let plugin = own.plugin::<P>()?;
        let releasing = Rc::clone(&plugin);
        let ask = Request {
            operation: "lock.acquire",
            id,
            ttl: Duration::from_millis(request.ttl_ms.into()),
            begin: async move |cx: &crate::Context, reporter| {
                let reporter = LeaseReporter::new(reporter);
                Ok(match plugin.acquire(cx, request, reporter).await? {
                    Acquired::Held { lease, validity, token } => {
                        let told = wire::Lease { validity: validity.into(), token };
                        (Some(lease), wire::AcquireOutcome::Held(told))
                    }
                    Acquired::Busy(claims) => (None, wire::AcquireOutcome::Busy(claims)),
                })
            },
            give_back: move |cx, lease| {
                let plugin = Rc::clone(&releasing);
                Box::pin(async move { plugin.release(&cx, lease).await.map(drop) }) as _
            },
            events: PhantomData,
        };
        own.lock.open(&own.calls, ctx, ask).await
    }

    async fn release(ctx: Context, id: u64) -> Result<bool, types::Error> {
        let own = Incarnation::current();
        let Some(lease) = own.lock.object::<P::Lease>(id) else { return Ok(false) };
        let released = own.call("lock.release", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.release(cx, lease).await
        });
        let released = released.await?;
        own.lock.remove(id);
        Ok(released)
    }

    async fn inspect(ctx: Context, name: String) -> Result<wire::LockState, types::Error> {
        Incarnation::current()
            .call("lock.inspect", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
                plugin.inspect(cx, name).await
            })
            .await
    }

    async fn list_locks(
        ctx: Context,
        prefix: String,
        page: Option<String>,
        limit: u32,
    ) -> Result<wire::LocksPage, types::Error> {
        admit::page_limit(limit)?;
        Incarnation::current()
            .call("lock.list-locks", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
                plugin.list_locks(cx, prefix, page, limit).await
            })
            .await
    }

    async fn force_release(
        ctx: Context,
        name: String,
        claim_id: String,
    ) -> Result<bool, types::Error> {
        let own = Incarnation::current();
        own.features().require(true, Feature::LockForceRelease)?;
        own.call("lock.force-release", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.force_release(cx, name, claim_id).await
        })
        .await
    }

    async fn watch(_: Context, id: u64, name: String) -> Result<(), types::Error> {
        let own = Incarnation::current();
        own.features().require(true, Feature::LockWatch)?;
        let plugin = own.plugin::<P>()?;
        let sink = WatchSink::new(own.lock.open_channel(id)?);
        own.lock.feed(id, async move {
            if let Err(error) = plugin.watch(name, sink.clone()).await {
                sink.end(error);
            }
        });
        Ok(())
    }

    fn close(id: u64) {
        Incarnation::current().lock.close(id);
    }

    async fn poll(ctx: Context, max_events: u32) -> Result<Vec<(u64, wire::Event)>, types::Error> {
        Ok(poll(&Incarnation::current().lock.outbox, ctx, max_events).await)
    }
}
