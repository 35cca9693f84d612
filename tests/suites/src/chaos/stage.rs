//! A server, and one host with many backends on it, each through a proxy of its own.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::{Context, Result};
use pintle::Pintle;
use pintle_test_proxy::Proxy;

use super::backend::{Backend, Control as _};
use crate::{Sandbox, within};

/// One server, and backends `b0`, `b1` … of one host.
pub struct Stage<B: Backend> {
    /// The server.
    pub server: B::Server,
    /// The host.
    pub host: Host,
}

/// A host with a proxy for each of its backends.
pub struct Host {
    /// The host.
    pub pintle: Pintle,
    /// In the order of the backends.
    pub proxies: Vec<Proxy>,
    _sandbox: Sandbox,
}

impl<B: Backend> Stage<B> {
    /// Starts a server, and a host with so many backends.
    ///
    /// # Errors
    ///
    /// Fails when one of them does not start.
    pub async fn start(backends: usize) -> Result<Self> {
        let server = B::start().await?;
        let host = Host::start::<B>(B::address(&server), backends).await?;
        Ok(Self { server, host })
    }

    /// A native client that reaches the server directly.
    ///
    /// # Errors
    ///
    /// Fails when it does not connect.
    pub async fn control(&self) -> Result<B::Control> {
        B::Control::connect(&[B::address(&self.server).to_string()]).await
    }
}

impl Host {
    /// Backends that reach the server at this address.
    ///
    /// # Errors
    ///
    /// Fails when the host does not start.
    pub async fn start<B: Backend>(server: SocketAddr, backends: usize) -> Result<Self> {
        let mut proxies = Vec::new();
        for _ in 0..backends {
            proxies.push(proxy::<B>(server).await?);
        }
        let endpoints: Vec<Vec<String>> =
            proxies.iter().map(|proxy| vec![proxy.addr().to_string()]).collect();
        Self::with::<B>(proxies, &endpoints).await
    }

    /// Backends with these endpoints.
    ///
    /// # Errors
    ///
    /// Fails when the host does not start.
    pub async fn with<B: Backend>(proxies: Vec<Proxy>, endpoints: &[Vec<String>]) -> Result<Self> {
        let (plugin, settings) = (B::NAME, B::SETTINGS);
        let sandbox = Sandbox::new(&[&format!("plugins/{plugin}")])?;
        let mut text = "node = \"chaos\"\n".to_owned();
        for (number, endpoints) in endpoints.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "[backends.b{number}]\nplugin = {plugin:?}\nendpoints = {endpoints:?}\n\
                 settings = {{ {settings} }}\n"
            );
        }
        let pintle = within("the start of the host", sandbox.start(&text)).await??;
        Ok(Self { pintle, proxies, _sandbox: sandbox })
    }

    /// The proxy of a backend.
    ///
    /// # Errors
    ///
    /// Fails when there is no such backend.
    pub fn proxy(&self, number: usize) -> Result<&Proxy> {
        self.proxies.get(number).with_context(|| format!("there is no proxy {number}"))
    }

    /// The name of a backend.
    #[must_use]
    pub fn name(number: usize) -> String {
        format!("b{number}")
    }
}

/// A proxy that understands the backend's messages.
///
/// # Errors
///
/// Fails when it cannot listen.
pub async fn proxy<B: Backend>(server: SocketAddr) -> Result<Proxy> {
    Ok(Proxy::builder(server).framing(B::framing()).start().await?)
}
