//! A connection whose other end is gone is noticed by PINGs that nothing answers.

use super::Options;
use crate::connection::Connection;
use crate::runtime::turn_began;
use crate::time::{Instant, sleep, sleep_until};
use futures::future::{Either, pending, poll_fn, select};
use futures::io::{AsyncRead as _, AsyncWrite as _};
use h2::{Ping, PingPong};
use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When something came in last.
#[derive(Clone)]
pub(super) struct Activity(Rc<Cell<Instant>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Rc::new(Cell::new(Instant::now())))
    }
}

/// A connection as `h2` wants it, which takes note of what comes in.
pub(super) struct Watched {
    connection: Connection,
    activity: Activity,
}

impl Watched {
    pub(super) fn new(connection: Connection, activity: Activity) -> Self {
        Self { connection, activity }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count =
            ready!(Pin::new(&mut self.connection).poll_read(cx, out.initialize_unfilled()))?;
        out.advance(count);
        // Connections are driven in the background.
        self.activity.0.set(turn_began());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_close(cx)
    }
}

/// Waits until nothing comes any more though a PING asked for it, and says so. `is_busy` tells whether
/// a request is under way.
pub(super) async fn until_silent(
    pings: Option<PingPong>,
    activity: Activity,
    options: Options,
    is_busy: impl Fn() -> bool,
) -> String {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        let quiet_until = activity.0.get().after(options.ping_after);
        if !quiet_until.remaining().is_zero() {
            sleep_until(quiet_until).await;
            continue;
        }
        if !options.ping_while_idle && !is_busy() {
            sleep(options.ping_after).await;
            continue;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            // The connection is closing, and tells why itself.
            return pending().await;
        }
        let asked = Instant::now();
        let mut answered = pin!(poll_fn(|cx| pings.poll_pong(cx)));
        loop {
            // A large answer may hold the PONG back; as long as it comes, somebody is there.
            let until = activity.0.get().max(asked).after(options.ping_timeout);
            match select(answered.as_mut(), sleep_until(until)).await {
                Either::Left((Ok(_), _)) => break,
                Either::Left((Err(_), _)) => return pending().await,
                Either::Right(_) if activity.0.get().after(options.ping_timeout) > until => {}
                Either::Right(_) => {
                    let waited = options.ping_timeout.as_millis();
                    return format!("nothing came for {waited} ms after a PING");
                }
            }
        }
    }
}
