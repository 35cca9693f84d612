//! A registration that is kept alive until it is given up.

use std::{sync::Arc, time::Duration};

use pintle_api::{
    problem::code,
    registry::{
        InstanceSpec, InstanceState, OwnerQuery, Register, Registration, RegistrationStatus,
        Removed,
    },
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{
    backoff::Backoff,
    error::ClientError,
    registry::{InstanceName, RegisterOutcome, Registry, outcome},
};

/// How a registration stands, as far as is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is listed.
    Registered,
    /// It may not be listed at the moment, and why; it is being registered again.
    Doubtful(Arc<str>),
    /// Somebody else has the name now. Final.
    Taken(Arc<InstanceState>),
}

/// A registration. Dropping it deregisters in the background.
#[derive(Debug)]
pub struct Registered {
    registry: Registry,
    name: InstanceName,
    owner: OwnerQuery,
    standing: watch::Receiver<Standing>,
    keeper: JoinHandle<()>,
    ended: bool,
}

impl Registered {
    pub(crate) async fn begin(
        registry: Registry,
        name: InstanceName,
        instance: InstanceSpec,
        ttl_ms: u64,
    ) -> Result<RegisterOutcome<Self>, ClientError> {
        let owner = OwnerQuery { owner: format!("{:032x}", rand::random::<u128>()) };
        let register = Register {
            instance,
            owner: owner.owner.clone(),
            ttl_ms,
            persistent: false,
            replace: false,
        };
        let sent = Instant::now();
        match registry.put(&name, &register).await? {
            RegisterOutcome::Taken(instance) => Ok(RegisterOutcome::Taken(instance)),
            RegisterOutcome::Registered(_) => {
                let (sender, standing) = watch::channel(Standing::Registered);
                let keeper = Keeper {
                    registry: registry.clone(),
                    name: name.clone(),
                    owner: owner.clone(),
                    register,
                    standing: sender,
                };
                Ok(RegisterOutcome::Registered(Self {
                    registry,
                    name,
                    owner,
                    standing,
                    keeper: tokio::spawn(keeper.run(sent)),
                    ended: false,
                }))
            }
        }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until it stands differently, and says how.
    pub async fn changed(&mut self) -> Standing {
        if self.standing.changed().await.is_err() {
            // After a final standing there is no other.
            std::future::pending::<()>().await;
        }
        self.standing.borrow_and_update().clone()
    }

    /// Gives it up, and says whether it was there.
    ///
    /// # Errors
    /// Any of [`ClientError`]; the server gives it up by itself after its TTL.
    pub async fn deregister(mut self) -> Result<Removed, ClientError> {
        self.ended = true;
        self.keeper.abort();
        self.registry.remove(&self.name, &self.owner).await
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.keeper.abort();
        if self.ended || matches!(*self.standing.borrow(), Standing::Taken(_)) {
            return;
        }
        let (registry, name, owner) =
            (self.registry.clone(), self.name.clone(), self.owner.clone());
        self.registry.client().in_background(async move {
            if let Err(error) = registry.remove(&name, &owner).await {
                tracing::warn!(service = name.service, id = name.id, %error, "not deregistered");
            }
        });
    }
}

struct Keeper {
    registry: Registry,
    name: InstanceName,
    owner: OwnerQuery,
    register: Register,
    standing: watch::Sender<Standing>,
}

impl Keeper {
    /// Says at a third of the TTL that the instance lives, and sooner after a failure.
    async fn run(self, mut sent: Instant) {
        let interval = Duration::from_millis(self.register.ttl_ms / 3);
        let mut backoff = Backoff::default();
        let mut pause = interval;
        loop {
            sleep_until(sent + pause).await;
            sent = Instant::now();
            let request = self.renew();
            let standing = match tokio::time::timeout(interval, request).await {
                Ok(Ok(RegisterOutcome::Registered(registration))) => {
                    backoff.reset();
                    pause = interval;
                    match registration.status {
                        RegistrationStatus::Registered => Standing::Registered,
                        RegistrationStatus::Suspect | RegistrationStatus::Lost => {
                            Standing::Doubtful(registration.reason.unwrap_or_default().into())
                        }
                    }
                }
                Ok(Ok(RegisterOutcome::Taken(instance))) => Standing::Taken(Arc::new(*instance)),
                Ok(Err(error)) => {
                    pause = backoff.next().min(interval);
                    Standing::Doubtful(error.to_string().into())
                }
                Err(_) => {
                    pause = backoff.next().min(interval);
                    Standing::Doubtful("the server does not answer in time".into())
                }
            };
            let is_final = matches!(standing, Standing::Taken(_));
            self.standing.send_if_modified(|present| {
                let differs = *present != standing;
                if differs {
                    *present = standing;
                }
                differs
            });
            if is_final {
                return;
            }
        }
    }

    /// Says that the instance lives. A server that forgot it, or never knew it, registers it anew.
    async fn renew(&self) -> Result<RegisterOutcome<Registration>, ClientError> {
        match self.registry.keepalive(&self.name, &self.owner).await {
            Err(error) if error.code() == code::REGISTRATION_UNKNOWN => {
                self.registry.put(&self.name, &self.register).await
            }
            answer => outcome(answer),
        }
    }
}
