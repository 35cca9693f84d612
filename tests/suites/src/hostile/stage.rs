//! A host with a culprit, a victim beside it, a trap, and a server that the culprit may reach.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pintle::{BackendState, Pintle, config::Put};
use pintle_fixture_hostile::{ALIVE, Behaviour, PROVOKE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use super::{Attack, Met};
use crate::{Sandbox, eventually, within};

/// Nobody but the culprit may know it.
pub const SECRET: &str = "s3cret/with+signs=&more";

/// One call of the victim may take so long while others share the machine: less than after what it
/// fails.
const VICTIM_PATIENCE: Duration = Duration::from_secs(2);

/// Limits that make an end come soon: a short run is as good as a long one.
#[must_use]
pub fn impatient() -> Options {
    let limits = "limits = { call = \"500ms\", more = { unyielded_max = \"100ms\", \
                  call_grace = \"100ms\", poll_timeout = \"200ms\", start_timeout = \"1s\", \
                  stop_timeout = \"1s\" } }";
    Options { backend: limits.to_owned(), ..Options::default() }
}

/// Connections that wait to be accepted, as other servers have it.
const BACKLOG: u32 = 128;

/// How the culprit is set up.
#[derive(Default, Clone)]
pub struct Options {
    /// Lines of `[backends.culprit]`.
    pub backend: String,
    /// Members of its `settings`.
    pub settings: String,
    /// Lines before the backends.
    pub host: String,
    /// What the server that it may reach does.
    pub server: Server,
}

/// What somebody who connects meets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Server {
    /// Reads everything and answers nothing.
    #[default]
    Sink,
    /// Sends without end.
    Source,
    /// Answers each request with a response that has no end.
    HttpSource,
    /// Answers each request with a redirect to the trap.
    Redirect,
    /// Takes no connection: who tries waits.
    Deaf,
}

/// A host on which one plugin attacks.
pub struct Stage {
    /// Its folder.
    pub sandbox: Sandbox,
    /// The host.
    pub pintle: Pintle,
    trap: Door,
    /// What the culprit may reach.
    pub allowed: Door,
    victim: Victim,
    /// How long the last provocation took, in nanoseconds.
    provoked_ns: AtomicU64,
}

/// A listener that counts who comes.
pub struct Door {
    /// Where it listens.
    pub address: String,
    visitors: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// Uses the victim all the time.
struct Victim {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Stage {
    /// A culprit that misbehaves by its settings.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn with(behaviour: Behaviour, options: Options) -> Result<Self> {
        let sandbox = Sandbox::new(&["fixtures/hostile", "fixtures/memory"])?;
        Self::on(sandbox, behaviour.name(), options).await
    }

    /// A culprit whose file is what `plugins` of the sandbox holds.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn on(sandbox: Sandbox, behaviour: &str, options: Options) -> Result<Self> {
        crate::log::begin();
        let trap = Door::open(Server::Sink, String::new()).await?;
        let allowed = Door::open(options.server, trap.address.clone()).await?;
        let data_dir = sandbox.path().join("data-of-culprit");
        std::fs::write(sandbox.path().join("secret.txt"), SECRET)?;
        let Options { backend, settings, host, .. } = options;
        let comma = if settings.is_empty() { "" } else { ", " };
        let text = format!(
            "{host}\n[backends.victim]\nplugin = \"memory\"\nrequired = true\n\
             [backends.culprit]\nplugin = \"hostile\"\nendpoints = [\"{}\"]\ndata_dir = {:?}\n\
             {backend}\n\
             settings = {{ behaviour = \"{behaviour}\", secret = \"{SECRET}\", trap = \"{}\", \
             allowed = \"{}\"{comma}{settings} }}\n",
            allowed.address,
            data_dir.display().to_string(),
            trap.address,
            allowed.address,
        );
        let pintle = within("the start", sandbox.start(&text)).await??;
        let victim = Victim::begin(&pintle)?;
        Ok(Self { sandbox, pintle, trap, allowed, victim, provoked_ns: AtomicU64::new(0) })
    }

