//! A request that has shown who asks, until it is answered, refused or given up.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use pintle_api::problem::code;

use super::{Caller, Peer};
use crate::{
    audit::{Asked, Fate, Trail},
    calls::{self, Place},
    failure::Failure,
    operations::{Kind, Operation},
    state::State,
    trace,
};

/// Whatever becomes of it is counted and written down, also when nobody waits for the answer any
/// more.
pub(super) struct Visit {
    pub(super) state: Arc<State>,
    pub(super) operation: &'static Operation,
    /// Index of the operation.
    pub(super) index: usize,
    pub(super) caller: Caller,
    pub(super) peer: Option<Peer>,
    pub(super) trail: Trail,
    pub(super) begun: Instant,
    /// What became of it is written down.
    pub(super) is_over: bool,
}

impl Visit {
    /// Answers why it is not let in.
    pub(super) fn refuse(mut self, failure: Failure) -> Response {
        self.state.metrics.refused(failure.problem().code());
        self.state.metrics.answered(self.index, failure.status(), self.begun.elapsed());
        self.write_down(Fate::Refused(&failure));
        failure.into_response()
    }

    /// Lets it through to its route.
    ///
    /// # Cancellation
    ///
    /// What waits ends with the caller's patience. A change that was begun goes on to its end, so
    /// that the trail tells how it ended.
    pub(super) async fn admit(self, request: Request, next: Next, place: Place) -> Response {
        if self.operation.waits || self.operation.kind == Kind::Read {
            return self.run(request, next, place).await;
        }
        let operation = self.operation.id;
        match tokio::spawn(self.run(request, next, place)).await {
            Ok(response) => response,
            // It was written down as abandoned when it fell.
            Err(error) => {
                tracing::error!(%error, operation, "a request failed within the server");
                let detail = "the server failed at this request; its log says why";
                Failure::of(code::SERVER_FAILED, detail).into_response()
            }
        }
    }

    async fn run(mut self, mut request: Request, next: Next, place: Place) -> Response {
        request.extensions_mut().insert(self.caller.clone());
        if self.operation.kind != Kind::Read {
            request.extensions_mut().insert(self.trail.clone());
        }
        let response = if self.operation.waits {
            tokio::select! {
                response = trace::carry(&self.state.pintle, request, next) => response,
                failure = self.caller.ended() => failure.into_response(),
            }
        } else {
            trace::carry(&self.state.pintle, request, next).await
        };
        self.state.metrics.answered(self.index, response.status(), self.begun.elapsed());
        self.write_down(Fate::Answered(&response));
        // Who does not read the answer keeps the place for it.
        calls::hold(response, place)
    }

    fn write_down(&mut self, fate: Fate<'_>) {
        self.is_over = true;
        if self.operation.kind != Kind::Read {
            let asked = Asked {
                operation: self.operation,
                caller: self.caller.name(),
                address: self.peer.map(|peer| peer.address),
                trail: &self.trail,
            };
            self.state.audit.record(asked, fate);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.is_over {
            self.write_down(Fate::Abandoned);
        }
    }
}
