use super::{Incarnation, poll};
use crate::bindings::wire::{config as wire, types};
use crate::calls::Kind;
use crate::config::{Config, Delete, Put, Txn, WatchSink};
use crate::watch::Feed;
use crate::{Error, admit};
use std::marker::PhantomData;
use std::rc::Rc;
use types::Context;

/// Exports `pintle:config` for a plugin.
pub struct ConfigGlue<P>(PhantomData<P>);

impl<P: Config> ConfigGlue<P> {
    /// The lease named by a precondition: none if it is not held any more.
    fn lease(incarnation: &Incarnation, id: u64) -> Option<Rc<P::Held>> {
        incarnation.lock.object(id)
    }

    /// The lease named by an optional precondition: `Err` if it is not held any more.
    fn precondition(
        incarnation: &Incarnation,
        id: Option<u64>,
    ) -> Result<Option<Rc<P::Held>>, Fenced> {
        id.map(|id| Self::lease(incarnation, id).ok_or(Fenced)).transpose()
    }
}

/// The lease of a precondition is not held any more.
struct Fenced;

impl<P: Config> wire::Guest for ConfigGlue<P> {
    async fn get(
        ctx: Context,
        key: String,
        options: wire::ReadOptions,
    ) -> Result<Option<wire::Entry>, types::Error> {
        let own = Incarnation::current();
        admit::read(&own.features(), &options)?;
        own.call("config.get", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
            plugin.get(cx, key, options).await
        })
        .await
    }

    async fn get_many(
        ctx: Context,
        keys: Vec<String>,
        options: wire::ReadOptions,
    ) -> Result<Vec<Option<wire::Entry>>, types::Error> {
        let own = Incarnation::current();
        admit::read_many(&own.features(), &keys, &options)?;
        own.call("config.get-many", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
            plugin.get_many(cx, keys, options).await
        })
        .await
    }

    async fn list_keys(
        ctx: Context,
        request: wire::ListRequest,
    ) -> Result<wire::Page, types::Error> {
        let own = Incarnation::current();
        admit::list(&own.features(), &request)?;
        own.call("config.list-keys", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
            plugin.list(cx, request).await
        })
        .await
    }

    async fn put(
        ctx: Context,
        request: wire::PutRequest,
    ) -> Result<wire::PutOutcome, types::Error> {
        let own = Incarnation::current();
        admit::put(&own.features(), &request)?;
        let Ok(held) = Self::precondition(&own, request.held) else {
            return Ok(wire::PutOutcome::Fenced);
        };
        let request = Put {
            key: request.key,
            value: request.value,
            content_type: request.content_type,
            expect: request.expect,
            held,
            previous: request.previous,
            selectors: request.selectors,
        };
        own.call("config.put", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.put(cx, request).await
        })
        .await
    }

    async fn delete(
        ctx: Context,
        request: wire::DeleteRequest,
    ) -> Result<wire::DeleteOutcome, types::Error> {
        let own = Incarnation::current();
        admit::delete(&own.features(), &request)?;
        let Ok(held) = Self::precondition(&own, request.held) else {
            return Ok(wire::DeleteOutcome::Fenced);
        };
        let request = Delete {
            key: request.key,
            expect: request.expect,
            held,
            previous: request.previous,
            selectors: request.selectors,
        };
        own.call("config.delete", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.delete(cx, request).await
        })
        .await
    }

    async fn delete_prefix(
        ctx: Context,
        prefix: String,
        held: Option<u64>,
    ) -> Result<u64, types::Error> {
        let own = Incarnation::current();
        admit::delete_prefix(&own.features(), held)?;
        let Ok(held) = Self::precondition(&own, held) else {
            let message = "nothing was deleted: the lease named in `held` is not held any more";
            return Err(Error::conflict(message).into());
        };
        own.call("config.delete-prefix", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.delete_prefix(cx, prefix, held).await
        })
        .await
    }

    async fn txn(
        ctx: Context,
        request: wire::TxnRequest,
    ) -> Result<wire::TxnOutcome, types::Error> {
        let own = Incarnation::current();
        admit::txn(&own.features(), &request)?;
        let held = request.held.iter().map(|id| Self::lease(&own, *id));
        let Some(held) = held.collect::<Option<Vec<_>>>() else {
            return Ok(wire::TxnOutcome::Fenced);
        };
        let request = Txn { conditions: request.conditions, held, ops: request.ops };
        own.call("config.txn", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
            plugin.txn(cx, request).await
        })
        .await
    }

    async fn history(
        ctx: Context,
        request: wire::HistoryRequest,
    ) -> Result<wire::HistoryPage, types::Error> {
        let own = Incarnation::current();
        own.features().require(true, crate::Feature::ConfigHistory)?;
        admit::page_limit(request.limit)?;
        own.call("config.history", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
            plugin.history(cx, request).await
        })
        .await
    }

    async fn watch(_: Context, id: u64, request: wire::WatchRequest) -> Result<(), types::Error> {
        let own = Incarnation::current();
        admit::watch(&own.features(), &request)?;
        let plugin = own.plugin::<P>()?;
        let channel = own.config.open_channel(id)?;
        let feed = Feed::new(channel, request.from_version.is_some());
        own.config.feed(id, async move {
            let sink = WatchSink::new(feed.clone());
            if let Err(error) = plugin.watch(request, sink).await {
                feed.end(error);
            }
        });
        Ok(())
    }

    fn close(id: u64) {
        Incarnation::current().config.close(id);
    }

    async fn poll(ctx: Context, max_events: u32) -> Result<Vec<(u64, wire::Event)>, types::Error> {
        Ok(poll(&Incarnation::current().config.outbox, ctx, max_events).await)
    }
}
