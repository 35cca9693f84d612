use super::Incarnation;
use crate::bindings::wire::{tracing as wire, types};
use crate::calls::Kind;
use crate::tracing::Tracing;
use crate::{Feature, admit};
use std::marker::PhantomData;
use std::rc::Rc;
use types::Context;

/// Exports `pintle:tracing` for a plugin.
pub struct TracingGlue<P>(PhantomData<P>);

impl<P: Tracing> wire::Guest for TracingGlue<P> {
    async fn export(ctx: Context, batch: Vec<u8>) -> Result<wire::ExportResult, types::Error> {
        Incarnation::current()
            .call("tracing.export", Kind::Write, ctx, async |plugin: Rc<P>, cx| {
                plugin.export(cx, batch).await
            })
            .await
    }

    async fn query(
        ctx: Context,
        request: wire::QueryRequest,
    ) -> Result<Vec<Vec<u8>>, types::Error> {
        let own = Incarnation::current();
        own.features().require(true, Feature::TracingQuery)?;
        admit::page_limit(request.limit)?;
        own.call("tracing.query", Kind::Read, ctx, async |plugin: Rc<P>, cx| {
            plugin.query(cx, request).await
        })
        .await
    }
}
