//! Configuration over HTTP.

use bytes::Bytes;
use http::header;
use pintle_api::{
    address,
    config::{
        Committed, DeletePrefixQuery, Deleted, DeletedPrefix, EntriesPage, Entry, Expect, Format,
        GetMany, GetQuery, GotMany, HistoryPage, HistoryQuery, ListQuery, Mismatch, Stored, Txn,
        WatchQuery, WriteQuery,
    },
    etag,
    event::ConfigEvent,
    problem::code,
};

use crate::{
    error::ClientError,
    transport::{Call, Client, unless_not_found},
    watch::Watch,
};

/// Configuration of one backend.
#[derive(Debug, Clone)]
pub struct Config {
    client: Client,
    backend: String,
}

/// A write of one key.
#[derive(Debug, Clone, Default)]
pub struct Put {
    /// Where.
    pub key: String,
    /// What.
    pub value: Bytes,
    /// Media type.
    pub content_type: Option<String>,
    /// What has to be true of the key.
    pub expect: Expect,
    /// Lease held, previous value.
    pub query: WriteQuery,
}

/// A removal of one key.
#[derive(Debug, Clone, Default)]
pub struct Delete {
    /// Which.
    pub key: String,
    /// What has to be true of the key.
    pub expect: Expect,
    /// Lease held, previous value.
    pub query: WriteQuery,
}

/// How a write went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome<T> {
    /// It happened.
    Done(T),
    /// The expectation did not hold; what is there now.
    Stale(Option<Box<Entry>>),
    /// The lease that it names is not held any more.
    Fenced,
}

/// How a transaction went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It happened.
    Committed(Committed),
    /// Nothing was done: the conditions that did not hold.
    Stale(Vec<Mismatch>),
    /// A lease is not held any more.
    Fenced,
}

impl Config {
    pub(crate) fn new(client: Client, backend: &str) -> Self {
        Self { client, backend: backend.into() }
    }

