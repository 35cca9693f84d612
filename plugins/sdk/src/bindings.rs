//! What `wit-bindgen` makes of the WIT packages: one world per capability, so that a plugin exports
//! exactly what it implements.
//!
//! The records compile natively too. Authors meet them as re-exports of the capability modules.
#![allow(missing_docs, unreachable_pub, reason = "generated from the documented WIT")]
#![allow(unsafe_code, reason = "the generated canonical ABI glue")]
#![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, reason = "generated")]
#![allow(clippy::panic, clippy::indexing_slicing, reason = "generated")]

pub mod base {
    wit_bindgen::generate!({
        path: ["../../wit/plugin"],
        world: "pintle:plugin/plugin",
        pub_export_macro: true,
        generate_unused_types: true,
        additional_derives: [PartialEq, Eq],
    });
}

pub mod config {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/config"],
        world: "pintle:config/config-provider",
        pub_export_macro: true,
        additional_derives: [PartialEq, Eq],
        with: { "pintle:plugin/types@0.1.0": crate::bindings::base::pintle::plugin::types },
    });
}

pub mod registry {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/registry"],
        world: "pintle:registry/registry-provider",
        pub_export_macro: true,
        additional_derives: [PartialEq, Eq],
        with: { "pintle:plugin/types@0.1.0": crate::bindings::base::pintle::plugin::types },
    });
}

pub mod lock {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/lock"],
        world: "pintle:lock/lock-provider",
        pub_export_macro: true,
        additional_derives: [PartialEq, Eq],
        with: { "pintle:plugin/types@0.1.0": crate::bindings::base::pintle::plugin::types },
    });
}

pub mod tracing {
    wit_bindgen::generate!({
        path: ["../../wit/plugin", "../../wit/tracing"],
        world: "pintle:tracing/tracing-provider",
        pub_export_macro: true,
        additional_derives: [PartialEq, Eq],
        with: { "pintle:plugin/types@0.1.0": crate::bindings::base::pintle::plugin::types },
    });
}

/// Shorter names for the generated modules.
pub mod wire {
    pub use super::base::exports::pintle::plugin::lifecycle;
    pub use super::base::pintle::plugin::{host, types};
    pub use super::config::exports::pintle::config::config;
    pub use super::lock::exports::pintle::lock::lock;
    pub use super::registry::exports::pintle::registry::registry;
    pub use super::tracing::exports::pintle::tracing::tracing;
}
