//! The task of one connection: reads, holds, chooses, delivers.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connection::{End, Link};
use crate::message::Chunks;
use crate::state::{Chosen, Shared};
use crate::{Action, Cut, Direction, Fault, Framer, Head, Message, Split};

const CHUNK_LEN_MAX: usize = 64 << 10;
/// How much a blackhole takes before it stops reading, as a peer whose window is full.
const CHUNKS_HELD_MAX: usize = 256;

/// Why pumping stopped before both directions had ended.
enum Stop {
    Cut {
        cut: Cut,
        rule: Option<u64>,
    },
    /// A peer went away other than by an orderly close.
    PeerLost,
    /// The server's side is gone and the client is not to know.
    Stranded,
}

pub(crate) async fn run(client: TcpStream, open: Open) {
    let shared = open.shared.clone();
    let stop = serve(&client, &open.link, &shared).await;
    let (cut, rule) = match stop {
        Ok(()) => (Cut::Close, None),
        Err(Stop::PeerLost | Stop::Stranded) => (Cut::Reset, None),
        Err(Stop::Cut { cut, rule }) => {
            shared.lock().counts.cut += 1;
            (cut, rule)
        }
    };
    close(client, cut);
    drop(open);
    if let Some(rule) = rule {
        shared.report_fired(rule);
    }
}

/// A live connection. Dropping it marks the end, also when its task is aborted before it ran.
pub(crate) struct Open {
    pub(crate) link: Arc<Link>,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.link.ended.send_replace(true);
        self.shared.update(|state| state.counts.live -= 1);
    }
}

/// Connects to the server and pumps until the connection ends. The server's socket is closed when
/// this returns, the client's is left to the caller.
async fn serve(client: &TcpStream, link: &Link, shared: &Shared) -> Result<(), Stop> {
    let server = tokio::select! {
        server = connect(link, shared) => server,
        end = link.wait_for_end_asked() => match end {
            End::Cut(cut) => Err(Stop::Cut { cut, rule: None }),
            End::Strand => Err(Stop::Stranded),
        },
    };
    let result = match server {
        Err(stop) => Err(stop),
        Ok(server) => {
            let result = pump_both(client, &server, link, shared).await;
            let cut = match &result {
                Ok(()) => Cut::Close,
                Err(Stop::Cut { cut, .. }) => *cut,
                Err(Stop::PeerLost | Stop::Stranded) => Cut::Reset,
            };
            close(server, cut);
            result
        }
    };
    if let Err(Stop::Stranded) = result {
        link.stranded.send_replace(true);
        shared.update(|_| ());
        return swallow(client, link).await;
    }
    result
}

async fn connect(link: &Link, shared: &Shared) -> Result<TcpStream, Stop> {
    link.wait_for_fault(|fault| !fault.blocks(Direction::ToServer)).await;
    let upstream = shared.lock().upstream;
    match TcpStream::connect(upstream).await {
        Ok(server) => Ok(server),
        Err(_) => {
            shared.lock().counts.unreachable += 1;
            Err(Stop::PeerLost)
        }
    }
}

async fn pump_both(
    client: &TcpStream,
    server: &TcpStream,
    link: &Link,
    shared: &Shared,
) -> Result<(), Stop> {
    // Without it a held-back small segment would look like a fault that nobody set. A socket that
    // refuses it is about to fail in reading, where that is seen.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let pumping = async {
        tokio::try_join!(
            pump(Direction::ToServer, client, server, link, shared),
            pump(Direction::ToClient, server, client, link, shared),
        )
    };
    tokio::select! {
        // An end that was asked for goes before what is ready to be delivered.
        biased;
        end = link.wait_for_end_asked() => match end {
            End::Cut(cut) => Err(Stop::Cut { cut, rule: None }),
            End::Strand => Err(Stop::Stranded),
        },
        result = pumping => result.map(|_| ()),
    }
}

