//! Writes: read what is there, decide, and let the server do it all at one moment if it is still so.
//!
//! ZooKeeper's `multi` compares data versions and nothing else, so conditions become reads first and
//! version checks then; a transaction that finds something changed in between starts over.

use super::plan::{Looked, Plan, State};
use super::values::{Wanted, read_values};
use super::version_of;
use crate::lock::Lease;
use crate::path::ancestors;
use crate::session::{Client, Failure};
use crate::wire::{Create, CreateMode, ErrorCode, Exists, MultiOutcome, Op, OpResult, SetData};
use crate::zookeeper::ZooKeeper;
use futures::future::join_all;
use pintle_plugin_sdk::config::{Condition, Entry, Mismatch, PutOutcome, Stored, TxnOp, TxnResult};
use pintle_plugin_sdk::{Context, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How often a transaction starts over because others wrote in between.
const ATTEMPTS: u32 = 32;

/// What is to be done at one moment.
pub(super) struct Transaction {
    pub(super) conditions: Vec<Condition>,
    pub(super) held: Vec<Rc<Lease>>,
    pub(super) ops: Vec<TxnOp>,
}

/// How it went.
pub(super) enum Transacted {
    Committed(Committed),
    Stale(Vec<Mismatch>),
    Fenced,
}

/// What was done, in the order of the operations.
pub(super) struct Committed {
    pub(super) results: Vec<TxnResult>,
    /// What was there before, of keys with a condition.
    pub(super) before: Vec<Option<Entry>>,
}

/// How one attempt went.
enum Attempt {
    Done(Transacted),
    /// Others wrote in between.
    Again(ErrorCode),
}

impl ZooKeeper {
    pub(super) async fn transact(
        &self,
        cx: &Context,
        transaction: Transaction,
    ) -> Result<Transacted, Error> {
        let keys = transaction.keys();
        let doing = format!("writing `{}`", keys.first().map_or("", String::as_str));
        let mut paths = BTreeMap::new();
        for key in &keys {
            paths.insert(key.clone(), self.paths.node(key)?);
        }
        let mut because = ErrorCode::BAD_VERSION;
        for _ in 0..ATTEMPTS {
            let client = self.main.client(cx).await?;
            let attempt = self.transact_once(&client, &transaction, &paths).await;
            match attempt.map_err(|failure| failure.explain(&doing))? {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::Again(code) => because = code,
            }
        }
        let message = format!("{doing}: others wrote {ATTEMPTS} times in between: {because}");
        Err(Error::exhausted(message))
    }

    async fn transact_once(
        &self,
        client: &Client,
        transaction: &Transaction,
        paths: &BTreeMap<String, String>,
    ) -> Result<Attempt, Failure> {
        let reading = |failure: Failure| failure.without_effect();
        let mut looked = look(client, transaction, paths, false).await.map_err(reading)?;
        if !transaction.mismatches(&looked).is_empty() || transaction.is_of_nothing(&looked) {
            // What does not match, or is missing, may be old: nobody is told so because of that.
            looked = look(client, transaction, paths, true).await.map_err(reading)?;
            let mismatches = transaction.mismatches(&looked);
            if !mismatches.is_empty() {
                return Ok(Attempt::Done(Transacted::Stale(mismatches)));
            }
        }
        let plan = Plan::new(&looked, &transaction.ops);
        if transaction.is_of_nothing(&looked) {
            let results = plan.results(&transaction.ops, &looked, &[]);
            let before = transaction.before(&looked);
            return Ok(Attempt::Done(Transacted::Committed(Committed { results, before })));
        }
        let checks = transaction.held.iter().map(|lease| lease.check());
        let ops: Vec<_> = checks.chain(plan.ops(&self.acl)).collect();
        let held = transaction.held.len();
        let outcome = client.multi(ops).await?;
        Ok(match outcome {
            MultiOutcome::Done(done) => {
                let done = done.get(held..).unwrap_or_default();
                let results = plan.results(&transaction.ops, &looked, done);
                let before = transaction.before(&looked);
                Attempt::Done(Transacted::Committed(Committed { results, before }))
            }
            MultiOutcome::Failed { index, code: ErrorCode::NO_NODE } if index < held => {
                Attempt::Done(Transacted::Fenced)
            }
            MultiOutcome::Failed { code, .. } if is_race(code) => Attempt::Again(code),
            MultiOutcome::Failed { code, .. } => return Err(Failure::Refused(code)),
        })
    }

    /// Puts whatever is there: in one request where the node exists, as it mostly does.
    pub(super) async fn put_blindly(
        &self,
        cx: &Context,
        key: &str,
        value: &[u8],
        held: Option<&Lease>,
    ) -> Result<PutOutcome, Error> {
        let path = self.paths.node(key)?;
        let doing = format!("writing `{key}`");
        let mut because = ErrorCode::NO_NODE;
        for _ in 0..ATTEMPTS {
            let client = self.main.client(cx).await?;
            let outcome = self.put_once(&client, &path, value, held).await;
            let outcome = outcome.map_err(|failure| failure.explain(&doing))?;
            match stored(outcome, held.is_some())? {
                Ok(outcome) => return Ok(outcome),
                Err(code) if is_race(code) => because = code,
                Err(code) => return Err(Failure::Refused(code).explain(&doing)),
            }
        }
        let message = format!("{doing}: others wrote {ATTEMPTS} times in between: {because}");
        Err(Error::exhausted(message))
    }

    async fn put_once(
        &self,
        client: &Client,
        path: &str,
        value: &[u8],
        held: Option<&Lease>,
    ) -> Result<MultiOutcome, Failure> {
        let set = SetData { path, data: Some(value), version: -1 };
        let outcome = match held {
            None => match client.call(&set).await {
                Ok(stat) => MultiOutcome::Done(vec![OpResult::Set(stat)]),
                Err(Failure::Refused(code)) => MultiOutcome::Failed { index: 0, code },
                Err(failure) => return Err(failure),
            },
            Some(lease) => client.multi(vec![lease.check(), Op::SetData(set)]).await?,
        };
        if is_missing(&outcome, held) {
            return self.create_with_parents(client, path, value, held).await;
        }
        Ok(outcome)
    }

    /// Puts a key of which the caller expects that it is absent: in one request where it is, and its
    /// directory is there. `None` when it has to be looked what is there.
    pub(super) async fn put_new(
        &self,
        cx: &Context,
        key: &str,
        value: &[u8],
        held: Option<&Lease>,
    ) -> Result<Option<PutOutcome>, Error> {
        let path = self.paths.node(key)?;
        let client = self.main.client(cx).await?;
        let created = self.create_node(&client, &path, value, held, &[]).await;
        let created = created.map_err(|failure| failure.explain(&format!("writing `{key}`")))?;
        Ok(stored(created, held.is_some())?.ok())
    }

    /// Creates a node, and the directories above it that are missing, at one moment.
    async fn create_with_parents(
        &self,
        client: &Client,
        path: &str,
        value: &[u8],
        held: Option<&Lease>,
    ) -> Result<MultiOutcome, Failure> {
        // Its directory is there, as a rule.
        let outcome = self.create_node(client, path, value, held, &[]).await?;
        if !is_missing(&outcome, held) {
            return Ok(outcome);
        }
        let missing = missing_above(client, path).await.map_err(Failure::without_effect)?;
        self.create_node(client, path, value, held, &missing).await
    }

    /// Creates directories and a node below them.
    async fn create_node(
        &self,
        client: &Client,
        path: &str,
        value: &[u8],
        held: Option<&Lease>,
        directories: &[String],
    ) -> Result<MultiOutcome, Failure> {
        let mut ops: Vec<_> = held.into_iter().map(Lease::check).collect();
        ops.extend(directories.iter().map(|directory| Op::directory(directory, &self.acl)));
        let mode = CreateMode::Persistent;
        ops.push(Op::Create(Create { path, data: Some(value), acl: &self.acl, mode }));
        client.multi(ops).await
    }
}

/// Whether a put found no node, which is not said of the claim of its lease.
fn is_missing(outcome: &MultiOutcome, held: Option<&Lease>) -> bool {
    matches!(outcome, MultiOutcome::Failed { index, code: ErrorCode::NO_NODE }
        if held.is_none() || *index > 0)
}

/// What the last operation of a put stored, or the code with which one was refused.
///
/// # Errors
///
/// When the answer does not say what was stored.
fn stored(outcome: MultiOutcome, is_fenced: bool) -> Result<Result<PutOutcome, ErrorCode>, Error> {
    match outcome {
        MultiOutcome::Done(mut done) => match done.pop() {
            Some(OpResult::Set(stat) | OpResult::Created(_, Some(stat))) => {
                let version = version_of(&stat);
                Ok(Ok(PutOutcome::Stored(Stored { version, previous: None })))
            }
            _ => Err(without_version()),
        },
        MultiOutcome::Failed { index: 0, code: ErrorCode::NO_NODE } if is_fenced => {
            Ok(Ok(PutOutcome::Fenced))
        }
        MultiOutcome::Failed { code, .. } => Ok(Err(code)),
    }
}

/// The error of a put that was done, and whose answer does not say what it made.
pub(super) fn without_version() -> Error {
    Error::internal("a put without a version").effect_unknown()
}

/// Whether a refusal only says that something was changed in between.
pub(super) fn is_race(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NO_NODE | ErrorCode::NODE_EXISTS | ErrorCode::BAD_VERSION | ErrorCode::NOT_EMPTY
    )
}

