//! Writes: each is one request, so that its condition and its effect are one moment.

use super::{entry, reserved, revision};
use crate::client::{Answer, DELETE_RANGE, Lane, PUT, TXN};
use crate::etcd::Etcd;
use crate::lock::Lease;
use crate::wire::messages::{
    Compare, CompareResult, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request,
    RequestOp, Response, ResponseOp, TxnRequest, TxnResponse,
};
use crate::wire::version;
use pintle_plugin_sdk::config::{
    Condition, Delete, DeleteOutcome, Entry, Expectation, Mismatch, Put, PutOutcome, Stored, Txn,
    TxnOp, TxnOutcome, TxnResult,
};
use pintle_plugin_sdk::{Context, Error};

impl Etcd {
    pub(super) async fn write_key(
        &self,
        cx: &Context,
        request: Put<Lease>,
    ) -> Result<PutOutcome, Error> {
        let Put { key, value, expect, held, previous, .. } = request;
        let name = self.config_key(&key)?;
        let put =
            PutRequest { key: name.clone(), value: value.into(), prev_kv: previous, lease: 0 };
        let held = held.as_deref();
        if expect == Expectation::Anything && held.is_none() {
            let answer = self.client.call(cx, Lane::Data, PUT, put).await?;
            let stored = Stored {
                version: version::to_text(answer.revision()),
                previous: answer.prev_kv.map(|kv| entry(key, kv)),
            };
            return Ok(PutOutcome::Stored(stored));
        }
        let guard = Guard::new(held, vec![(name, expect)])?;
        let answer = self.guarded(cx, &guard, vec![Request::Put(put).into()]).await?;
        let version = version::to_text(answer.revision());
        Ok(match guard.verdict(answer) {
            Guarded::Done(mut results) => {
                let previous = match results.pop() {
                    Some(Response::Put(put)) => put.prev_kv.map(|kv| entry(key, kv)),
                    _ => None,
                };
                PutOutcome::Stored(Stored { version, previous })
            }
            Guarded::Stale(mut stale) => {
                let current = stale.pop().and_then(|(_, current)| current);
                PutOutcome::Stale(current.map(|kv| entry(key, kv)))
            }
            Guarded::Fenced => PutOutcome::Fenced,
        })
    }

    pub(super) async fn delete_key(
        &self,
        cx: &Context,
        request: Delete<Lease>,
    ) -> Result<DeleteOutcome, Error> {
        let Delete { key, expect, held, previous, .. } = request;
        let name = self.config_key(&key)?;
        let delete =
            DeleteRangeRequest { key: name.clone(), prev_kv: previous, ..Default::default() };
        let held = held.as_deref();
        let outcome = |deleted: i64, kvs: Vec<KeyValue>, key: String| match deleted {
            0 => DeleteOutcome::Absent,
            _ => DeleteOutcome::Deleted(kvs.into_iter().next().map(|kv| entry(key, kv))),
        };
        if expect == Expectation::Anything && held.is_none() {
            let answer = self.client.call(cx, Lane::Data, DELETE_RANGE, delete).await?;
            return Ok(outcome(answer.deleted, answer.prev_kvs, key));
        }
        let guard = Guard::new(held, vec![(name, expect)])?;
        let answer = self.guarded(cx, &guard, vec![Request::DeleteRange(delete).into()]).await?;
        Ok(match guard.verdict(answer) {
            Guarded::Done(mut results) => match results.pop() {
                Some(Response::DeleteRange(answer)) => {
                    outcome(answer.deleted, answer.prev_kvs, key)
                }
                _ => DeleteOutcome::Absent,
            },
            Guarded::Stale(mut stale) => {
                let current = stale.pop().and_then(|(_, current)| current);
                DeleteOutcome::Stale(current.map(|kv| entry(key, kv)))
            }
            Guarded::Fenced => DeleteOutcome::Fenced,
        })
    }

