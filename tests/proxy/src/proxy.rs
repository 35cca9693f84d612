//! The listening side.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::connection::Link;
use crate::pump::{self, Open};
use crate::state::{ArmedRule, Shared, WaitError, wait_for};
use crate::{Action, Armed, Connection, Counts, Cut, Fault, Framing, Rule};

/// A proxy on a loopback port of its own, in front of one server.
///
/// Dropping it ends all its tasks and connections.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    task: Option<JoinHandle<()>>,
}

/// Settings of a proxy that is not yet started.
pub struct Builder {
    upstream: SocketAddr,
    framing: Framing,
    record_len_max: usize,
    deadline: Duration,
}

impl Builder {
    /// How messages are told apart; [`Framing::Chunks`] by default.
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Builder {
        self.framing = framing;
        self
    }

    /// Records up to this many delivered bytes of each direction of each connection.
    #[must_use]
    pub fn record(mut self, len_max: usize) -> Builder {
        self.record_len_max = len_max;
        self
    }

    /// How long waiting methods wait before they fail; 30 s by default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Builder {
        self.deadline = deadline;
        self
    }

    /// Binds a free port and starts.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(self) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Shared::new(self.upstream, self.framing, self.record_len_max, self.deadline);
        let shared = Arc::new(shared);
        let (commands, inbox) = mpsc::channel(1);
        let gate = Gate::Open(listener);
        let task = tokio::spawn(accept(Acceptor { addr, gate, shared: shared.clone() }, inbox));
        Ok(Proxy { addr, shared, commands, task: Some(task) })
    }
}

impl Proxy {
    /// Starts a proxy that reads streams in chunks.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(upstream: SocketAddr) -> io::Result<Proxy> {
        Proxy::builder(upstream).start().await
    }

    /// Settings for a proxy in front of this server.
    pub fn builder(upstream: SocketAddr) -> Builder {
        let deadline = Duration::from_secs(30);
        Builder { upstream, framing: Framing::default(), record_len_max: 0, deadline }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends connections that come from now on to another server.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.lock().upstream = upstream;
    }

    /// Gives this fault to all connections, those to come too; in force when this returns.
    pub fn set(&self, fault: Fault) {
        self.shared.update(|state| {
            state.fault = fault;
            for link in &state.links {
                link.set(fault);
            }
        });
    }

    /// Accepts connections and lets everything pass, held bytes first.
    ///
    /// # Errors
    /// When the port cannot be listened on again.
    pub async fn heal(&self) -> io::Result<()> {
        self.set(Fault::None);
        self.ask(Command::Accept).await
    }

    /// Refuses new connections, as a server that is down does; those that are open stay.
    ///
    /// # Errors
    /// When the port could not be kept.
    pub async fn refuse(&self) -> io::Result<()> {
        self.ask(Command::Refuse).await
    }

    /// Ends all open connections and answers how many, when their sockets are closed.
    ///
    /// # Errors
    /// [`WaitError`] when that takes longer than the proxy's deadline.
    pub async fn cut_all(&self, cut: Cut) -> Result<usize, WaitError> {
        let connections = self.connections();
        for connection in &connections {
            connection.cut(cut).await?;
        }
        Ok(connections.len())
    }

    /// Puts a rule in force. When several choose the same message, the oldest decides.
    pub fn arm(&self, rule: Rule, action: Action) -> Armed {
        let id = self.shared.update(|state| {
            let id = state.rules.len() as u64;
            state.rules.insert(id, ArmedRule { rule, action, fired: 0 });
            id
        });
        Armed { id, shared: self.shared.clone() }
    }

    /// The connections that are open, oldest first.
    pub fn connections(&self) -> Vec<Connection> {
        self.accepted().into_iter().filter(Connection::is_live).collect()
    }

    /// All connections since the start, oldest first.
    pub fn accepted(&self) -> Vec<Connection> {
        let links = self.shared.lock().links.clone();
        let handle = |link| Connection { link, shared: self.shared.clone() };
        links.into_iter().map(handle).collect()
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Waits until this many connections have been accepted since the start, and returns them all.
    ///
    /// # Errors
    /// [`WaitError`] when they have not within the proxy's deadline.
    pub async fn wait_for_connections(&self, n: u64) -> Result<Vec<Connection>, WaitError> {
        self.wait_until(&format!("{n} connections"), |counts| counts.accepted >= n).await?;
        Ok(self.accepted())
    }

    /// Waits until the counts are as `holds` wants them; `what` names it in the error.
    ///
    /// # Errors
    /// [`WaitError`] when they are not within the proxy's deadline.
    pub async fn wait_until(
        &self,
        what: &str,
        holds: impl Fn(&Counts) -> bool,
    ) -> Result<(), WaitError> {
        let describe = || format!("{what}; so far: {:?}", self.counts());
        wait_for(&self.shared, || holds(&self.counts()), describe).await
    }

    /// Ends everything and waits until the last task is gone.
    pub async fn shutdown(mut self) {
        if let Some(task) = self.task.take() {
            // A closed inbox means that the task is gone already.
            let _ = self.commands.send(Command::Shutdown).await;
            let _ = task.await;
        }
    }

    async fn ask(&self, command: fn(oneshot::Sender<io::Result<()>>) -> Command) -> io::Result<()> {
        let gone = || io::Error::other("the proxy's task is gone");
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

enum Command {
    Accept(oneshot::Sender<io::Result<()>>),
    Refuse(oneshot::Sender<io::Result<()>>),
    Shutdown,
}

/// The port: listening, or only kept, so that nobody else gets it while connections are refused.
enum Gate {
    Open(TcpListener),
    Shut(TcpSocket),
    Lost,
}

struct Acceptor {
    addr: SocketAddr,
    gate: Gate,
    shared: Arc<Shared>,
}

impl Acceptor {
    fn refuse(&mut self) -> io::Result<()> {
        if let Gate::Shut(_) = self.gate {
            return Ok(());
        }
        self.gate = Gate::Lost;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.addr)?;
        self.gate = Gate::Shut(socket);
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        const BACKLOG: u32 = 1024;
        match std::mem::replace(&mut self.gate, Gate::Lost) {
            Gate::Open(listener) => self.gate = Gate::Open(listener),
            Gate::Shut(socket) => self.gate = Gate::Open(socket.listen(BACKLOG)?),
            Gate::Lost => return Err(io::Error::other("the proxy's port is lost")),
        }
        Ok(())
    }

    async fn next(&self) -> (TcpStream, SocketAddr) {
        let Gate::Open(listener) = &self.gate else { return std::future::pending().await };
        loop {
            // An error here is one client's: it left before it was accepted.
            if let Ok(accepted) = listener.accept().await {
                return accepted;
            }
            tokio::task::yield_now().await;
        }
    }

    fn register(&self, client: SocketAddr) -> Open {
        let link = self.shared.update(|state| {
            let link = Arc::new(Link::new(state.links.len() as u64, client, state.fault));
            state.links.push(link.clone());
            state.counts.accepted += 1;
            state.counts.live += 1;
            link
        });
        Open { link, shared: self.shared.clone() }
    }
}

async fn accept(mut acceptor: Acceptor, mut inbox: mpsc::Receiver<Command>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            command = inbox.recv() => match command {
                // Whoever asked may have gone.
                Some(Command::Accept(answer)) => drop(answer.send(acceptor.accept())),
                Some(Command::Refuse(answer)) => drop(answer.send(acceptor.refuse())),
                Some(Command::Shutdown) | None => return tasks.shutdown().await,
            },
            (stream, client) = acceptor.next() => {
                tasks.spawn(pump::run(stream, acceptor.register(client)));
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}
