//! Registry.

use pintle_api::{event, registry::*};

use super::{Kind, Operation, Output, Verb, json, query};

const INSTANCE: &str = "/v1/backends/{backend}/registry/services/{service}/instances/{id}";
const KEEPALIVE: &str =
    "/v1/backends/{backend}/registry/services/{service}/instances/{id}/keepalive";
const OVERRIDE: &str = "/v1/backends/{backend}/registry/services/{service}/instances/{id}/override";

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::change(
        "registry.register",
        Verb::Put,
        INSTANCE,
        "Register an instance, renew or change its registration, or store a persistent one",
    )
    .takes(json::<Register>())
    .answers(json::<Registration>())
    .example("", r#"{"instance":{"host":"127.0.0.1","port":8080},"owner":"example"}"#, 200),
    Operation::read(
        "registry.services",
        "/v1/backends/{backend}/registry/services",
        "List the services that have instances",
    )
    .query(query::<ListQuery>)
    .answers(json::<ServicesPage>()),
    Operation::read(
        "registry.instances",
        "/v1/backends/{backend}/registry/services/{service}/instances",
        "List the instances of a service",
    )
    .query(query::<ListQuery>)
    .answers(json::<InstancesPage>()),
    Operation::read(
        "registry.watch",
        "/v1/backends/{backend}/registry/watch",
        "Watch the instances of one service, or of all; `Last-Event-ID` resumes",
    )
    .query(query::<WatchQuery>)
    .output(Output::Events(&[
        ("put", json::<event::InstancePut>()),
        ("removed", json::<event::InstanceRemoved>()),
        ("resync", json::<event::Resync>()),
    ]))
    .waits()
    .example("service=web", "", 200),
    Operation::change("registry.keepalive", Verb::Post, KEEPALIVE, "Say that an instance lives")
        .kind(Kind::Read)
        .query(query::<OwnerQuery>)
        .answers(json::<Registration>())
        .example("owner=example", "", 200),
    Operation::change(
        "registry.override",
        Verb::Put,
        OVERRIDE,
        "Set what an operator says of an instance; it wins over what the instance says",
    )
    .takes(json::<Override>())
    .example("", r#"{"enabled":false,"note":"maintenance"}"#, 204),
    Operation::change(
        "registry.clear-override",
        Verb::Delete,
        OVERRIDE,
        "Take back what an operator said of an instance",
    )
    .example("", "", 204),
    Operation::change(
        "registry.remove",
        Verb::Delete,
        INSTANCE,
        "End a registration, or remove a persistent instance",
    )
    .query(query::<OwnerQuery>)
    .answers(json::<Removed>())
    .example("owner=example", "", 200),
];