    pub(super) async fn delete_below(
        &self,
        cx: &Context,
        prefix: &str,
        held: Option<&Lease>,
    ) -> Result<u64, Error> {
        let ranges = self.layout.config_below(prefix).ok_or_else(reserved)?;
        let delete = |range: crate::wire::layout::Range| {
            let (key, range_end) = (range.start, range.end);
            Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }).into()
        };
        let guard = Guard::new(held, Vec::new())?;
        let ops = ranges.into_iter().map(delete).collect();
        let answer = self.guarded(cx, &guard, ops).await?;
        let Guarded::Done(results) = guard.verdict(answer) else {
            let message = "the lease is not held any more; nothing was deleted";
            return Err(Error::conflict(message));
        };
        let deleted = results.iter().map(|result| match result {
            Response::DeleteRange(answer) => u64::try_from(answer.deleted).unwrap_or_default(),
            _ => 0,
        });
        Ok(deleted.sum())
    }

    pub(super) async fn transact(
        &self,
        cx: &Context,
        request: Txn<Lease>,
    ) -> Result<TxnOutcome, Error> {
        let Txn { conditions, held, ops } = request;
        let names: Vec<String> = conditions.iter().map(|condition| condition.key.clone()).collect();
        let conditions = conditions
            .into_iter()
            .map(|Condition { key, expect }| Ok((self.config_key(&key)?, expect)));
        let conditions = conditions.collect::<Result<_, Error>>()?;
        let guard = Guard::new(held.iter().map(AsRef::as_ref), conditions)?;
        let keys: Vec<String> = ops.iter().map(|op| key_of(op).to_owned()).collect();
        let ops = ops.into_iter().map(|op| self.operation(op)).collect::<Result<_, Error>>()?;
        let answer = self.guarded(cx, &guard, ops).await?;
        let version = version::to_text(answer.revision());
        Ok(match guard.verdict(answer) {
            Guarded::Done(results) => {
                let result = |(response, key): (Response, String)| match response {
                    Response::Range(mut range) => {
                        TxnResult::Got(range.kvs.pop().map(|kv| entry(key, kv)))
                    }
                    Response::Put(_) => TxnResult::Stored(version.clone()),
                    Response::DeleteRange(answer) => TxnResult::Deleted(answer.deleted > 0),
                };
                TxnOutcome::Committed(results.into_iter().zip(keys).map(result).collect())
            }
            Guarded::Stale(stale) => {
                let mismatch = |(index, current): (usize, Option<KeyValue>)| Mismatch {
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                    current: current.and_then(|kv| named(&names, index, kv)),
                };
                TxnOutcome::Stale(stale.into_iter().map(mismatch).collect())
            }
            Guarded::Fenced => TxnOutcome::Fenced,
        })
    }

    fn operation(&self, op: TxnOp) -> Result<RequestOp, Error> {
        let request = match op {
            TxnOp::Get(key) => Request::Range(get(self.config_key(&key)?)),
            TxnOp::Put(put) => {
                let (key, value) = (self.config_key(&put.key)?, put.value.into());
                Request::Put(PutRequest { key, value, ..Default::default() })
            }
            TxnOp::Delete(key) => {
                let key = self.config_key(&key)?;
                Request::DeleteRange(DeleteRangeRequest { key, ..Default::default() })
            }
        };
        Ok(request.into())
    }

    async fn guarded(
        &self,
        cx: &Context,
        guard: &Guard,
        success: Vec<RequestOp>,
    ) -> Result<TxnResponse, Error> {
        let request = TxnRequest { compare: guard.compare(), success, failure: guard.look() };
        self.client.call(cx, Lane::Data, TXN, request).await
    }
}

fn named(names: &[String], index: usize, kv: KeyValue) -> Option<Entry> {
    names.get(index).map(|key| entry(key.clone(), kv))
}

fn key_of(op: &TxnOp) -> &str {
    match op {
        TxnOp::Get(key) | TxnOp::Delete(key) => key,
        TxnOp::Put(put) => &put.key,
    }
}

fn get(key: Vec<u8>) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

/// What has to be true for a write to happen.
struct Guard {
    /// Keys of claims, and the revisions at which they came into being.
    held: Vec<(Vec<u8>, i64)>,
    conditions: Vec<(Vec<u8>, Required)>,
}

/// What is required of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Required {
    Nothing,
    Absent,
    Exists,
    Revision(i64),
}

/// How a guarded write went.
enum Guarded {
    Done(Vec<Response>),
    /// Positions of the conditions that did not hold, and what is there.
    Stale(Vec<(usize, Option<KeyValue>)>),
    Fenced,
}

