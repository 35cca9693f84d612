//! Governance host: configuration, registry, locks and tracing over sandboxed plugins.
