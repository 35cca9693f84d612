//! Who we are: a token for name and password, asked for once and again when it has ended.

use crate::error::{Failure, Remedy, is_passing};
use crate::server::Server;
use crate::settings::Credentials;
use crate::wire::messages::{AuthenticateRequest, AuthenticateResponse};
use futures::lock::Mutex;
use pintle_plugin_sdk::Error;
use pintle_plugin_sdk::grpc::{self, tonic};
use pintle_plugin_sdk::time::Instant;
use std::cell::RefCell;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request};

const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
/// The header in which a token travels.
const HEADER: &str = "token";
/// A server that refused us is not asked again for so long: it counts attempts, and each costs it
/// the computing time of a password hash.
const REFUSAL_KEPT: Duration = Duration::from_secs(60);

/// Our credentials, and what the server made of them.
pub(crate) struct Auth {
    credentials: Option<Credentials>,
    state: RefCell<State>,
    /// Held while the server is asked, so that many calls ask once.
    asking: Mutex<()>,
}

enum State {
    Unknown,
    Token(MetadataValue<Ascii>),
    /// The server has authentication switched off.
    NotNeeded,
    Refused {
        error: Error,
        at: Instant,
    },
}

impl Auth {
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, state: RefCell::new(State::Unknown), asking: Mutex::new(()) }
    }

    /// Adds the token to a request, after asking for one where there is none.
    ///
    /// # Errors
    ///
    /// When the server refuses us, or does not answer. The request was not sent.
    pub(crate) async fn sign<Q>(
        &self,
        server: &Server,
        mut request: Request<Q>,
    ) -> Result<Request<Q>, Failure> {
        let Some(credentials) = &self.credentials else { return Ok(request) };
        if self.known()?.is_none() {
            let asking = self.asking.lock().await;
            if self.known()?.is_none() {
                self.ask(credentials, server).await?;
            }
            drop(asking);
        }
        if let State::Token(token) = &*self.state.borrow() {
            request.metadata_mut().insert(HEADER, token.clone());
        }
        Ok(request)
    }

    /// The token has ended: asks for a new one next time.
    pub(crate) fn renew(&self, server: &Server) {
        let mut state = self.state.borrow_mut();
        if matches!(*state, State::Token(_) | State::NotNeeded) {
            tracing::debug!(endpoint = server.channel.peer(), "the token has ended");
            *state = State::Unknown;
        }
    }

    /// Something if it is known how to sign.
    fn known(&self) -> Result<Option<()>, Failure> {
        match &*self.state.borrow() {
            State::Token(_) | State::NotNeeded => Ok(Some(())),
            State::Refused { error, at } if at.elapsed() < REFUSAL_KEPT => {
                Err(Failure { error: error.clone(), remedy: Remedy::None })
            }
            State::Unknown | State::Refused { .. } => Ok(None),
        }
    }

    async fn ask(&self, credentials: &Credentials, server: &Server) -> Result<(), Failure> {
        let request = AuthenticateRequest {
            name: credentials.user.clone(),
            password: credentials.password.expose().clone(),
        };
        let answer: Result<AuthenticateResponse, _> =
            grpc::unary(&server.channel, AUTHENTICATE, request).await;
        let state = match answer {
            Ok(AuthenticateResponse { token }) => match token.parse() {
                Ok(token) => State::Token(token),
                Err(_) => {
                    let message = format!("{}: its token is no header", server.channel.peer());
                    let error = Error::unavailable(message);
                    return Err(Failure { error, remedy: Remedy::None });
                }
            },
            Err(status) if is_switched_off(&status) => {
                tracing::warn!("`user` and `password` are set, and the server asks for none");
                State::NotNeeded
            }
            Err(status) => {
                let mut failure = Failure::of(&status, server.channel.peer());
                // The request itself was not sent yet.
                failure.error = failure.error.effect_none();
                if failure.error.code() == "unauthenticated" {
                    let error = failure.error.clone();
                    self.state.replace(State::Refused { error, at: Instant::now() });
                } else if is_passing(&failure.error) {
                    failure.remedy = Remedy::LeaveAndRetry;
                }
                return Err(failure);
            }
        };
        self.state.replace(state);
        Ok(())
    }
}

fn is_switched_off(status: &tonic::Status) -> bool {
    status.code() == Code::FailedPrecondition
        && status.message().starts_with("etcdserver: authentication is not enabled")
}
