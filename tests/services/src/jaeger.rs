//! Jaeger in one process, with its spans in memory.

use std::net::SocketAddr;
use std::process::Command;

use crate::{Artifact, Port, Result, Single, single};

/// A Jaeger process; stopped when dropped.
#[derive(Debug)]
pub struct Jaeger {
    /// The process.
    pub server: Single,
    grpc: Port,
    http: Port,
    query: Port,
    _others: Vec<Port>,
}

/// Ports that it opens as well, and that have to be free.
const OTHERS: [&str; 8] = [
    "collector.zipkin.host-port",
    "query.grpc-server.host-port",
    "collector.grpc-server.host-port",
    "collector.http-server.host-port",
    "http-server.host-port",
    "processor.jaeger-binary.server-host-port",
    "processor.jaeger-compact.server-host-port",
    "processor.zipkin-compact.server-host-port",
];

impl Jaeger {
    /// Starts it and waits until it serves. Fetches it first where it is missing, which takes some
    /// minutes.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not ready in time; the error shows its log.
    pub async fn start() -> Result<Self> {
        let program = Artifact::Jaeger162.fetch_in_background().await?.join("bin/jaeger");
        let (grpc, http, query, admin) =
            (Port::free()?, Port::free()?, Port::free()?, Port::free()?);
        let mut command = Command::new(program);
        command.env("SPAN_STORAGE_TYPE", "memory").arg("--collector.otlp.enabled=true");
        let mut listen = |name: &str, port: &Port| {
            command.arg(format!("--{name}=127.0.0.1:{}", port.number()));
        };
        listen("collector.otlp.grpc.host-port", &grpc);
        listen("collector.otlp.http.host-port", &http);
        listen("query.http-server.host-port", &query);
        listen("admin.http.host-port", &admin);
        let mut others = Vec::new();
        for name in OTHERS {
            let port = Port::free()?;
            listen(name, &port);
            others.push(port);
        }
        let ready = (admin.address(), "/");
        others.push(admin);
        let server = Single::start("jaeger", command, ready, single::folder("jaeger")?).await?;
        Ok(Self { server, grpc, http, query, _others: others })
    }

    /// Where OTLP is taken over gRPC.
    pub fn otlp_grpc(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// Where OTLP is taken over HTTP.
    pub fn otlp_http(&self) -> SocketAddr {
        self.http.address()
    }

    /// Where traces are asked for.
    pub fn query(&self) -> SocketAddr {
        self.query.address()
    }
}
