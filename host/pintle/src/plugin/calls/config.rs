//! `pintle:config`.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{
        Consistency, Delete, DeleteOutcome, Entry, Expect, HistoryPage, HistoryRequest,
        ListRequest, Page, Put, PutOutcome, ReadOptions, Selectors, Target, Txn, TxnOp, TxnOutcome,
    },
    error::{Error, Refusal},
    lock::LeaseRef,
    plugin::{
        actor::Operation,
        backend::{Backend, Call},
        bindings::config as wit,
        convert::{self, config as from},
        loader::Exports,
        made::Made,
        tail::Tail,
    },
};

const GET: Operation = Operation::read("config.get");
const GET_MANY: Operation = Operation::read("config.get-many");
const LIST: Operation = Operation::read("config.list-keys");
const PUT: Operation = Operation::mutation("config.put");
const DELETE: Operation = Operation::mutation("config.delete");
const DELETE_PREFIX: Operation = Operation::mutation("config.delete-prefix");
const TXN: Operation = Operation::mutation("config.txn");
const HISTORY: Operation = Operation::read("config.history");
pub(in crate::plugin) const WATCH: Operation = Operation::read("config.watch").patient();

/// Most entries of a page.
const PAGE_LEN_MAX: u32 = 1000;

/// The capability's functions, or the error that ends an incarnation which lost them.
pub(super) fn exports(exports: &Exports) -> wasmtime::Result<&wit::Guest> {
    exports.config.as_ref().ok_or_else(|| wasmtime::format_err!("config is not exported"))
}