impl Failure {
    /// Of a read: nothing was changed, however it ended.
    pub(super) fn without_effect(self) -> Self {
        match self {
            Self::Lost { reason, .. } => Self::Lost { reason, sent: false },
            other => other,
        }
    }
}

/// Looks what is at all these paths, by key.
async fn look(
    client: &Client,
    transaction: &Transaction,
    paths: &BTreeMap<String, String>,
    barrier: bool,
) -> Result<Looked, Failure> {
    let shown = transaction.shown();
    let wanted =
        paths.iter().map(|(key, path)| Wanted { path, is_shown: shown.contains(key.as_str()) });
    let nodes = read_values(client, barrier, wanted).await?;
    let mut looked = BTreeMap::new();
    for ((key, path), node) in paths.iter().zip(nodes) {
        let state = match node {
            Some((data, stat)) => State::There { data, stat },
            None => State::Missing { above: missing_above(client, path).await? },
        };
        looked.insert(key.clone(), (path.clone(), state));
    }
    Ok(looked)
}

/// The nodes above that do not exist, from the top.
async fn missing_above(client: &Client, path: &str) -> Result<Vec<String>, Failure> {
    let above = ancestors(path);
    let reads: Vec<_> =
        above.iter().map(|path| client.call(&Exists { path, watch: false })).collect();
    let mut missing = Vec::new();
    for (path, read) in above.into_iter().zip(join_all(reads).await) {
        match read {
            Ok(_) => {}
            Err(failure) if failure.is(ErrorCode::NO_NODE) => missing.push(path.to_owned()),
            Err(failure) => return Err(failure),
        }
    }
    Ok(missing)
}

