//! One stream of watches: opened, read, opened again.

use super::{Role, Verdict, Watches};
use crate::client::Lane;
use crate::error::{Failure, Remedy};
use crate::server::Server;
use crate::wire::messages::{WatchProgressRequest, WatchRequestUnion, WatchResponse};
use futures::channel::mpsc;
use futures::future::{Either, select};
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::grpc::{self, tonic};
use pintle_plugin_sdk::time::sleep;
use pintle_plugin_sdk::{Context, Error, StopOnDrop, spawn};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tonic::Streaming;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// How often the server is asked whether anything is missing.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
/// How long one attempt may wait for a connection before it says why there is none.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Stream {
    watches: Rc<Watches>,
    role: Role,
    /// An answer came since the last break.
    answered: Cell<bool>,
}

impl Stream {
    pub(super) fn new(watches: Rc<Watches>, role: Role) -> Self {
        Self { watches, role, answered: Cell::new(false) }
    }

    /// Carries its watches until there are none, or others carry them.
    pub(super) async fn run(self) {
        let mut pauses = Backoff::default();
        loop {
            let error = match self.carry().await {
                Ok(()) => "nothing is watched any more".to_owned(),
                Err(error) if matches!(error.code(), "unauthenticated" | "denied") => {
                    return self.watches.refused(self.role, &error);
                }
                Err(error) => error.message().to_owned(),
            };
            if !self.watches.broke(self.role, &error) {
                return;
            }
            if self.answered.take() {
                pauses.reset();
            }
            pauses.wait().await;
        }
    }

    /// Opens the stream and hands out its answers. `Ok` when it carries nothing any more.
    async fn carry(&self) -> Result<(), Error> {
        let client = &self.watches.client;
        let link = client.link(Lane::Watch)?;
        let cx = Context::background("watching", OPEN_LIMIT);
        let server = client.server_patiently(&cx, Lane::Watch).await?;
        let reading = pin!(self.read(&server));
        match select(reading, pin!(link.lost())).await {
            Either::Left((Ok(()), _)) => Ok(()),
            Either::Left((Err(Failure { error, remedy }), _)) => {
                client.remedy(Lane::Watch, &server, remedy, &error);
                // The remedy makes the next attempt better, whatever the error says.
                Err(if remedy == Remedy::None {
                    error
                } else {
                    Error::unavailable(error.message())
                })
            }
            Either::Right((reason, _)) => Err(Error::unavailable(reason)),
        }
    }

    async fn read(&self, server: &Server) -> Result<(), Failure> {
        let peer = server.channel.peer();
        let (requests, sent) = mpsc::unbounded();
        if !self.watches.opened(self.role, requests.clone()) {
            return Ok(());
        }
        let request = self.watches.client.sign_stream(server, sent).await?;
        let opened = grpc::streaming(&server.channel, WATCH, request).await;
        let mut answers: Streaming<WatchResponse> =
            opened.map_err(|status| Failure::of(&status, peer))?;
        let reliable = server.has_reliable_progress();
        let mut due = pin!(sleep(PROGRESS_PERIOD));
        // A notice of progress came since the last question.
        let mut proved = false;
        // Looks for itself whether anything is missing; the one before is given up.
        let mut _proof: Option<StopOnDrop> = None;
        loop {
            let answer = match select(pin!(answers.message()), due.as_mut()).await {
                Either::Left((answer, _)) => answer.map_err(|status| Failure::of(&status, peer))?,
                Either::Right(_) => {
                    if self.watches.is_idle(self.role) {
                        return Ok(());
                    }
                    due.set(sleep(PROGRESS_PERIOD));
                    let ask = WatchRequestUnion::Progress(WatchProgressRequest {});
                    // A closed stream shows in what is read from it.
                    let _ = requests.unbounded_send(ask.into());
                    if !std::mem::take(&mut proved) {
                        let watches = Rc::clone(&self.watches);
                        _proof = Some(spawn(watches.prove(self.role)).stop_on_drop());
                    }
                    continue;
                }
            };
            let Some(answer) = answer else { return Err(Failure::ended(peer)) };
            match self.watches.receive(self.role, answer, reliable, peer) {
                Verdict::Fine => {}
                Verdict::Progress => proved = true,
                Verdict::Broken(failure) => return Err(failure),
            }
            self.answered.set(true);
        }
    }
}
