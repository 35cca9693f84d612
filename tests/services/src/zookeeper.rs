//! ZooKeeper: one process, or an ensemble of three.

mod ensemble;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::etcd::run;
use crate::{Artifact, Error, Leaf, Port, Process, Result, TestCa, http, until};

pub use ensemble::ZooKeeperEnsemble;

const READY_LIMIT: Duration = Duration::from_secs(90);
const SERVER: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
const CLIENT: &str = "org.apache.zookeeper.ZooKeeperMain";

/// Of user `super`, password `s3cret`: base64 of the SHA-1 of `super:s3cret`.
const SUPER_DIGEST: &str = "super:3/BRixgtJK5zIu/gWZCB29+Rzoo=";

/// A line of ZooKeeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZooKeeperVersion {
    /// The last line without lasting watches.
    V3_5,
    /// The line of Debian bookworm.
    V3_8,
    /// The newest.
    #[default]
    V3_9,
}

/// How a ZooKeeper is started.
#[derive(Debug, Clone)]
pub struct ZooKeeperOptions {
    /// Which line.
    pub version: ZooKeeperVersion,
    /// A second client port with TLS.
    pub tls: Option<ZooKeeperTls>,
    /// The tick, from which session timeouts follow: 2 to 20 ticks.
    pub tick_ms: u32,
    /// In an ensemble, how many ticks a follower may be out of touch with its leader.
    pub sync_ticks: u32,
    /// More lines for its settings file, `key=value`.
    pub settings: Vec<String>,
    /// More arguments for `java`, such as `-Dkey=value`.
    pub java: Vec<String>,
}

/// TLS towards clients, on a port of its own.
#[derive(Debug, Clone)]
pub struct ZooKeeperTls {
    /// The server's certificate.
    pub server: Leaf,
    /// The authority's certificate, PEM file.
    pub authority: PathBuf,
    /// Refuses clients without a certificate of the authority.
    pub client_authentication: bool,
}

/// One ZooKeeper process, alone or in an ensemble; stopped when dropped.
///
/// The user `super` with password `s3cret` may do everything (scheme `digest`).
#[derive(Debug)]
pub struct ZooKeeper {
    name: String,
    options: ZooKeeperOptions,
    class_path: String,
    ports: Ports,
    process: Option<Process>,
    folder: TempDir,
}

#[derive(Debug)]
struct Ports {
    client: Port,
    secure: Port,
    quorum: Port,
    election: Port,
}

impl Default for ZooKeeperOptions {
    fn default() -> Self {
        let version = ZooKeeperVersion::default();
        Self {
            version,
            tls: None,
            tick_ms: 500,
            sync_ticks: 6,
            settings: Vec::new(),
            java: Vec::new(),
        }
    }
}

impl ZooKeeperTls {
    /// The usual TLS: a server's certificate of this authority.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn new(authority: &TestCa, client_authentication: bool) -> Result<Self> {
        let server = authority.server()?;
        Ok(Self { server, authority: authority.path().to_owned(), client_authentication })
    }
}

impl ZooKeeper {
    /// Starts a single ZooKeeper and waits until it serves. Fetches it first where it is missing.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not ready in time; the error shows its log.
    ///
    /// # Cancellation
    /// Dropping the future kills the process.
    pub async fn start(options: ZooKeeperOptions) -> Result<Self> {
        let jars = fetch(options.version).await?;
        let mut server = Self::prepare("zookeeper", options, &jars)?;
        server.configure(None)?;
        server.run()?;
        server.ready().await?;
        Ok(server)
    }

    /// Where plain clients connect, as `127.0.0.1:2181`.
    pub fn endpoint(&self) -> String {
        self.address().to_string()
    }

    /// Where plain clients connect.
    pub fn address(&self) -> SocketAddr {
        self.ports.client.address()
    }

    /// Where TLS clients connect, if TLS is on.
    pub fn secure_endpoint(&self) -> Option<String> {
        self.options.tls.as_ref().map(|_| self.ports.secure.address().to_string())
    }

    /// The running process.
    ///
    /// # Errors
    /// [`Error::State`] after [`kill`](Self::kill) or [`stop`](Self::stop).
    pub fn process(&mut self) -> Result<&mut Process> {
        let problem = || Error::State { name: self.name.clone(), problem: "not running".into() };
        self.process.as_mut().ok_or_else(problem)
    }