impl Guard {
    fn new<'a>(
        held: impl IntoIterator<Item = &'a Lease>,
        conditions: Vec<(Vec<u8>, Expectation)>,
    ) -> Result<Self, Error> {
        let held = held.into_iter().map(|lease| (lease.key.clone(), lease.create_revision));
        let conditions = conditions.into_iter().map(|(key, expect)| {
            let required = match expect {
                Expectation::Anything => Required::Nothing,
                Expectation::Absent => Required::Absent,
                Expectation::Exists => Required::Exists,
                Expectation::Version(text) => Required::Revision(revision(&text)?),
            };
            Ok((key, required))
        });
        Ok(Self { held: held.collect(), conditions: conditions.collect::<Result<_, Error>>()? })
    }

    fn compare(&self) -> Vec<Compare> {
        let held = self
            .held
            .iter()
            .map(|(key, created)| Compare::created(key.clone(), CompareResult::Equal, *created));
        let conditions = self.conditions.iter().filter_map(|(key, required)| {
            let key = key.clone();
            Some(match required {
                Required::Nothing => return None,
                Required::Absent => Compare::created(key, CompareResult::Equal, 0),
                Required::Exists => Compare::created(key, CompareResult::Greater, 0),
                Required::Revision(at) => Compare::modified(key, CompareResult::Equal, *at),
            })
        });
        held.chain(conditions).collect()
    }

    /// Reads what the conditions speak of, to say which did not hold.
    fn look(&self) -> Vec<RequestOp> {
        let held = self.held.iter().map(|(key, _)| key);
        let keys = held.chain(self.conditions.iter().map(|(key, _)| key));
        keys.map(|key| Request::Range(get(key.clone())).into()).collect()
    }

    fn verdict(&self, answer: TxnResponse) -> Guarded {
        let responses = answer.responses.into_iter().filter_map(|ResponseOp { response }| response);
        if answer.succeeded {
            return Guarded::Done(responses.collect());
        }
        let mut found = responses.map(|response| match response {
            Response::Range(mut range) => range.kvs.pop(),
            _ => None,
        });
        for (_, created) in &self.held {
            let claim = found.next().flatten();
            if claim.is_none_or(|claim| claim.create_revision != *created) {
                return Guarded::Fenced;
            }
        }
        let stale = self.conditions.iter().enumerate().zip(found);
        let stale = stale.filter(|((_, (_, required)), current)| !required.holds(current.as_ref()));
        Guarded::Stale(stale.map(|((index, _), current)| (index, current)).collect())
    }
}

impl Required {
    fn holds(self, current: Option<&KeyValue>) -> bool {
        match self {
            Self::Nothing => true,
            Self::Absent => current.is_none(),
            Self::Exists => current.is_some(),
            Self::Revision(at) => current.is_some_and(|kv| kv.mod_revision == at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::RangeResponse;

    fn found(create_revision: i64, mod_revision: i64) -> ResponseOp {
        let kv = KeyValue { create_revision, mod_revision, ..KeyValue::default() };
        let range = RangeResponse { kvs: vec![kv], ..RangeResponse::default() };
        ResponseOp { response: Some(Response::Range(range)) }
    }

    fn nothing() -> ResponseOp {
        ResponseOp { response: Some(Response::Range(RangeResponse::default())) }
    }

    fn guard() -> Guard {
        Guard {
            held: vec![(b"claim".to_vec(), 5)],
            conditions: vec![
                (b"a".to_vec(), Required::Absent),
                (b"b".to_vec(), Required::Revision(9)),
            ],
        }
    }

    fn refused(responses: Vec<ResponseOp>) -> Guarded {
        guard().verdict(TxnResponse { succeeded: false, responses, ..TxnResponse::default() })
    }

    #[test]
    fn a_claim_that_is_gone_or_was_made_again_fences() {
        assert!(matches!(refused(vec![nothing(), nothing(), found(9, 9)]), Guarded::Fenced));
        assert!(matches!(refused(vec![found(6, 6), nothing(), found(9, 9)]), Guarded::Fenced));
    }

    #[test]
    fn the_conditions_that_did_not_hold_are_named() {
        let Guarded::Stale(stale) = refused(vec![found(5, 5), nothing(), found(3, 8)]) else {
            panic!()
        };
        assert_eq!(stale.len(), 1);
        assert_eq!((stale[0].0, stale[0].1.as_ref().unwrap().mod_revision), (1, 8));
    }
}