impl Backend {
    pub(crate) async fn config_get(
        &self,
        timeout: Option<Duration>,
        key: String,
        options: ReadOptions,
    ) -> Result<Option<Entry>, Error> {
        let (call, options) = self.reading(Call::new(GET, timeout), options);
        let found = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_get(accessor, context, key, options).await })
        });
        Ok(found.await?.map(from::entry))
    }

    pub(crate) async fn config_get_many(
        &self,
        timeout: Option<Duration>,
        keys: Vec<String>,
        options: ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        let (call, options) = self.reading(Call::new(GET_MANY, timeout), options);
        let found = self.call(call, move |accessor, guest, context| {
            Box::pin(async move {
                exports(guest)?.call_get_many(accessor, context, keys, options).await
            })
        });
        Ok(found.await?.into_iter().map(|entry| entry.map(from::entry)).collect())
    }

    pub(crate) async fn config_list(
        &self,
        timeout: Option<Duration>,
        request: ListRequest,
    ) -> Result<Page, Error> {
        let (call, options) = self.reading(Call::new(LIST, timeout), request.options);
        let request = wit::ListRequest {
            prefix: request.prefix,
            page: request.page,
            limit: page_len(request.limit),
            keys_only: request.keys_only,
            options,
        };
        let page = self.call(call, move |accessor, guest, context| {
            Box::pin(
                async move { exports(guest)?.call_list_keys(accessor, context, request).await },
            )
        });
        Ok(from::page(page.await?))
    }

    pub(crate) async fn config_put(
        &self,
        timeout: Option<Duration>,
        put: Put,
    ) -> Result<PutOutcome, Error> {
        let call = writing(Call::new(PUT, timeout), &put.expect, put.held.as_ref(), &put.selectors)
            .needs_if(put.content_type.is_some(), "config.content-type");
        let request = wit::PutRequest {
            key: put.key,
            value: put.value.into(),
            content_type: put.content_type,
            expect: from::expectation(&put.expect),
            held: self.own_lease(PUT, put.held)?,
            previous: put.previous,
            selectors: put.selectors,
        };
        let outcome = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_put(accessor, context, request).await })
        });
        Ok(from::put_outcome(outcome.await?))
    }

    pub(crate) async fn config_delete(
        &self,
        timeout: Option<Duration>,
        delete: Delete,
    ) -> Result<DeleteOutcome, Error> {
        let call = Call::new(DELETE, timeout);
        let call = writing(call, &delete.expect, delete.held.as_ref(), &delete.selectors);
        let request = wit::DeleteRequest {
            key: delete.key,
            expect: from::expectation(&delete.expect),
            held: self.own_lease(DELETE, delete.held)?,
            previous: delete.previous,
            selectors: delete.selectors,
        };
        let outcome = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_delete(accessor, context, request).await })
        });
        Ok(from::delete_outcome(outcome.await?))
    }

    pub(crate) async fn config_delete_prefix(
        &self,
        timeout: Option<Duration>,
        prefix: String,
        held: Option<LeaseRef>,
    ) -> Result<u64, Error> {
        let call = Call::new(DELETE_PREFIX, timeout).needs_if(held.is_some(), "config.held");
        let held = self.own_lease(DELETE_PREFIX, held)?;
        let deleted = self.call(call, move |accessor, guest, context| {
            Box::pin(async move {
                exports(guest)?.call_delete_prefix(accessor, context, prefix, held).await
            })
        });
        deleted.await
    }

    pub(crate) async fn config_txn(
        &self,
        timeout: Option<Duration>,
        txn: Txn,
    ) -> Result<TxnOutcome, Error> {
        let typed = |op: &TxnOp| matches!(op, TxnOp::Put { content_type: Some(_), .. });
        let call = Call::new(TXN, timeout)
            .needs_if(true, "config.txn")
            .needs_if(!txn.held.is_empty(), "config.held")
            .needs_if(txn.ops.iter().any(typed), "config.content-type");
        let held: Result<Vec<_>, _> =
            txn.held.into_iter().map(|lease| self.own_lease(TXN, Some(lease))).collect();
        let request = wit::TxnRequest {
            conditions: txn
                .conditions
                .into_iter()
                .map(|(key, expect)| wit::Condition { key, expect: from::expectation(&expect) })
                .collect(),
            held: held?.into_iter().flatten().collect(),
            ops: txn.ops.into_iter().map(from::txn_op).collect(),
        };
        let outcome = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_txn(accessor, context, request).await })
        });
        Ok(from::txn_outcome(outcome.await?))
    }

    pub(crate) async fn config_history(
        &self,
        timeout: Option<Duration>,
        request: HistoryRequest,
    ) -> Result<HistoryPage, Error> {
        let call = Call::new(HISTORY, timeout).needs_if(true, "config.history");
        let limit = page_len(request.limit);
        let request = wit::HistoryRequest { key: request.key, limit, page: request.page };
        let page = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_history(accessor, context, request).await })
        });
        Ok(from::history_page(page.await?))
    }

    /// Opens upstream watch `id`; its events come over the pump.
    pub(crate) async fn config_watch(
        &self,
        made: &Made,
        id: u64,
        target: Target,
    ) -> Result<(), Error> {
        let opened = made.ensure(self, WATCH, async |serving| {
            // What was there before is in the mirror; some servers would have to look it up for each change.
            let request = from::watch_request(&target, None, false);
            let call = Call::new(WATCH, None).on(&serving);
            self.call(call, move |accessor, guest, context| {
                Box::pin(
                    async move { exports(guest)?.call_watch(accessor, context, id, request).await },
                )
            })
            .await
        });
        opened.await.map(Option::unwrap_or_default)
    }

    /// Opens a watch from a version on, unless it is open on the incarnation that serves, or over.
    pub(crate) async fn config_tail(&self, tail: &Arc<Tail>) -> Result<(), Error> {
        let opened = tail.made.ensure(self, WATCH, async |serving| {
            let Some((id, from)) = tail.begin(self) else { return Ok(()) };
            let previous = serving.plugin.has("watch.previous");
            let request = from::watch_request(&tail.target, from.as_ref(), previous);
            let call = Call::new(WATCH, None).on(&serving);
            let call = call.needs_if(true, "watch.from-version");
            let opening = self.call(call, move |accessor, guest, context| {
                Box::pin(
                    async move { exports(guest)?.call_watch(accessor, context, id, request).await },
                )
            });
            opening.await?;
            // Closed meanwhile, perhaps before the plugin knew it.
            if !tail.is_open(id) {
                self.config_close(id);
            }
            Ok(())
        });
        opened.await.map(Option::unwrap_or_default)
    }

    /// Ends upstream watch `id`. Without an incarnation there is nothing to end.
    pub(crate) fn config_close(&self, id: u64) {
        let Some(serving) = self.serving_now() else { return };
        let runtime = self.shared.engine.host_runtime();
        serving.incarnation.post_urgent(&runtime, move |accessor, guest| {
            Box::pin(async move { exports(guest)?.call_close(accessor, id).await })
        });
    }

    /// Fills in the consistency that the backend offers at best.
    fn reading(&self, call: Call, options: ReadOptions) -> (Call, wit::ReadOptions) {
        let strongest = if self.has("config.linearizable") {
            Consistency::Linearizable
        } else {
            Consistency::Sequential
        };
        let consistency = options.consistency.unwrap_or(strongest);
        let call = call
            .needs_if(consistency == Consistency::Linearizable, "config.linearizable")
            .needs_if(options.at.is_some(), "config.read-at")
            .needs_if(!options.selectors.is_empty(), "config.selectors");
        let options = wit::ReadOptions {
            consistency: convert::consistency(consistency),
            at: options.at.map(|version| version.as_str().to_owned()),
            selectors: options.selectors,
        };
        (call, options)
    }

    fn own_lease(
        &self,
        operation: Operation,
        held: Option<LeaseRef>,
    ) -> Result<Option<u64>, Error> {
        let Some(lease) = held else { return Ok(None) };
        if lease.backend == self.name {
            return Ok(Some(lease.id));
        }
        Err(self.refuse(operation, Refusal::ForeignLease { owner: lease.backend.to_string() }))
    }
}

fn writing(call: Call, expect: &Expect, held: Option<&LeaseRef>, selectors: &Selectors) -> Call {
    call.needs_if(*expect != Expect::Anything, "config.cas")
        .needs_if(held.is_some(), "config.held")
        .needs_if(!selectors.is_empty(), "config.selectors")
}

/// Zero means as many as there may be.
pub(super) fn page_len(limit: u32) -> u32 {
    if limit == 0 { PAGE_LEN_MAX } else { limit.min(PAGE_LEN_MAX) }
}
