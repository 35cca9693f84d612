//! Configuration.

use pintle_api::{config::*, event};

use super::{Operation, Output, Verb, json, query};

const KEYS: &str = "/v1/backends/{backend}/config/keys";
const KEY: &str = "/v1/backends/{backend}/config/keys/{*key}";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::change("config.put", Verb::Put, KEY, "Write a key; `If-Match` and `If-None-Match` say what it expects")
        .query(query::<WriteQuery>)
        .bytes()
        .answers(json::<Stored>())
        .example("", "hello", 200),
    Operation::read("config.get", KEY, "Read a key: its bytes, or with `Accept: application/json` the whole entry")
        .query(query::<GetQuery>)
        .output(Output::BytesOr(json::<Entry>())),
    Operation::read("config.list", KEYS, "List the keys below a prefix, in the order of their bytes")
        .query(query::<ListQuery>)
        .answers(json::<EntriesPage>())
        .example("prefix=app&limit=100", "", 200),
    Operation::read("config.get-many", "/v1/backends/{backend}/config/get", "Read several keys at once")
        .verb(Verb::Post)
        .takes(json::<GetMany>())
        .answers(json::<GotMany>())
        .example("", r#"{"keys":["app/greeting","app/none"]}"#, 200),
    Operation::read("config.watch", "/v1/backends/{backend}/config/watch", "Watch a key or a prefix: the present state, then each change; `Last-Event-ID` resumes")
        .query(query::<WatchQuery>)
        .output(Output::Events(&[
            ("put", json::<event::EntryPut>()),
            ("removed", json::<event::EntryRemoved>()),
            ("resync", json::<event::Resync>()),
        ]))
        .waits()
        .example("prefix=app", "", 200),
    Operation::read("config.history", "/v1/backends/{backend}/config/history", "The past of a key, newest first")
        .query(query::<HistoryQuery>)
        .answers(json::<HistoryPage>())
        .example("key=app%2Fgreeting&limit=10", "", 200),
    Operation::change("config.txn", Verb::Post, "/v1/backends/{backend}/config/txn", "Several operations at one moment, or none of them")
        .takes(json::<Txn>())
        .answers(json::<Committed>())
        .example(
            "",
            r#"{"conditions":[{"key":"app/greeting","expect":"exists"}],"ops":[{"op":"put","key":"app/other","value":"1"}]}"#,
            200,
        ),
    Operation::change("config.delete", Verb::Delete, KEY, "Delete a key; `If-Match` says which version it expects")
        .query(query::<WriteQuery>)
        .answers(json::<Deleted>()),
    Operation::change("config.delete-prefix", Verb::Delete, KEYS, "Delete everything below a prefix")
        .query(query::<DeletePrefixQuery>)
        .answers(json::<DeletedPrefix>())
        .example("prefix=app", "", 200),
];
