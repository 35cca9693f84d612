//! The server itself, backends, plugins, settings, access.

use pintle_api::{
    access::{Access, CreateToken, CreatedToken, Revoked, Role, Tokens},
    audit::{AuditPage, AuditQuery},
    backend::{Backend, Backends, Check, Liveness, Readiness},
    plugin::{AcceptQuery, Plugin, Plugins},
    server::LogLevel,
    settings::Settings,
};

use super::{Operation, Output, Verb, json, query};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::read("server.live", "/healthz", "Whether the server lives")
        .for_anybody()
        .answers(json::<Liveness>()),
    Operation::read(
        "server.ready",
        "/readyz",
        "Whether every backend runs; who has no token is not told which do not",
    )
    .for_anybody()
    .answers(json::<Readiness>()),
    Operation::read("server.openapi", "/v1/openapi.json", "This description")
        .for_anybody()
        .output(Output::Description),
    Operation::read("server.metrics", "/metrics", "Metrics, as Prometheus reads them")
        .output(Output::Metrics),
    Operation::read("server.access", "/v1/access", "What the server takes the caller for")
        .for_limited()
        .answers(json::<Access>()),
    Operation::read("server.log-level", "/v1/server/log-level", "What is logged")
        .role(Role::Admin)
        .answers(json::<LogLevel>()),
    Operation::manage(
        "server.set-log-level",
        Verb::Put,
        "/v1/server/log-level",
        "Set what is logged, until the server ends",
    )
    .takes(json::<LogLevel>())
    .answers(json::<LogLevel>())
    .example("", r#"{"filter":"warn,pintle=debug"}"#, 200),
    Operation::read(
        "settings.show",
        "/v1/settings",
        "The settings in force, where each was set, and no secrets",
    )
    .answers(json::<Settings>()),
    Operation::read("backend.list", "/v1/backends", "List the backends and how they stand")
        .for_limited()
        .answers(json::<Backends>()),
    Operation::read("backend.show", "/v1/backends/{backend}", "How a backend stands")
        .answers(json::<Backend>()),
    Operation::read(
        "backend.check",
        "/v1/backends/{backend}/check",
        "Ask the plugin of a backend how its server is",
    )
    .verb(Verb::Post)
    .role(Role::Operator)
    .answers(json::<Check>()),
    Operation::manage(
        "backend.restart",
        Verb::Post,
        "/v1/backends/{backend}/restart",
        "End the plugin of a backend and start it again, also where the server had given up on it",
    )
    .answers(json::<Backend>()),
    Operation::read("plugin.list", "/v1/plugins", "List the files in the plugins' directory")
        .answers(json::<Plugins>()),
    Operation::read(
        "plugin.show",
        "/v1/plugins/{plugin}",
        "What a plugin offers, needs and takes as settings",
    )
    .answers(json::<Plugin>()),
    Operation::manage(
        "plugin.accept",
        Verb::Post,
        "/v1/plugins/{plugin}/accept",
        "Let the file of a plugin take over that lies in the plugins' directory",
    )
    .query(query::<AcceptQuery>)
    .answers(json::<Plugin>()),
    Operation::manage(
        "token.create",
        Verb::Post,
        "/v1/tokens",
        "Make an access token; from the first one on every caller is asked for one",
    )
    .takes(json::<CreateToken>())
    .answers(json::<CreatedToken>())
    .example("", r#"{"name":"ci","role":"operator","expires_in_ms":86400000}"#, 200),
    Operation::read("token.list", "/v1/tokens", "List the access tokens, without their secrets")
        .role(Role::Admin)
        .answers(json::<Tokens>()),
    Operation::manage(
        "token.revoke",
        Verb::Delete,
        "/v1/tokens/{token}",
        "Revoke an access token; what it watches ends",
    )
    .answers(json::<Revoked>()),
    Operation::read("audit.list", "/v1/audit", "Who changed what, newest first")
        .role(Role::Admin)
        .query(query::<AuditQuery>)
        .answers(json::<AuditPage>())
        .example("operation=config&limit=10", "", 200),
];
