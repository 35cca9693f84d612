//! The WIT packages as Rust, generated; nothing outside `plugin/` sees these types.
#![allow(missing_docs, unreachable_pub, reason = "generated; documented in wit/")]

wasmtime::component::bindgen!({
    inline: "
        package pintle:host;
        world everything {
            include pintle:plugin/plugin@0.1.0;
            include pintle:config/config-provider@0.1.0;
            include pintle:registry/registry-provider@0.1.0;
            include pintle:lock/lock-provider@0.1.0;
            include pintle:tracing/tracing-provider@0.1.0;
        }
    ",
    path: [
        "../../wit/plugin",
        "../../wit/config",
        "../../wit/registry",
        "../../wit/lock",
        "../../wit/tracing",
    ],
    world: "pintle:host/everything",
    imports: { default: trappable },
    exports: { default: async | store },
});

pub(crate) use self::pintle::plugin::host;
pub use self::pintle::plugin::types;
pub use exports::pintle::{
    config::config, lock::lock, plugin::lifecycle, registry::registry, tracing::tracing,
};