/// Takes what a stranded client sends until it leaves, is cut, or the fault ends.
async fn swallow(client: &TcpStream, link: &Link) -> Result<(), Stop> {
    let leaving = async {
        let mut buffer = vec![0; CHUNK_LEN_MAX];
        loop {
            match read(client, &mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(Stop::PeerLost),
            }
        }
    };
    let cut_asked = async {
        let mut control = link.control.subscribe();
        loop {
            let end = control.borrow_and_update().end;
            if let Some(End::Cut(cut)) = end {
                return Err(Stop::Cut { cut, rule: None });
            }
            if control.changed().await.is_err() {
                return Err(Stop::PeerLost);
            }
        }
    };
    tokio::select! {
        result = leaving => result,
        result = cut_asked => result,
        () = link.wait_for_fault(|fault| fault != Fault::HalfOpen) => Err(Stop::PeerLost),
    }
}

enum Arrival {
    Bytes(Instant, Vec<u8>),
    Closed,
    Lost,
}

async fn pump(
    direction: Direction,
    from: &TcpStream,
    to: &TcpStream,
    link: &Link,
    shared: &Shared,
) -> Result<(), Stop> {
    let (arrivals, inbox) = mpsc::channel(CHUNKS_HELD_MAX);
    let writer = Writer { direction, to, link, shared };
    let reading = async {
        take(from, arrivals).await;
        Ok(())
    };
    tokio::try_join!(reading, writer.run(inbox)).map(|_| ())
}

/// Reads whatever the fault is, so that the sender sees an open connection.
async fn take(from: &TcpStream, arrivals: mpsc::Sender<Arrival>) {
    let mut buffer = vec![0; CHUNK_LEN_MAX];
    loop {
        let arrival = match read(from, &mut buffer).await {
            Ok(0) => Arrival::Closed,
            Ok(n) => Arrival::Bytes(Instant::now(), buffer.get(..n).unwrap_or_default().to_vec()),
            Err(_) => Arrival::Lost,
        };
        let last = !matches!(arrival, Arrival::Bytes(..));
        if arrivals.send(arrival).await.is_err() || last {
            return;
        }
    }
}

/// Bytes that have arrived and are not yet a whole message.
struct Incoming {
    buffered: Vec<u8>,
    framer: Box<dyn Framer>,
    /// Number of the next message.
    index: u64,
}

impl Incoming {
    fn next_message(&mut self) -> Option<(Head, Vec<u8>)> {
        while !self.buffered.is_empty() {
            match self.framer.split(&self.buffered) {
                Split::Incomplete => return None,
                Split::Unframed => self.framer = Box::new(Chunks),
                Split::Message(head) => {
                    let rest = self.buffered.split_off(head.len.clamp(1, self.buffered.len()));
                    return Some((head, std::mem::replace(&mut self.buffered, rest)));
                }
            }
        }
        None
    }
}

struct Writer<'a> {
    direction: Direction,
    to: &'a TcpStream,
    link: &'a Link,
    shared: &'a Shared,
}