    /// The entry under `key`, or none.
    ///
    /// # Errors
    /// Any of [`ClientError`]; that there is no value is none.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, ClientError> {
        self.get_with(key, GetQuery::default()).await
    }

    /// The entry under `key`, read as `query` says.
    ///
    /// # Errors
    /// Any of [`ClientError`]; that there is no value is none.
    pub async fn get_with(&self, key: &str, query: GetQuery) -> Result<Option<Entry>, ClientError> {
        let query = GetQuery { format: Some(Format::Json), ..query };
        let call = Call::get(address::config_key(&self.backend, key)).query(&query)?;
        unless_not_found(self.client.json(call).await)
    }

    /// Several keys at once, at most 128; one result for each, in order.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn get_many(&self, request: &GetMany) -> Result<Vec<Option<Entry>>, ClientError> {
        let call = Call::post(address::config(&self.backend, "get")).json(request)?;
        let found: GotMany = self.client.json(call).await?;
        Ok(found.entries)
    }

    /// One page of the keys below a prefix.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn list(&self, query: &ListQuery) -> Result<EntriesPage, ClientError> {
        let call = Call::get(address::config(&self.backend, "keys")).query(query)?;
        self.client.json(call).await
    }

    /// Writes a key.
    ///
    /// # Errors
    /// Any of [`ClientError`]. With [`pintle_api::Effect::Unknown`] it may have been written.
    pub async fn put(&self, put: Put) -> Result<WriteOutcome<Stored>, ClientError> {
        let mut call = Call::put(address::config_key(&self.backend, &put.key))
            .query(&put.query)?
            .body(put.value);
        if let Some(content_type) = &put.content_type {
            call = call.header(header::CONTENT_TYPE, content_type)?;
        }
        let call = expecting(call, &put.expect)?;
        written(self.client.json(call).await)
    }

    /// Deletes a key. That there is none is no error.
    ///
    /// # Errors
    /// Any of [`ClientError`]. With [`pintle_api::Effect::Unknown`] it may have been deleted.
    pub async fn delete(&self, delete: Delete) -> Result<WriteOutcome<Deleted>, ClientError> {
        let call =
            Call::delete(address::config_key(&self.backend, &delete.key)).query(&delete.query)?;
        let call = expecting(call, &delete.expect)?;
        written(self.client.json(call).await)
    }

    /// Deletes everything below a prefix.
    ///
    /// # Errors
    /// Any of [`ClientError`]. With [`pintle_api::Effect::Unknown`] some may have been deleted.
    pub async fn delete_prefix(
        &self,
        query: &DeletePrefixQuery,
    ) -> Result<WriteOutcome<DeletedPrefix>, ClientError> {
        let call = Call::delete(address::config(&self.backend, "keys")).query(query)?;
        written(self.client.json(call).await)
    }

    /// Several operations at one moment, or none.
    ///
    /// # Errors
    /// Any of [`ClientError`]. With [`pintle_api::Effect::Unknown`] it may have happened.
    pub async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, ClientError> {
        let call = Call::post(address::config(&self.backend, "txn")).json(txn)?;
        match self.client.json(call).await {
            Ok(committed) => Ok(TxnOutcome::Committed(committed)),
            Err(ClientError::Problem(problem)) if problem.code() == code::STALE => {
                Ok(TxnOutcome::Stale(problem.mismatches))
            }
            Err(error) if error.code() == code::FENCED => Ok(TxnOutcome::Fenced),
            Err(error) => Err(error),
        }
    }

    /// One page of the past of a key, newest first.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, ClientError> {
        let call = Call::get(address::config(&self.backend, "history")).query(query)?;
        self.client.json(call).await
    }

    /// Watches one key.
    ///
    /// # Errors
    /// Any of [`ClientError`], if the first connection does not come about.
    pub async fn watch_key(&self, key: &str) -> Result<Watch<ConfigEvent>, ClientError> {
        self.watch(&WatchQuery { key: Some(key.into()), ..WatchQuery::default() }).await
    }

    /// Watches everything below a prefix; empty for everything.
    ///
    /// # Errors
    /// Any of [`ClientError`], if the first connection does not come about.
    pub async fn watch_prefix(&self, prefix: &str) -> Result<Watch<ConfigEvent>, ClientError> {
        self.watch(&WatchQuery { prefix: Some(prefix.into()), ..WatchQuery::default() }).await
    }

    /// Watches what `query` names: from a snapshot on, or every change after a version.
    ///
    /// # Errors
    /// Any of [`ClientError`], if the first connection does not come about.
    pub async fn watch(&self, query: &WatchQuery) -> Result<Watch<ConfigEvent>, ClientError> {
        let call = Call::get(address::config(&self.backend, "watch")).query(query)?;
        Watch::open(self.client.clone(), call.into_target()).await
    }
}

impl Put {
    /// Writes `value` under `key`, whatever is there.
    pub fn new(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: value.into(), ..Self::default() }
    }
}

impl Delete {
    /// Deletes `key`, whatever is there.
    pub fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }
}

fn expecting(call: Call, expect: &Expect) -> Result<Call, ClientError> {
    match expect {
        Expect::Anything => Ok(call),
        Expect::Absent => call.header(header::IF_NONE_MATCH, "*"),
        Expect::Exists => call.header(header::IF_MATCH, "*"),
        Expect::Version(version) => call.header(header::IF_MATCH, &etag::format(version)),
    }
}

fn written<T>(result: Result<T, ClientError>) -> Result<WriteOutcome<T>, ClientError> {
    match result {
        Ok(value) => Ok(WriteOutcome::Done(value)),
        Err(ClientError::Problem(problem)) if problem.code() == code::STALE => {
            Ok(WriteOutcome::Stale(problem.current))
        }
        Err(error) if error.code() == code::FENCED => Ok(WriteOutcome::Fenced),
        Err(error) => Err(error),
    }
}
