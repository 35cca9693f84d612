//! Faults on purpose: what the network does to the connections of one incarnation while a plugin is
//! measured. They lie below TLS and HTTP, so that every backend meets them, and none needs a proxy.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::sync::Notify;

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    #[default]
    Clear,
    /// Connections are reset, and new ones refused.
    Cut,
    /// Nothing passes either way, new connections do not come about, and nobody is told. What was
    /// open goes on when it clears.
    Blackhole,
    /// Requests pass. After so many reads the next bytes that come back are lost, and every
    /// connection is reset with them; then it is clear.
    LoseReply {
        /// Reads that still bring something.
        after: u32,
    },
    /// Requests pass, and are answered. After so many reads nothing of that is heard any more, and
    /// nobody is told.
    Deaf {
        /// Reads that still bring something.
        after: u32,
    },
}

/// The faults of one incarnation's network.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    /// Connections that are older than the last reset are dead for good.
    resets: u64,
    replies_lost: u64,
    /// Reads since the weather changed.
    reads: u32,
    /// Reads and writes that wait for better weather.
    waiting: Vec<Waker>,
}

impl Faults {
    /// Changes the weather, for open connections at once.
    pub fn set(&self, weather: Weather) {
        let mut state = self.lock();
        state.weather = weather;
        state.reads = 0;
        if weather == Weather::Cut {
            state.resets += 1;
        }
        self.wake(state);
    }

    /// How many replies were lost so far.
    #[must_use]
    pub fn replies_lost(&self) -> u64 {
        self.lock().replies_lost
    }

    /// Whether the reads that [`Weather::Deaf`] lets through are over.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.lock().is_deaf()
    }

    /// Lets a new connection begin, or not.
    pub(crate) async fn admit(&self) -> io::Result<()> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.lock().weather {
                Weather::Clear | Weather::LoseReply { .. } | Weather::Deaf { .. } => return Ok(()),
                Weather::Cut => return Err(io::ErrorKind::ConnectionRefused.into()),
                Weather::Blackhole => {}
            }
            changed.await;
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_deaf(&self) -> bool {
        matches!(self.weather, Weather::Deaf { after } if self.reads >= after)
    }
}

/// A connection that faults happen to.
#[derive(Debug)]
pub(super) struct Exposed {
    faults: Arc<Faults>,
    /// Resets before it was made.
    born: u64,
}

impl Exposed {
    pub(super) fn new(faults: &Arc<Faults>) -> Self {
        Self { born: faults.lock().resets, faults: Arc::clone(faults) }
    }

    /// Before each read and write.
    ///
    /// A read that is already waiting for the server is not woken by a change alone: it is asked to
    /// leave its waker here as well.
    pub(super) fn pass(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.faults.lock();
        if state.resets > self.born {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let waker = context.waker();
        if !state.waiting.iter().any(|known| known.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        match state.weather {
            Weather::Blackhole => Poll::Pending,
            Weather::Clear | Weather::Cut | Weather::LoseReply { .. } | Weather::Deaf { .. } => {
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Before each read, besides.
    pub(super) fn hear(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.pass(context))?;
        if self.faults.lock().is_deaf() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// After bytes came in; an error when they are lost.
    pub(super) fn receive(&self) -> io::Result<()> {
        let mut state = self.faults.lock();
        let after = match state.weather {
            Weather::LoseReply { after } => after,
            Weather::Deaf { .. } => u32::MAX,
            Weather::Clear | Weather::Cut | Weather::Blackhole => return Ok(()),
        };
        if state.reads < after {
            state.reads += 1;
            return Ok(());
        }
        state.weather = Weather::Clear;
        state.resets += 1;
        state.replies_lost += 1;
        self.faults.wake(state);
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::plugin::sockets::wire::Wire;

    /// A wire to a server that sends back what it gets.
    async fn echo(faults: &Arc<Faults>) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut read, mut write) = server.into_split();
            tokio::io::copy(&mut read, &mut write).await
        });
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        Wire::new(stream, Arc::default(), permit).unwrap().exposed_to(faults)
    }

    async fn exchange(wire: &mut Wire) -> io::Result<u8> {
        wire.write_u8(7).await?;
        wire.read_u8().await
    }

    #[tokio::test]
    async fn what_waits_in_a_blackhole_goes_on_when_it_clears() {
        let faults = Arc::new(Faults::default());
        let mut wire = echo(&faults).await;
        assert_eq!(exchange(&mut wire).await.unwrap(), 7);
        faults.set(Weather::Blackhole);
        let mut waiting = tokio::spawn(async move { exchange(&mut wire).await });
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        assert!(timeout(Duration::from_millis(50), faults.admit()).await.is_err());
        faults.set(Weather::Clear);
        assert_eq!(waiting.await.unwrap().unwrap(), 7);
        faults.admit().await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_ends_a_read_that_is_waiting_and_refuses_new_connections() {
        let faults = Arc::new(Faults::default());
        let mut wire = echo(&faults).await;
        let reading = tokio::spawn(async move { (wire.read_u8().await.unwrap_err(), wire) });
        tokio::task::yield_now().await;
        faults.set(Weather::Cut);
        let (error, mut wire) = reading.await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(faults.admit().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        faults.set(Weather::Clear);
        assert!(exchange(&mut wire).await.is_err(), "a connection that was reset stays dead");
        assert_eq!(exchange(&mut echo(&faults).await).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn who_is_deaf_is_answered_and_hears_it_when_that_is_over() {
        let faults = Arc::new(Faults::default());
        let mut wire = echo(&faults).await;
        faults.set(Weather::Deaf { after: 1 });
        assert_eq!(exchange(&mut wire).await.unwrap(), 7);
        assert!(faults.is_deaf());
        let mut waiting = tokio::spawn(async move { exchange(&mut wire).await });
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        faults.set(Weather::Clear);
        assert_eq!(waiting.await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn a_lost_reply_reached_the_server_and_is_lost_once() {
        let faults = Arc::new(Faults::default());
        let mut wire = echo(&faults).await;
        faults.set(Weather::LoseReply { after: 1 });
        assert_eq!(exchange(&mut wire).await.unwrap(), 7);
        assert_eq!(exchange(&mut wire).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(faults.replies_lost(), 1);
        assert_eq!(exchange(&mut echo(&faults).await).await.unwrap(), 7);
    }
}
