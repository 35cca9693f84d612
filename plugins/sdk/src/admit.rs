//! Refuses what the plugin does not offer, so that nothing that was asked for is quietly ignored.

use crate::Error;
use crate::bindings::wire::config::{
    DeleteRequest, Expectation, ListRequest, PutRequest, ReadOptions, TxnOp, TxnRequest,
    WatchRequest,
};
use crate::bindings::wire::lock::{AcquireRequest, Mode};
use crate::bindings::wire::types::Consistency;
use crate::plugin::{Feature, Features};

/// Most keys of a `get-many`, and most operations of a transaction.
const BATCH_MAX: usize = 128;

pub(crate) fn read(features: &Features, options: &ReadOptions) -> Result<(), Error> {
    let linearizable = options.consistency == Consistency::Linearizable;
    features.require(linearizable, Feature::ConfigLinearizable)?;
    features.require(options.at.is_some(), Feature::ConfigReadAt)?;
    features.require(!options.selectors.is_empty(), Feature::ConfigSelectors)
}

pub(crate) fn read_many(
    features: &Features,
    keys: &[String],
    options: &ReadOptions,
) -> Result<(), Error> {
    at_most(keys.len(), "keys")?;
    read(features, options)
}

pub(crate) fn list(features: &Features, request: &ListRequest) -> Result<(), Error> {
    page_limit(request.limit)?;
    read(features, &request.options)
}

/// Most entries of a page, 1 to 1,000.
pub(crate) fn page_limit(limit: u32) -> Result<(), Error> {
    if (1..=1_000).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid(format!("limit {limit}: a page has 1 to 1000 entries")))
}

pub(crate) fn put(features: &Features, request: &PutRequest) -> Result<(), Error> {
    expectation(features, &request.expect)?;
    features.require(request.held.is_some(), Feature::ConfigHeld)?;
    features.require(request.content_type.is_some(), Feature::ConfigContentType)?;
    features.require(!request.selectors.is_empty(), Feature::ConfigSelectors)
}

pub(crate) fn delete(features: &Features, request: &DeleteRequest) -> Result<(), Error> {
    expectation(features, &request.expect)?;
    features.require(request.held.is_some(), Feature::ConfigHeld)?;
    features.require(!request.selectors.is_empty(), Feature::ConfigSelectors)
}

pub(crate) fn delete_prefix(features: &Features, held: Option<u64>) -> Result<(), Error> {
    features.require(held.is_some(), Feature::ConfigHeld)
}

pub(crate) fn txn(features: &Features, request: &TxnRequest) -> Result<(), Error> {
    features.require(true, Feature::ConfigTxn)?;
    features.require(!request.held.is_empty(), Feature::ConfigHeld)?;
    let typed = |op: &TxnOp| matches!(op, TxnOp::Put(put) if put.content_type.is_some());
    features.require(request.ops.iter().any(typed), Feature::ConfigContentType)?;
    for condition in &request.conditions {
        expectation(features, &condition.expect)?;
    }
    at_most(request.ops.len(), "operations")
}

pub(crate) fn watch(features: &Features, request: &WatchRequest) -> Result<(), Error> {
    features.require(request.from_version.is_some(), Feature::WatchFromVersion)?;
    features.require(request.previous, Feature::WatchPrevious)?;
    features.require(!request.selectors.is_empty(), Feature::ConfigSelectors)
}

pub(crate) fn acquire(features: &Features, request: &AcquireRequest) -> Result<(), Error> {
    features.require(request.mode == Mode::Shared, Feature::LockShared)?;
    features.require(matches!(request.mode, Mode::Permit(_)), Feature::LockPermits)?;
    ttl(request.ttl_ms)
}

/// Time to live, 2,000 to 3,600,000 ms.
pub(crate) fn ttl(ttl_ms: u32) -> Result<(), Error> {
    if (2_000..=3_600_000).contains(&ttl_ms) {
        return Ok(());
    }
    Err(Error::invalid(format!("ttl-ms {ttl_ms}: it has to be 2000 to 3600000")))
}

fn expectation(features: &Features, expect: &Expectation) -> Result<(), Error> {
    features.require(*expect != Expectation::Anything, Feature::ConfigCas)
}

fn at_most(count: usize, what: &str) -> Result<(), Error> {
    if count <= BATCH_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("{count} {what} in one call: at most {BATCH_MAX}")))
}
