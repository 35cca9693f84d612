//! Registry over HTTP.

use pintle_api::{
    address,
    event::InstanceEvent,
    problem::code,
    registry::{
        InstanceSpec, InstanceState, InstancesPage, ListQuery, Override, OwnerQuery, Register,
        Registration, Removed, ServicesPage, WatchQuery,
    },
};

use crate::{
    error::ClientError,
    registration::Registered,
    transport::{Call, Client},
    watch::Watch,
};

/// Registry of one backend.
#[derive(Debug, Clone)]
pub struct Registry {
    client: Client,
    backend: String,
}

/// How a registration went.
#[derive(Debug)]
pub enum RegisterOutcome<T> {
    /// It is registered.
    Registered(T),
    /// Somebody else has the name.
    Taken(Box<InstanceState>),
}

/// Names one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceName {
    /// Its service.
    pub service: String,
    /// Its id within the service.
    pub id: String,
}

impl Registry {
    pub(crate) fn new(client: Client, backend: &str) -> Self {
        Self { client, backend: backend.into() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// One page of the services.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn services(&self, query: &ListQuery) -> Result<ServicesPage, ClientError> {
        let call = Call::get(address::services(&self.backend)).query(query)?;
        self.client.json(call).await
    }

    /// One page of the instances of a service.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn instances(
        &self,
        service: &str,
        query: &ListQuery,
    ) -> Result<InstancesPage, ClientError> {
        let call = Call::get(address::instances(&self.backend, service)).query(query)?;
        self.client.json(call).await
    }

    /// Registers an instance and keeps it registered until the guard is dropped.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn register(
        &self,
        name: InstanceName,
        instance: InstanceSpec,
        ttl_ms: u64,
    ) -> Result<RegisterOutcome<Registered>, ClientError> {
        Registered::begin(self.clone(), name, instance, ttl_ms).await
    }

    /// Registers an instance, or renews its registration: one request, repeated by the caller.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn put(
        &self,
        name: &InstanceName,
        register: &Register,
    ) -> Result<RegisterOutcome<Registration>, ClientError> {
        let call = Call::put(self.path(name)).json(register)?;
        outcome(self.client.json(call).await)
    }

    /// Renews a registration of this server.
    ///
    /// # Errors
    /// Any of [`ClientError`]; code `registration-unknown` when it has to be made again.
    pub async fn keepalive(
        &self,
        name: &InstanceName,
        owner: &OwnerQuery,
    ) -> Result<Registration, ClientError> {
        let call = Call::post(format!("{}/keepalive", self.path(name))).query(owner)?;
        self.client.json(call).await
    }

    /// Ends a registration, or removes a persistent instance.
    ///
    /// # Errors
    /// Any of [`ClientError`]; code `taken` when another owner keeps it alive.
    pub async fn remove(
        &self,
        name: &InstanceName,
        owner: &OwnerQuery,
    ) -> Result<Removed, ClientError> {
        self.client.json(Call::delete(self.path(name)).query(owner)?).await
    }

    /// Sets what an operator says of an instance.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn set_override(
        &self,
        name: &InstanceName,
        operator: &Override,
    ) -> Result<(), ClientError> {
        let call = Call::put(format!("{}/override", self.path(name))).json(operator)?;
        self.client.call(call).await.map(drop)
    }

    /// Takes back what an operator said of an instance.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn clear_override(&self, name: &InstanceName) -> Result<(), ClientError> {
        let call = Call::delete(format!("{}/override", self.path(name)));
        self.client.call(call).await.map(drop)
    }

    /// Watches the instances of one service, or of all.
    ///
    /// # Errors
    /// Any of [`ClientError`], if the first connection does not come about.
    pub async fn watch(
        &self,
        service: Option<String>,
    ) -> Result<Watch<InstanceEvent>, ClientError> {
        let call =
            Call::get(address::registry_watch(&self.backend)).query(&WatchQuery { service })?;
        Watch::open(self.client.clone(), call.into_target()).await
    }

    fn path(&self, name: &InstanceName) -> String {
        address::instance(&self.backend, &name.service, &name.id)
    }
}

/// How a registration went, by the answer: that the name is taken is no error.
pub(crate) fn outcome(
    answer: Result<Registration, ClientError>,
) -> Result<RegisterOutcome<Registration>, ClientError> {
    match answer {
        Ok(registration) => Ok(RegisterOutcome::Registered(registration)),
        Err(ClientError::Problem(mut problem)) if problem.code() == code::TAKEN => {
            match problem.instance.take() {
                Some(instance) => Ok(RegisterOutcome::Taken(instance)),
                None => Err(ClientError::Problem(problem)),
            }
        }
        Err(error) => Err(error),
    }
}
