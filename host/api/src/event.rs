//! Server-Sent Events: the names of events and their data.
//!
//! A stream of changes begins with a snapshot (`snapshot-begin`, a `put` for each thing,
//! `snapshot-end`). After `resync` state is right again once what follows was applied. A stream that
//! cannot go on ends with `problem`.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{config, lock, registry};

/// Names of events.
pub mod name {
    /// Forget what you know: the whole state follows.
    pub const SNAPSHOT_BEGIN: &str = "snapshot-begin";
    /// Something appeared or changed.
    pub const PUT: &str = "put";
    /// Something went away.
    pub const REMOVED: &str = "removed";
    /// The snapshot is complete.
    pub const SNAPSHOT_END: &str = "snapshot-end";
    /// Changes may have been missed.
    pub const RESYNC: &str = "resync";
    /// State of a watched lock.
    pub const STATE: &str = "state";
    /// The last event: a problem document.
    pub const PROBLEM: &str = "problem";
}

/// Data of `resync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Resync {
    /// Why changes may have been missed.
    pub reason: String,
}

/// Data of `put` on configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EntryPut {
    /// What is there now.
    pub entry: config::Entry,
    /// What was there before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<config::Entry>,
}

/// Data of `removed` on configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EntryRemoved {
    /// Which key.
    pub key: String,
    /// Version of the removal, where the backend has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What was there before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<config::Entry>,
}

/// Data of `put` on instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InstancePut {
    /// What is there now.
    pub instance: registry::InstanceState,
    /// What was there before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<registry::InstanceState>,
}

/// Data of `removed` on instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InstanceRemoved {
    /// Its service.
    pub service: String,
    /// Its id.
    pub id: String,
    /// What was there before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<registry::InstanceState>,
}

/// One event of a watch: `P` is the data of `put`, `R` that of `removed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Change<P, R> {
    /// Forget what you know.
    SnapshotBegin,
    /// Something appeared or changed.
    Put(Box<P>),
    /// Something went away.
    Removed(Box<R>),
    /// The snapshot is complete.
    SnapshotEnd,
    /// Changes may have been missed.
    Resync(Resync),
}

/// One event of a watch on configuration.
pub type ConfigEvent = Change<EntryPut, EntryRemoved>;

/// One event of a watch on instances.
pub type InstanceEvent = Change<InstancePut, InstanceRemoved>;

/// An event that travels as a name and a JSON text.
pub trait Event: Sized {
    /// Name and data.
    ///
    /// # Errors
    /// The data cannot be written as JSON.
    fn encode(&self) -> Result<(&'static str, String), serde_json::Error>;

    /// Reads name and data; none for a name that is not known, which is to be passed over.
    ///
    /// # Errors
    /// The data is not what the name promises.
    fn decode(name: &str, data: &str) -> Result<Option<Self>, serde_json::Error>;
}

const NOTHING: &str = "{}";

impl<P, R> Event for Change<P, R>
where
    P: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    fn encode(&self) -> Result<(&'static str, String), serde_json::Error> {
        Ok(match self {
            Self::SnapshotBegin => (name::SNAPSHOT_BEGIN, NOTHING.into()),
            Self::Put(put) => (name::PUT, serde_json::to_string(put)?),
            Self::Removed(removed) => (name::REMOVED, serde_json::to_string(removed)?),
            Self::SnapshotEnd => (name::SNAPSHOT_END, NOTHING.into()),
            Self::Resync(resync) => (name::RESYNC, serde_json::to_string(resync)?),
        })
    }

    fn decode(event: &str, data: &str) -> Result<Option<Self>, serde_json::Error> {
        Ok(Some(match event {
            name::SNAPSHOT_BEGIN => Self::SnapshotBegin,
            name::PUT => Self::Put(serde_json::from_str(data)?),
            name::REMOVED => Self::Removed(serde_json::from_str(data)?),
            name::SNAPSHOT_END => Self::SnapshotEnd,
            name::RESYNC => Self::Resync(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}

impl Event for lock::LockState {
    fn encode(&self) -> Result<(&'static str, String), serde_json::Error> {
        Ok((name::STATE, serde_json::to_string(self)?))
    }

    fn decode(event: &str, data: &str) -> Result<Option<Self>, serde_json::Error> {
        if event == name::STATE { serde_json::from_str(data).map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_as_they_were() {
        let entry = config::Entry { key: "a".into(), version: "1".into(), ..Default::default() };
        let events = [
            ConfigEvent::SnapshotBegin,
            ConfigEvent::Put(Box::new(EntryPut { entry: entry.clone(), previous: Some(entry) })),
            ConfigEvent::Removed(Box::new(EntryRemoved {
                key: "a".into(),
                version: None,
                previous: None,
            })),
            ConfigEvent::SnapshotEnd,
            ConfigEvent::Resync(Resync { reason: "the queue was full".into() }),
        ];
        for event in events {
            let (name, data) = event.encode().unwrap();
            assert_eq!(ConfigEvent::decode(name, &data).unwrap(), Some(event));
        }
    }

    #[test]
    fn an_event_of_a_later_version_is_passed_over() {
        assert_eq!(ConfigEvent::decode("renamed", "whatever").unwrap(), None);
    }
}