impl Transaction {
    /// All keys that it names.
    fn keys(&self) -> BTreeSet<String> {
        let conditions = self.conditions.iter().map(|condition| condition.key.clone());
        conditions.chain(self.ops.iter().map(|op| key_of(op).to_owned())).collect()
    }

    /// The keys whose values an answer may show.
    fn shown(&self) -> BTreeSet<&str> {
        let gets = self.ops.iter().filter(|op| matches!(op, TxnOp::Get(_))).map(key_of);
        self.conditions.iter().map(|condition| condition.key.as_str()).chain(gets).collect()
    }

    /// Whether it is about one key that is missing, and does not put it. Then a read says all: the
    /// server could prove it only by creating a node and deleting it, which every watch would see.
    fn is_of_nothing(&self, looked: &Looked) -> bool {
        let missing = looked.values().all(|(_, state)| matches!(state, State::Missing { .. }));
        let puts = self.ops.iter().any(|op| matches!(op, TxnOp::Put(_)));
        looked.len() == 1 && missing && !puts && self.held.is_empty()
    }

    fn mismatches(&self, looked: &Looked) -> Vec<Mismatch> {
        let failed = (0u32..).zip(&self.conditions).filter_map(|(index, condition)| {
            let (_, state) = looked.get(&condition.key)?;
            let current = state.entry(&condition.key);
            (!super::plan::holds(&condition.expect, current.as_ref()))
                .then_some(Mismatch { index, current })
        });
        failed.collect()
    }

    fn before(&self, looked: &Looked) -> Vec<Option<Entry>> {
        let entry = |op| {
            let key = key_of(op);
            looked.get(key).and_then(|(_, state)| state.entry(key))
        };
        self.ops.iter().map(entry).collect()
    }
}

/// The key of an operation.
pub(super) fn key_of(op: &TxnOp) -> &str {
    match op {
        TxnOp::Get(key) | TxnOp::Delete(key) => key,
        TxnOp::Put(put) => &put.key,
    }
}
