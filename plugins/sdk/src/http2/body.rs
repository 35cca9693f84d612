//! Bodies in both directions.

use super::{Busy, Failed};
use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{Either, poll_fn, select};
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

/// The body of an answer. Dropping it before its end resets the stream.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    read_all: bool,
    /// Dropped with this: then nobody wants to send any more either.
    _here: oneshot::Sender<()>,
    _busy: Busy,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream, here: oneshot::Sender<()>, busy: Busy) -> Self {
        Self { stream, read_all: false, _here: here, _busy: busy }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        if !self.read_all {
            match ready!(poll_chunk(&mut self.stream, cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.read_all = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// The next piece of a body; it counts as read.
pub(super) fn poll_chunk(
    stream: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, Failed>>> {
    match ready!(stream.poll_data(cx)) {
        Some(Ok(data)) => {
            let released = stream.flow_control().release_capacity(data.len());
            Poll::Ready(Some(released.map(|()| data).map_err(Failed::from)))
        }
        // A server may end a stream that way when it does not care for the rest of the request.
        Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Poll::Ready(None),
        Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
        None => Poll::Ready(None),
    }
}

/// Sends a body as fast as the server takes it, until its end, until the server resets the stream, or
/// until the answer has `left`.
pub(super) async fn send<B>(body: B, mut stream: SendStream<Bytes>, left: oneshot::Receiver<()>)
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let is_broken = {
        let sending = pin!(send_all(body, &mut stream));
        matches!(select(sending, left).await, Either::Left((Err(Broken), _)))
    };
    if is_broken {
        stream.send_reset(Reason::CANCEL);
    }
}

/// The body cannot be sent to its end.
struct Broken;

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        tracing::debug!(%error, "a request was not taken to its end");
        Self
    }
}

async fn send_all<B>(body: B, stream: &mut SendStream<Bytes>) -> Result<(), Broken>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = pin!(body);
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(reset.err().map_or(Broken, Broken::from)));
            }
            body.as_mut().poll_frame(cx).map(Ok)
        });
        let Some(frame) = next.await? else {
            stream.send_data(Bytes::new(), true)?;
            return Ok(());
        };
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "a request broke off");
            Broken
        })?;
        match frame.into_data() {
            Ok(data) => {
                let last = body.is_end_stream();
                send_chunk(stream, data, last).await?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    stream.send_trailers(trailers)?;
                    return Ok(());
                }
            }
        }
    }
}

async fn send_chunk(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
) -> Result<(), Broken> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let granted = granted.ok_or(Broken)??.min(data.len());
        let part = data.split_to(granted);
        stream.send_data(part, last && data.is_empty())?;
    }
    Ok(())
}
