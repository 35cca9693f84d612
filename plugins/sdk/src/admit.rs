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
    if request.mode == Mode::Permit(0) {
        return Err(Error::invalid("a lock with 0 permits can never be held"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Description;

    fn offering<const N: usize>(features: [Feature; N]) -> Features {
        Description::new("0", "").features(features).features
    }

    fn options() -> ReadOptions {
        ReadOptions { consistency: Consistency::Sequential, at: None, selectors: Vec::new() }
    }

    fn asked(mode: Mode, ttl_ms: u32) -> AcquireRequest {
        AcquireRequest { name: String::new(), mode, ttl_ms, wait_ms: 0, owner: String::new() }
    }

    #[track_caller]
    fn assert_needs(outcome: impl Fn(&Features) -> Result<(), Error>, feature: Feature) {
        let error = outcome(&offering([])).unwrap_err();
        assert_eq!(error.code(), "unsupported");
        assert_eq!(error.details(), [("feature".to_owned(), feature.name().to_owned())]);
        outcome(&offering([feature])).unwrap();
    }

    #[test]
    fn what_is_asked_of_a_read_has_to_be_offered() {
        read(&offering([]), &options()).unwrap();
        let linearizable = ReadOptions { consistency: Consistency::Linearizable, ..options() };
        assert_needs(|offered| read(offered, &linearizable), Feature::ConfigLinearizable);
        let at = ReadOptions { at: Some("1".to_owned()), ..options() };
        assert_needs(|offered| read(offered, &at), Feature::ConfigReadAt);
        let gray = ReadOptions { selectors: vec![("ip".into(), "::1".into())], ..options() };
        assert_needs(|offered| read(offered, &gray), Feature::ConfigSelectors);
    }

    #[test]
    fn what_is_asked_of_a_write_has_to_be_offered() {
        let plain = || PutRequest {
            key: String::new(),
            value: Vec::new(),
            content_type: None,
            expect: Expectation::Anything,
            held: None,
            previous: true,
            selectors: Vec::new(),
        };
        put(&offering([]), &plain()).unwrap();
        let expecting = PutRequest { expect: Expectation::Exists, ..plain() };
        assert_needs(|offered| put(offered, &expecting), Feature::ConfigCas);
        let held = PutRequest { held: Some(1), ..plain() };
        assert_needs(|offered| put(offered, &held), Feature::ConfigHeld);
        let typed = PutRequest { content_type: Some("text/plain".to_owned()), ..plain() };
        assert_needs(|offered| put(offered, &typed), Feature::ConfigContentType);
    }

    #[test]
    fn lock_modes_have_to_be_offered_and_ttls_have_bounds() {
        acquire(&offering([]), &asked(Mode::Exclusive, 2_000)).unwrap();
        assert_needs(|offered| acquire(offered, &asked(Mode::Shared, 2_000)), Feature::LockShared);
        let permit = asked(Mode::Permit(3), 2_000);
        assert_needs(|offered| acquire(offered, &permit), Feature::LockPermits);
        let none = acquire(&offering([Feature::LockPermits]), &asked(Mode::Permit(0), 2_000));
        assert_eq!(none.unwrap_err().code(), "invalid");
        for ttl_ms in [0, 1_999, 3_600_001] {
            let error = acquire(&offering([]), &asked(Mode::Exclusive, ttl_ms)).unwrap_err();
            assert_eq!(error.code(), "invalid");
        }
    }

    #[test]
    fn pages_and_batches_have_bounds() {
        assert!(page_limit(0).is_err() && page_limit(1_001).is_err() && page_limit(1_000).is_ok());
        let keys = vec![String::new(); 129];
        assert_eq!(read_many(&offering([]), &keys, &options()).unwrap_err().code(), "invalid");
    }
}
