//! Zipkin, with its spans in memory.

use std::net::SocketAddr;
use std::process::Command;

use crate::{Artifact, Port, Result, Single, single};

/// A Zipkin process; stopped when dropped.
#[derive(Debug)]
pub struct Zipkin {
    /// The process.
    pub server: Single,
    port: Port,
}

impl Zipkin {
    /// Starts it and waits until it serves. Fetches it first where it is missing.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not ready in time; the error shows its log.
    pub async fn start() -> Result<Self> {
        let jars = Artifact::Zipkin36.fetch_in_background().await?.join("lib");
        let port = Port::free()?;
        let mut command = Command::new("java");
        command.args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg("-jar").arg(jars.join("zipkin-server-3.6.1-slim.jar"));
        // On loopback only, which takes all three.
        command.arg("--armeria.ports[0].ip=127.0.0.1");
        command.arg(format!("--armeria.ports[0].port={}", port.number()));
        command.arg("--armeria.ports[0].protocols[0]=http");
        let ready = (port.address(), "/health");
        let server = Single::start("zipkin", command, ready, single::folder("zipkin")?).await?;
        Ok(Self { server, port })
    }

    /// Where spans are taken and asked for.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}
