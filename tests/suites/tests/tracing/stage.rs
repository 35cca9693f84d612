//! Hosts with tracing backends.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::{Result, ensure};
use pintle::{Pintle, tracing::PipelineStatus};
use pintle_test_suites::{Sandbox, within};

use crate::generate::{Trace, requests, span_count};

/// A host, and the folder that it lives in.
pub(crate) struct Stage {
    pub(crate) pintle: Pintle,
    _sandbox: Sandbox,
}

/// One backend for traces.
pub(crate) struct Sink {
    name: &'static str,
    plugin: &'static str,
    endpoint: SocketAddr,
    settings: Vec<String>,
}

impl Sink {
    pub(crate) fn new(name: &'static str, plugin: &'static str, endpoint: SocketAddr) -> Self {
        Self { name, plugin, endpoint, settings: Vec::new() }
    }

    /// Adds a line to its settings.
    pub(crate) fn set(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }
}

impl Stage {
    /// A host that brings spans to these backends; `tracing` is lines of `[tracing]`.
    pub(crate) async fn new(sinks: &[Sink], tracing: &str) -> Result<Self> {
        let mut plugins: Vec<_> =
            sinks.iter().map(|sink| format!("plugins/{}", sink.plugin)).collect();
        plugins.sort_unstable();
        plugins.dedup();
        let plugins: Vec<_> = plugins.iter().map(String::as_str).collect();
        let sandbox = Sandbox::new(&plugins)?;
        let names: Vec<_> = sinks.iter().map(|sink| sink.name).collect();
        let mut text = format!("[defaults]\ntracing = {names:?}\n[tracing]\n{tracing}\n");
        for Sink { name, plugin, endpoint, settings } in sinks {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "[backends.{name}]\nplugin = {plugin:?}");
            let _ = writeln!(text, "endpoints = [\"{endpoint}\"]\nlimits = {{ call = \"30s\" }}");
            let _ = writeln!(text, "[backends.{name}.settings]\n{}", settings.join("\n"));
        }
        let pintle = within("the start of a host", sandbox.start(&text)).await??;
        Ok(Self { pintle, _sandbox: sandbox })
    }

    /// Reports traces as their processes would, and waits until they are settled.
    pub(crate) async fn report(&self, traces: &[Trace]) -> Result<PipelineStatus> {
        for request in requests(traces, 100) {
            self.pintle.pipeline().offer(request)?;
        }
        self.settled().await
    }

    /// Waits until nothing is pending.
    pub(crate) async fn settled(&self) -> Result<PipelineStatus> {
        let limit = std::time::Duration::from_secs(240);
        tokio::time::timeout(limit, self.pintle.pipeline().flush()).await?;
        let status = self.pintle.pipeline().status();
        ensure!(status.adds_up(), "{status:?}");
        Ok(status)
    }
}

/// Every span was delivered to every sink.
pub(crate) fn assert_all_delivered(status: &PipelineStatus, traces: &[Trace]) {
    assert_eq!(status.received, span_count(traces));
    for sink in &status.sinks {
        assert_eq!(sink.delivered, status.received, "{sink:?}");
    }
}
