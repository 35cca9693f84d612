//! Streams of changes that survive a lost connection.

use std::{
    collections::VecDeque,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream::BoxStream};
use http::{Response, header};
use http_body_util::BodyExt;
use pintle_api::{
    HEARTBEAT_MS, Problem,
    event::{self, Event},
};

use crate::{
    backoff::Backoff,
    error::ClientError,
    sse::{Decoder, Frame},
    transport::{Call, Client, ResponseBody},
};

/// After this time without even a heartbeat a connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_millis(3 * HEARTBEAT_MS);

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery<E> {
    /// An event.
    Event(E),
    /// The connection is lost, and why; it is being sought again. What follows continues where the
    /// last event ended, or begins with a snapshot or a resync.
    Disconnected(String),
}

/// A stream of changes. It connects again by itself, resumes after the last event that it delivered,
/// and ends only after an error.
pub struct Watch<E> {
    stream: BoxStream<'static, Result<Delivery<E>, ClientError>>,
}

impl<E: Event + Send + 'static> Watch<E> {
    pub(crate) async fn open(client: Client, target: String) -> Result<Self, ClientError> {
        let mut state = State {
            client,
            target,
            connection: None,
            last_event_id: None,
            backoff: Backoff::default(),
            pause_min: Duration::ZERO,
            told: false,
            ended: false,
            event: PhantomData::<fn() -> E>,
        };
        state.connect().await?;
        let stream = futures::stream::unfold(state, |mut state| async {
            state.next().await.map(|item| (item, state))
        });
        Ok(Self { stream: stream.boxed() })
    }
}

impl<E> Stream for Watch<E> {
    type Item = Result<Delivery<E>, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

impl<E> std::fmt::Debug for Watch<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

struct State<E> {
    client: Client,
    target: String,
    connection: Option<Connection>,
    last_event_id: Option<String>,
    backoff: Backoff,
    /// The server asked for a pause of at least this length.
    pause_min: Duration,
    /// Whether the present loss of the connection was delivered.
    told: bool,
    ended: bool,
    event: PhantomData<fn() -> E>,
}

struct Connection {
    body: ResponseBody,
    decoder: Decoder,
    frames: VecDeque<Frame>,
}

impl<E: Event> State<E> {
    async fn next(&mut self) -> Option<Result<Delivery<E>, ClientError>> {
        while !self.ended {
            let outcome = match &mut self.connection {
                None => {
                    tokio::time::sleep(self.backoff.next().max(self.pause_min)).await;
                    self.connect().await.map(|()| None)
                }
                Some(connection) => match connection.frame().await {
                    Ok(frame) => self.decode(frame),
                    Err(reason) => Err(ClientError::Interrupted {
                        url: self.client.url(),
                        source: reason.into(),
                    }),
                },
            };
            match outcome {
                Ok(Some(event)) => return Some(Ok(Delivery::Event(event))),
                Ok(None) => {}
                Err(error) if error.is_transient() => {
                    self.connection = None;
                    let pause_ms = error.problem().and_then(|problem| problem.retry_after_ms);
                    self.pause_min = Duration::from_millis(pause_ms.unwrap_or_default());
                    if !std::mem::replace(&mut self.told, true) {
                        return Some(Ok(Delivery::Disconnected(error.to_string())));
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let mut call =
            Call::get(self.target.clone()).header(header::ACCEPT, "text/event-stream")?;
        if let Some(id) = &self.last_event_id {
            call = call.header(http::HeaderName::from_static("last-event-id"), id)?;
        }
        let after = self.client.timeout();
        let response: Response<ResponseBody> = tokio::time::timeout(after, self.client.open(call))
            .await
            .map_err(|_| ClientError::Timeout { url: self.client.url(), after })??;
        self.connection = Some(Connection {
            body: response.into_body(),
            decoder: Decoder::default(),
            frames: VecDeque::new(),
        });
        Ok(())
    }

    fn decode(&mut self, frame: Frame) -> Result<Option<E>, ClientError> {
        if frame.event == event::name::PROBLEM {
            let problem: Problem = self.client.parse(frame.data.as_bytes())?;
            return Err(ClientError::Problem(Box::new(problem)));
        }
        // Only an event shows that the new connection is any good.
        self.backoff.reset();
        self.told = false;
        let event = E::decode(&frame.event, &frame.data).map_err(|e| self.client.malformed(e))?;
        if frame.id.is_some() {
            self.last_event_id = frame.id;
        }
        Ok(event)
    }
}

impl Connection {
    /// The next event, or why there will be none on this connection.
    async fn frame(&mut self) -> Result<Frame, String> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(frame);
            }
            let piece = tokio::time::timeout(SILENCE_MAX, self.body.frame())
                .await
                .map_err(|_| format!("nothing was heard for {} s", SILENCE_MAX.as_secs()))?
                .ok_or("the server ended the stream")?
                .map_err(|error| error.to_string())?;
            if let Some(bytes) = piece.data_ref() {
                self.frames.extend(self.decoder.push(bytes).map_err(|error| error.to_string())?);
            }
        }
    }
}