    /// The stage of an attack, with its limit raised or as it is.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn of(attack: &Attack, options: Options) -> Result<Self> {
        let Some(file) = &attack.file else {
            let stage = Self::with(attack.behaviour, options).await?;
            if attack.behaviour == Behaviour::SymlinkEscape {
                stage.lay_links()?;
            }
            return Ok(stage);
        };
        let sandbox = Sandbox::new(&["fixtures/memory"])?;
        std::fs::write(sandbox.plugins_dir().join("hostile.wasm"), file)?;
        Self::on(sandbox, "", options).await
    }

    /// Links in the culprit's directory that lead out of it.
    fn lay_links(&self) -> Result<()> {
        let (folder, data) = (self.sandbox.path(), self.sandbox.path().join("data-of-culprit"));
        let links = [
            ("link-to-file", folder.join("secret.txt")),
            ("link-to-parent", folder.to_owned()),
            ("link-to-root", "/".into()),
        ];
        for (name, target) in links {
            std::os::unix::fs::symlink(target, data.join(name))?;
        }
        Ok(())
    }

    /// Lets the culprit attack, and expects that it is met like this.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn meets(&self, met: Met) -> Result<()> {
        let provoked = async || within("the attack", self.provoke()).await;
        match met {
            Met::Ended(reason) => self.is_ended_for(reason).await,
            Met::Quarantined(reason) => self.settles(BackendState::Quarantined, reason).await,
            Met::Refused(reason) => {
                if self.pintle.backend("culprit")?.state == BackendState::Serving {
                    ensure!(provoked().await?.is_err(), "nothing came of it");
                }
                self.settles(BackendState::Refused, reason).await
            }
            Met::Reports(report) => {
                let told = provoked().await??;
                ensure!(told.starts_with(report), "{}", told.get(..200).unwrap_or(&told));
                self.goes_on()
            }
            Met::Denied => {
                let told = provoked().await??;
                ensure!(told.starts_with("refused"), "{told}");
                let denials = self.pintle.backend("culprit")?.network.denials;
                ensure!(denials > 0, "nobody counted it");
                self.goes_on()
            }
            Met::Fails(code) => {
                let error = provoked().await?.err().context("it answered")?;
                ensure!(error.code() == code, "{error}");
                ensure!(!error.to_string().contains(SECRET), "the error gives the secret away");
                self.goes_on()
            }
            Met::GoesOn => {
                // It sets in by itself: some answers later it has.
                let config = self.pintle.config("culprit")?;
                for _ in 0..100 {
                    let alive = within("an answer", config.get(ALIVE)).await??;
                    ensure!(alive.is_some(), "it serves, and has lost its mind");
                }
                self.goes_on()
            }
            Met::Reaches => {
                // Nobody answers there: who waits for that is ended.
                let told = provoked().await?;
                ensure!(self.trap.visitors() > 0, "nobody came to the trap: {told:?}");
                Ok(())
            }
        }
    }

    /// Lets the culprit do what it was made for, and answers with its report.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn provoke(&self) -> Result<String, pintle::Error> {
        let begun = Instant::now();
        let entry = self.pintle.config("culprit")?.get(PROVOKE).await;
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.provoked_ns.store(took, Ordering::Relaxed);
        Ok(entry?
            .map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
            .unwrap_or_default())
    }

    /// How long the last provocation took.
    #[must_use]
    pub fn provoked_for(&self) -> Duration {
        Duration::from_nanos(self.provoked_ns.load(Ordering::Relaxed))
    }

    /// Provokes the culprit, and expects that it is ended for it, with a reason that names this.
    /// It serves again afterwards.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn is_ended_for(&self, reason: &str) -> Result<()> {
        let error = within("the end of the culprit", self.provoke()).await?.err();
        let error = error.context("the culprit was not ended")?;
        ensure!(error.code() == "plugin-ended", "{error}");
        ensure!(error.to_string().contains(reason), "{error}");
        ensure!(!error.to_string().contains(SECRET), "the error gives the secret away");
        self.serves_again(1).await
    }

    /// Waits until the culprit serves after at least so many restarts.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn serves_again(&self, restarts: u64) -> Result<()> {
        eventually("the culprit to serve again", async || {
            let status = self.pintle.backend("culprit")?;
            let serves = status.restarts >= restarts && status.state == BackendState::Serving;
            Ok(serves.then_some(()))
        })
        .await?;
        let alive = within("an answer", self.pintle.config("culprit")?.get(ALIVE)).await??;
        ensure!(alive.is_some(), "it serves, and has lost its mind");
        Ok(())
    }

    /// The culprit goes on as if nothing had happened.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub fn goes_on(&self) -> Result<()> {
        let status = self.pintle.backend("culprit")?;
        ensure!(status.state == BackendState::Serving, "{:?}: {}", status.state, status.reason);
        ensure!(status.restarts == 0, "it was ended: {}", status.reason);
        Ok(())
    }

    /// Waits until the culprit's backend is in this state, with a reason that names this.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn settles(&self, state: BackendState, reason: &str) -> Result<()> {
        let status = eventually("the culprit to settle", async || {
            let status = self.pintle.backend("culprit")?;
            Ok((status.state == state).then_some(status))
        });
        let status = status.await.with_context(|| {
            let stands = self.pintle.backend("culprit");
            stands.map_or_else(
                |error| error.to_string(),
                |status| format!("it is {}: {}", status.state.as_str(), status.reason),
            )
        })?;
        ensure!(status.reason.contains(reason), "{}", status.reason);
        ensure!(!status.reason.contains(SECRET), "the reason gives the secret away");
        Ok(())
    }

    /// The trap, where nobody may come.
    #[must_use]
    pub fn trap(&self) -> &Door {
        &self.trap
    }

    /// Whatever happened: the host lives, the victim was never kept waiting, nobody came to the trap,
    /// and nothing was written beside the culprit's directory.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn is_unharmed(self) -> Result<()> {
        self.victim.end().await?;
        let status = self.pintle.backend("victim")?;
        ensure!(status.state == BackendState::Serving && status.restarts == 0, "{}", status.reason);
        let visitors = self.trap.visitors();
        ensure!(visitors == 0, "{visitors} forbidden connections");
        let outside = |name: &str| self.sandbox.path().join(name);
        ensure!(!outside("escaped.txt").exists(), "it wrote outside of its directory");
        let secret = std::fs::read_to_string(outside("secret.txt"))?;
        ensure!(secret == SECRET, "it changed a file outside of its directory");
        within("the shutdown", self.pintle.shutdown()).await?;
        Ok(())
    }
}