    /// Kills it (SIGKILL); its data stay.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Ends it (SIGTERM); its data stay.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub async fn stop(&mut self) -> Result<()> {
        self.process()?.stop().await?;
        self.process = None;
        Ok(())
    }

    /// Stops it from running (SIGSTOP): connections stay open and silent.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.process()?.pause()
    }

    /// Lets it run again (SIGCONT).
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.process()?.resume()
    }

    /// Starts it again on the same ports and data, killing it first if it runs, and waits until
    /// it serves.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.kill()?;
        }
        self.run()?;
        self.ready().await
    }

    /// Waits until it serves, which in an ensemble needs a majority.
    ///
    /// # Errors
    /// [`Error::Server`] with its log when that takes too long, or when it has ended.
    pub async fn ready(&mut self) -> Result<()> {
        let address = self.address();
        let process = self.process()?;
        let state = until(READY_LIMIT, || {
            let ended = process.ended();
            async move {
                if let Some(status) = ended {
                    return Some(Err(status));
                }
                // Not `ruok`: that is answered before any request is.
                let answer = http::exchange(address, "srvr").await.ok()?;
                answer.contains("Mode:").then_some(Ok(()))
            }
        });
        match state.await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => Err(process.error(format!("ended at once ({status})"))),
            None => Err(process.error(format!("was not ready in {} s", READY_LIMIT.as_secs()))),
        }
    }

    /// The answer to a four-letter word: `ruok`, `mntr`, `srvr`, `stat`, `conf`, `cons`, `isro`.
    ///
    /// # Errors
    /// [`Error::Request`] when it does not answer.
    pub async fn four_letter_word(&self, word: &str) -> Result<String> {
        http::exchange(self.address(), word).await
    }

    /// Runs ZooKeeper's own command line against it and gives all that it prints.
    ///
    /// # Errors
    /// [`Error::Command`] with what it says.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &self.class_path, CLIENT]);
        command.args(["-server", &self.endpoint()]).args(arguments);
        run(command).await
    }

    /// The same over TLS with a client's certificate.
    ///
    /// # Errors
    /// [`Error::State`] without TLS, [`Error::Command`] with what it says.
    pub async fn ctl_as(&self, client: &Leaf, arguments: &[&str]) -> Result<String> {
        let (Some(tls), Some(endpoint)) = (&self.options.tls, self.secure_endpoint()) else {
            let problem = "it was started without TLS".to_owned();
            return Err(Error::State { name: self.name.clone(), problem });
        };
        let mut command = Command::new("java");
        for (key, value) in [
            ("clientCnxnSocket", "org.apache.zookeeper.ClientCnxnSocketNetty"),
            ("client.secure", "true"),
            ("ssl.keyStore.location", &client.combined.display().to_string()),
            ("ssl.keyStore.type", "PEM"),
            ("ssl.trustStore.location", &tls.authority.display().to_string()),
            ("ssl.trustStore.type", "PEM"),
        ] {
            command.arg(format!("-Dzookeeper.{key}={value}"));
        }
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &self.class_path, CLIENT]);
        command.args(["-timeout", "4000", "-server", &endpoint]).args(arguments);
        run(command).await
    }

    /// Whether it is its ensemble's leader; `false` also when it does not answer.
    pub async fn is_leader(&self) -> bool {
        let answer = self.four_letter_word("srvr").await;
        answer.is_ok_and(|text| text.contains("Mode: leader"))
    }

    fn prepare(name: &str, options: ZooKeeperOptions, jars: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("pintle-zookeeper-")
            .map_err(Error::file("create a folder in", std::env::temp_dir()))?;
        let ports = Ports {
            client: Port::free()?,
            secure: Port::free()?,
            quorum: Port::free()?,
            election: Port::free()?,
        };
        let class_path = jars.join("*").display().to_string();
        Ok(Self { name: name.to_owned(), options, class_path, ports, process: None, folder })
    }

    /// Writes the settings: for an ensemble its lines and this member's number.
    fn configure(&self, ensemble: Option<(&str, usize)>) -> Result<()> {
        let data = self.folder.path().join("data");
        std::fs::create_dir_all(&data).map_err(Error::file("create", &data))?;
        let mut text = format!(
            "tickTime={}\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\nextendedTypesEnabled=true\n\
             4lw.commands.whitelist=ruok,mntr,srvr,stat,conf,cons,isro\n",
            self.options.tick_ms,
            data.display(),
            self.ports.client.number(),
        );
        if let Some(tls) = &self.options.tls {
            text.push_str(&self.secure_settings(tls));
        }
        if let Some((members, number)) = ensemble {
            let sync_ticks = self.options.sync_ticks;
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "initLimit=20\nsyncLimit={sync_ticks}\nstandaloneEnabled=false\n\
                 reconfigEnabled=false\n"
            );
            text.push_str(members);
            let path = data.join("myid");
            std::fs::write(&path, number.to_string()).map_err(Error::file("write", &path))?;
        }
        for line in &self.options.settings {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
        let path = self.folder.path().join("zoo.cfg");
        std::fs::write(&path, text).map_err(Error::file("write", &path))
    }

    fn secure_settings(&self, tls: &ZooKeeperTls) -> String {
        format!(
            "secureClientPort={}\nsecureClientPortAddress=127.0.0.1\n\
             serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.location={}\nssl.keyStore.type=PEM\n\
             ssl.trustStore.location={}\nssl.trustStore.type=PEM\nssl.clientAuth={}\n",
            self.ports.secure.number(),
            tls.server.combined.display(),
            tls.authority.display(),
            if tls.client_authentication { "need" } else { "none" },
        )
    }

    fn run(&mut self) -> Result<()> {
        let mut command = Command::new("java");
        command
            .args(["-Xms32m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Djava.net.preferIPv4Stack=true")
            // Containers and nodes with a time to live are otherwise looked at once a minute.
            .arg("-Dznode.container.checkIntervalMs=200")
            .arg(format!("-Dzookeeper.DigestAuthenticationProvider.superDigest={SUPER_DIGEST}"))
            .args(&self.options.java)
            .args(["-cp", &self.class_path, SERVER, "zoo.cfg"])
            .current_dir(self.folder.path());
        let log = self.folder.path().join("log");
        self.process = Some(Process::start(&self.name, &command, &log)?);
        Ok(())
    }
}

/// The folder with the jars.
async fn fetch(version: ZooKeeperVersion) -> Result<PathBuf> {
    let artifact = match version {
        ZooKeeperVersion::V3_5 => Artifact::ZooKeeper35,
        ZooKeeperVersion::V3_8 => Artifact::ZooKeeper38,
        ZooKeeperVersion::V3_9 => Artifact::ZooKeeper39,
    };
    Ok(artifact.fetch_in_background().await?.join("lib"))
}
