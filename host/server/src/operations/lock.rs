//! Locks and elections.

use pintle_api::{leader::Election, lock::*};

use super::{Kind, Operation, Output, Verb, json, query};

const LEASE: &str = "/v1/backends/{backend}/locks/{name}/leases/{id}";
const TERM: &str = "/v1/backends/{backend}/leaders/{election}/leases/{term}";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::change("lock.acquire", Verb::Put, LEASE, "Acquire a lock under an id of the client's, and wait for it as long as is asked; asking again finds the same lease")
        .takes(json::<Acquire>())
        .answers(json::<Lease>())
        .waits()
        .example("", r#"{"ttl_ms":15000,"owner":"example"}"#, 200),
    Operation::read("lock.list", "/v1/backends/{backend}/locks", "List the locks that somebody holds or waits for")
        .query(query::<ListQuery>)
        .answers(json::<LocksPage>()),
    Operation::read("lock.show", "/v1/backends/{backend}/locks/{name}", "Who holds a lock, and who waits")
        .answers(json::<LockState>()),
    Operation::read("lock.watch", "/v1/backends/{backend}/locks/{name}/watch", "Watch who holds a lock")
        .output(Output::Events(&[("state", json::<LockState>())]))
        .waits(),
    Operation::read("lock.lease", LEASE, "Read a lease; with `wait_ms` wait for its loss")
        .query(query::<LeaseQuery>)
        .answers(json::<Lease>())
        .waits(),
    Operation::change("lock.keepalive", Verb::Post, "/v1/backends/{backend}/locks/{name}/leases/{id}/keepalive", "Prolong a lease")
        .kind(Kind::Read)
        .answers(json::<Lease>()),
    Operation::change("lock.release", Verb::Delete, LEASE, "Release a lease")
        .answers(json::<Released>()),
    Operation::change("lock.force-release", Verb::Delete, "/v1/backends/{backend}/locks/{name}/claims/{claim}", "Take a claim away from whoever has it")
        .answers(json::<Released>()),
    Operation::change("leader.campaign", Verb::Put, TERM, "Stand for election under an id of the client's, and wait as long as is asked")
        .takes(json::<Acquire>())
        .answers(json::<Lease>())
        .waits()
        .example("", r#"{"ttl_ms":15000,"owner":"node-1"}"#, 200),
    Operation::read("leader.show", "/v1/backends/{backend}/leaders/{election}", "Who leads, and who would like to")
        .answers(json::<Election>()),
    Operation::read("leader.watch", "/v1/backends/{backend}/leaders/{election}/watch", "Watch who leads")
        .output(Output::Events(&[("state", json::<LockState>())]))
        .waits(),
    Operation::read("leader.term", TERM, "Read a term; with `wait_ms` wait for its loss")
        .query(query::<LeaseQuery>)
        .answers(json::<Lease>())
        .waits(),
    Operation::change("leader.keepalive", Verb::Post, "/v1/backends/{backend}/leaders/{election}/leases/{term}/keepalive", "Prolong a term")
        .kind(Kind::Read)
        .answers(json::<Lease>()),
    Operation::change("leader.resign", Verb::Delete, TERM, "Give the leadership up")
        .answers(json::<Released>()),
];