impl Door {
    async fn open(server: Server, location: String) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let is_deaf = server == Server::Deaf;
        let listener = socket.listen(if is_deaf { 0 } else { BACKLOG })?;
        let address = listener.local_addr()?.to_string();
        let visitors = Arc::new(AtomicU64::new(0));
        if is_deaf {
            // Takes the one place of those that wait to be accepted, which nobody is.
            let first = TcpStream::connect(&address).await?;
            let task = tokio::spawn(async move {
                let _open = (listener, first);
                std::future::pending().await
            });
            return Ok(Self { address, visitors, task });
        }
        let task = tokio::spawn({
            let visitors = Arc::clone(&visitors);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    visitors.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, server, location.clone()));
                }
            }
        });
        Ok(Self { address, visitors, task })
    }

    /// Who came so far.
    #[must_use]
    pub fn visitors(&self) -> u64 {
        self.visitors.load(Ordering::Relaxed)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends when the other side does.
async fn serve(mut stream: TcpStream, server: Server, location: String) {
    let mut piece = vec![0; 64 << 10];
    match server {
        // It is never come to.
        Server::Deaf => {}
        Server::Sink => while stream.read(&mut piece).await.is_ok_and(|count| count > 0) {},
        Server::HttpSource => {
            let read = stream.read(&mut piece).await;
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            if read.is_ok() && stream.write_all(head.as_bytes()).await.is_ok() {
                while stream.write_all(&piece).await.is_ok() {}
            }
        }
        Server::Source => while stream.write_all(&piece).await.is_ok() {},
        Server::Redirect => {
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{location}/\r\ncontent-length: 0\r\n\r\n"
            );
            while stream.read(&mut piece).await.is_ok_and(|count| count > 0) {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Victim {
    fn begin(pintle: &Pintle) -> Result<Self> {
        let config = pintle.config("victim")?;
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    config.put(Put::new("k", "v")).await?;
                    let took = begun.elapsed();
                    if took > VICTIM_PATIENCE {
                        bail!("the victim was kept waiting for {took:?}");
                    }
                    // A victim, not another attacker.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok(())
            }
        });
        Ok(Self { stop, task })
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        within("the last answer of the victim", self.task).await??
    }
}