impl Writer<'_> {
    async fn run(self, mut inbox: mpsc::Receiver<Arrival>) -> Result<(), Stop> {
        let framer = self.shared.framing.framer(self.direction);
        let mut incoming = Incoming { buffered: Vec::new(), framer, index: 0 };
        while let Some(arrival) = inbox.recv().await {
            match arrival {
                Arrival::Bytes(at, bytes) => {
                    incoming.buffered.extend_from_slice(&bytes);
                    self.deliver_complete(&mut incoming, at).await?;
                }
                Arrival::Closed => {
                    incoming.framer = Box::new(Chunks);
                    self.deliver_complete(&mut incoming, Instant::now()).await?;
                    return self.end_of_stream().await;
                }
                Arrival::Lost => {
                    self.wait_for_turn(Instant::now()).await;
                    return Err(self.peer_lost());
                }
            }
        }
        Ok(())
    }

    async fn deliver_complete(&self, incoming: &mut Incoming, at: Instant) -> Result<(), Stop> {
        while let Some((head, bytes)) = incoming.next_message() {
            let (connection, direction, index) = (self.link.id, self.direction, incoming.index);
            incoming.index += 1;
            let message = Message { connection, direction, index, head, bytes: &bytes };
            self.deliver(&message, at).await?;
        }
        Ok(())
    }

    async fn deliver(&self, message: &Message<'_>, at: Instant) -> Result<(), Stop> {
        self.wait_for_turn(at).await;
        let chosen = self.shared.choose(message);
        let cut_after = match chosen {
            None => None,
            Some(Chosen { rule, action: Action::CutBefore(cut) }) => {
                return Err(Stop::Cut { cut, rule: Some(rule) });
            }
            Some(Chosen { rule, action: Action::Drop }) => {
                self.shared.report_fired(rule);
                return Ok(());
            }
            Some(Chosen { rule, action: Action::Fault(fault) }) => {
                self.link.set(fault);
                self.shared.report_fired(rule);
                self.wait_for_turn(at).await;
                None
            }
            Some(Chosen { rule, action: Action::CutAfter(cut) }) => Some((rule, cut)),
        };
        self.write(message.bytes).await?;
        self.shared.report_delivered(self.direction, message.bytes.len());
        match cut_after {
            Some((rule, cut)) => Err(Stop::Cut { cut, rule: Some(rule) }),
            None => Ok(()),
        }
    }

    /// Waits until the fault lets something through that arrived at this time.
    async fn wait_for_turn(&self, at: Instant) {
        loop {
            let fault = self.link.fault();
            if fault.blocks(self.direction) {
                self.link.wait_for_fault(|fault| !fault.blocks(self.direction)).await;
                continue;
            }
            let due = at + fault.delay(self.direction);
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.link.wait_for_fault(|now| now != fault) => {}
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match self.write_some(bytes) {
                Ok(n) => {
                    let (written, rest) = bytes.split_at(n.min(bytes.len()));
                    self.link.record(self.direction, written, self.shared.record_len_max);
                    bytes = rest;
                }
                // Whoever runs this one is about to stop.
                Err(WriteStop::Ending) => std::future::pending().await,
                Err(WriteStop::Blocked) => {
                    self.link.wait_for_fault(|fault| !fault.blocks(self.direction)).await;
                }
                Err(WriteStop::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A failing socket shows it in the write that follows.
                    let _ = self.to.writable().await;
                }
                Err(WriteStop::Io(_)) => return Err(self.peer_lost()),
            }
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8]) -> Result<usize, WriteStop> {
        // Held over the write: see `Link::control`.
        let control = self.link.control.borrow();
        if control.end.is_some() {
            return Err(WriteStop::Ending);
        }
        if control.fault.blocks(self.direction) {
            return Err(WriteStop::Blocked);
        }
        self.to.try_write(bytes).map_err(WriteStop::Io)
    }

    async fn end_of_stream(&self) -> Result<(), Stop> {
        self.wait_for_turn(Instant::now()).await;
        if self.direction == Direction::ToClient && self.link.fault() == Fault::HalfOpen {
            return Err(Stop::Stranded);
        }
        shut_write(self.to).map_err(|_| self.peer_lost())
    }

    /// What it means that a peer is gone: under [`Fault::HalfOpen`] a lost server is hidden.
    fn peer_lost(&self) -> Stop {
        if self.link.fault() == Fault::HalfOpen { Stop::Stranded } else { Stop::PeerLost }
    }
}

enum WriteStop {
    Ending,
    Blocked,
    Io(io::Error),
}

async fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

fn close(stream: TcpStream, cut: Cut) {
    // Failures mean that the peer is gone already.
    let _ = match cut {
        Cut::Reset => stream.set_zero_linger(),
        // Its own step: closing with unread bytes would be a reset and nothing before it.
        Cut::Close => shut_write(&stream),
    };
}

fn shut_write(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}
