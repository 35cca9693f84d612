//! Configuration in short.

use pintle::direct::{
    config::{
        DeleteOutcome, DeleteRequest, Entry, Expectation, ListRequest, Page, PutOutcome,
        PutRequest, ReadOptions, Target, WatchRequest,
    },
    types::Consistency,
};

use super::{Owner, call};
use crate::check::{Outcome, Stop, ensure};

/// A read that asks for nothing but freshness.
pub(crate) fn read(consistency: Consistency) -> ReadOptions {
    ReadOptions { consistency, at: None, selectors: Vec::new() }
}

/// A write that asks for nothing.
pub(crate) fn write(key: &str, value: impl Into<Vec<u8>>) -> PutRequest {
    PutRequest {
        key: key.to_owned(),
        value: value.into(),
        content_type: None,
        expect: Expectation::Anything,
        held: None,
        previous: false,
        selectors: Vec::new(),
    }
}

/// A deletion that asks for nothing.
pub(crate) fn anything(key: &str) -> DeleteRequest {
    DeleteRequest {
        key: key.to_owned(),
        expect: Expectation::Anything,
        held: None,
        previous: false,
        selectors: Vec::new(),
    }
}

/// A write with a content type.
pub(crate) fn typed(key: &str, value: &str, content_type: &str) -> PutRequest {
    PutRequest { content_type: Some(content_type.to_owned()), ..write(key, value) }
}

impl Owner {
    /// The freshest read that the plugin declares.
    pub(crate) fn fresh(&self) -> ReadOptions {
        read(self.freshest())
    }

    /// The best consistency that the plugin declares.
    pub(crate) fn freshest(&self) -> Consistency {
        if self.has("config.linearizable") {
            Consistency::Linearizable
        } else {
            Consistency::Sequential
        }
    }

    /// Reads a key.
    pub(crate) async fn get(&self, key: &str) -> Outcome<Option<Entry>> {
        Ok(self.raw.config_get(call(), key.to_owned(), self.fresh()).await?)
    }

    /// Reads a key that has to be there.
    pub(crate) async fn get_present(&self, key: &str) -> Outcome<Entry> {
        let found = self.get(key).await?;
        found.ok_or_else(|| Stop::Broken(format!("{key} was stored, and a get answers none")))
    }

    /// Writes a key whatever is there, and answers the version.
    pub(crate) async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Outcome<String> {
        self.put_as(write(key, value)).await
    }

    /// Makes a write that has to succeed, and answers the version.
    pub(crate) async fn put_as(&self, request: PutRequest) -> Outcome<String> {
        let key = request.key.clone();
        match self.raw.config_put(call(), request).await? {
            PutOutcome::Stored(stored) => Ok(stored.version),
            other => Err(Stop::Broken(format!("a put of {key} has to succeed, and is {other:?}"))),
        }
    }

    /// Writes a key if the expectation holds.
    pub(crate) async fn put_if(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        expect: Expectation,
    ) -> Outcome<PutOutcome> {
        let request = PutRequest { expect, ..write(key, value) };
        Ok(self.raw.config_put(call(), request).await?)
    }

    /// Deletes a key that has to be there.
    pub(crate) async fn delete(&self, key: &str) -> Outcome {
        let outcome = self.raw.config_delete(call(), anything(key)).await?;
        ensure!(
            matches!(outcome, DeleteOutcome::Deleted(_)),
            "{key} was there, and a delete answers {outcome:?}"
        );
        Ok(())
    }

    /// The first page of keys below a prefix.
    pub(crate) async fn page(&self, prefix: &str, limit: u32) -> Outcome<Page> {
        let request = ListRequest {
            prefix: prefix.to_owned(),
            page: None,
            limit,
            keys_only: true,
            options: self.fresh(),
        };
        Ok(self.raw.config_list(call(), request).await?)
    }

    /// Everything below a prefix, over as many pages as there are.
    pub(crate) async fn list(&self, prefix: &str, limit: u32) -> Outcome<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut page = None;
        // A plugin whose pages never end must not hold the suite.
        for _ in 0..1_000 {
            let request = ListRequest {
                prefix: prefix.to_owned(),
                page: page.take(),
                limit,
                keys_only: false,
                options: self.fresh(),
            };
            let found = self.raw.config_list(call(), request).await?;
            let len = found.entries.len();
            ensure!(
                u32::try_from(len).is_ok_and(|len| len <= limit),
                "a page of at most {limit} entries has {len}"
            );
            entries.extend(found.entries);
            match found.next {
                Some(next) => page = Some(next),
                None => return Ok(entries),
            }
        }
        Err(Stop::Broken("a listing did not end within 1,000 pages".into()))
    }

    /// The keys of [`Self::list`].
    pub(crate) async fn keys(&self, prefix: &str) -> Outcome<Vec<String>> {
        Ok(self.list(prefix, 1_000).await?.into_iter().map(|entry| entry.key).collect())
    }

    /// Opens a watch from a snapshot on, and answers its number.
    pub(crate) async fn watch(&self, target: Target) -> Outcome<u64> {
        self.watch_as(WatchRequest {
            target,
            from_version: None,
            previous: false,
            selectors: Vec::new(),
        })
        .await
    }

    /// Opens a watch on everything below a prefix.
    pub(crate) async fn watch_below(&self, prefix: &str) -> Outcome<u64> {
        self.watch(Target::Prefix(prefix.to_owned())).await
    }

    /// Opens a watch.
    pub(crate) async fn watch_as(&self, request: WatchRequest) -> Outcome<u64> {
        let id = self.id();
        self.raw.config_watch(call(), id, request).await?;
        Ok(id)
    }
}
