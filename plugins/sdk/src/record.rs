//! How instances and claims on locks are stored in a backend that keeps bytes: one JSON object per
//! instance, apart from it one per operator override, and one per claim.
//!
//! The form is stable, because hosts of different versions share a backend. Version 1:
//!
//! ```json
//! {"v":1,"service":"shop","id":"a","host":"10.0.0.1","port":8080,"version":"1.2.3","zone":"eu-1",
//!  "weight":100,"enabled":true,"labels":{"tier":"front"},"owner":"node/main","registered_ms":0}
//! ```
//!
//! and for an override
//!
//! ```json
//! {"v":1,"enabled":false,"weight":10,"note":"drained for maintenance"}
//! ```
//!
//! and for a claim, whose `mode` is `exclusive`, `shared` or `permit` (with `permits`)
//!
//! ```json
//! {"v":1,"mode":"permit","permits":3,"owner":"node/main","since_ms":0}
//! ```
//!
//! Absent: `zone`, `enabled` and `weight` of an override when there is none; `version`, `labels`
//! and `note` when empty; `registered_ms` and `since_ms` when unknown. Readers skip properties that
//! they do not know, and refuse a `v` that they do not know.

use crate::Error;
use crate::lock::Mode;
use crate::registry::{Instance, OperatorOverride};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the form that is written.
const VERSION: u32 = 1;

/// An instance as its owner stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRecord {
    /// What the instance says of itself.
    pub instance: Instance,
    /// The node and backend that keep it alive.
    pub owner: String,
    /// When it was registered, in milliseconds of the Unix epoch.
    pub registered_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct InstanceForm {
    v: u32,
    service: String,
    id: String,
    host: String,
    port: u16,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    weight: u32,
    enabled: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct OverrideForm {
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
}

impl InstanceRecord {
    /// The stored form. Labels come in the order of their names; of two with one name the last
    /// counts.
    ///
    /// # Errors
    ///
    /// None that a value of these types can cause.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let instance = self.instance.clone();
        encode(&InstanceForm {
            v: VERSION,
            service: instance.service,
            id: instance.id,
            host: instance.host,
            port: instance.port,
            version: instance.version,
            zone: instance.zone,
            weight: instance.weight,
            enabled: instance.enabled,
            labels: instance.labels.into_iter().collect(),
            owner: self.owner.clone(),
            registered_ms: self.registered_ms,
        })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// `conflict` when it is something else, or of a version that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let form: InstanceForm = decode(bytes, "instance record")?;
        let instance = Instance {
            service: form.service,
            id: form.id,
            host: form.host,
            port: form.port,
            version: form.version,
            zone: form.zone,
            weight: form.weight,
            enabled: form.enabled,
            labels: form.labels.into_iter().collect(),
        };
        Ok(Self { instance, owner: form.owner, registered_ms: form.registered_ms })
    }
}

/// The stored form of an operator override.
///
/// # Errors
///
/// None that a value of this type can cause.
pub fn encode_override(operator: &OperatorOverride) -> Result<Vec<u8>, Error> {
    let OperatorOverride { enabled, weight, note } = operator.clone();
    encode(&OverrideForm { v: VERSION, enabled, weight, note })
}

/// Reads the stored form of an operator override.
///
/// # Errors
///
/// As [`InstanceRecord::decode`].
pub fn decode_override(bytes: &[u8]) -> Result<OperatorOverride, Error> {
    let OverrideForm { enabled, weight, note, .. } = decode(bytes, "operator override")?;
    Ok(OperatorOverride { enabled, weight, note })
}

/// A claim on a lock, held or waiting, as its owner stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRecord {
    /// What is claimed.
    pub mode: Mode,
    /// Who claims it, shown to others.
    pub owner: String,
    /// Since when, in milliseconds of the Unix epoch.
    pub since_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct ClaimForm {
    v: u32,
    mode: ModeForm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permits: Option<u32>,
    owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeForm {
    Exclusive,
    Shared,
    Permit,
}

impl ClaimRecord {
    /// The stored form.
    ///
    /// # Errors
    ///
    /// None that a value of these types can cause.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let (mode, permits) = match self.mode {
            Mode::Exclusive => (ModeForm::Exclusive, None),
            Mode::Shared => (ModeForm::Shared, None),
            Mode::Permit(permits) => (ModeForm::Permit, Some(permits)),
        };
        let (owner, since_ms) = (self.owner.clone(), self.since_ms);
        encode(&ClaimForm { v: VERSION, mode, permits, owner, since_ms })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// As [`InstanceRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let ClaimForm { mode, permits, owner, since_ms, .. } = decode(bytes, "claim on a lock")?;
        let mode = match (mode, permits) {
            (ModeForm::Exclusive, _) => Mode::Exclusive,
            (ModeForm::Shared, _) => Mode::Shared,
            (ModeForm::Permit, Some(permits)) => Mode::Permit(permits),
            (ModeForm::Permit, None) => {
                return Err(Error::conflict("this is no claim on a lock: `permits` is missing"));
            }
        };
        Ok(Self { mode, owner, since_ms })
    }
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

fn encode(form: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(form).map_err(|error| Error::internal(format!("encoding: {error}")))
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Error> {
    let wrong = |error: serde_json::Error| Error::conflict(format!("this is no {what}: {error}"));
    let version = serde_json::from_slice::<Versioned>(bytes).map_err(wrong)?.v;
    if version != VERSION {
        let message = format!("{what} of version {version}; this plugin reads {VERSION}");
        return Err(Error::conflict(message));
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> InstanceRecord {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        InstanceRecord {
            instance: Instance {
                service: "shop".to_owned(),
                id: "a".to_owned(),
                host: "10.0.0.1".to_owned(),
                port: 8080,
                version: "1.2.3".to_owned(),
                zone: Some("eu-1".to_owned()),
                weight: 100,
                enabled: true,
                labels: vec![label("colour", "blue"), label("tier", "front")],
            },
            owner: "node/main".to_owned(),
            registered_ms: Some(1_700_000_000_000),
        }
    }

    const FULL: &str = r#"{"v":1,"service":"shop","id":"a","host":"10.0.0.1","port":8080,"version":"1.2.3","zone":"eu-1","weight":100,"enabled":true,"labels":{"colour":"blue","tier":"front"},"owner":"node/main","registered_ms":1700000000000}"#;
    const LEAST: &str = r#"{"v":1,"service":"s","id":"i","host":"h","port":1,"weight":0,"enabled":false,"owner":"o"}"#;

    #[test]
    fn the_form_of_version_1_never_changes() {
        assert_eq!(String::from_utf8(full().encode().unwrap()).unwrap(), FULL);
        let least = InstanceRecord::decode(LEAST.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(least.encode().unwrap()).unwrap(), LEAST);
        let operator =
            OperatorOverride { enabled: Some(false), weight: None, note: "drained".to_owned() };
        let stored = encode_override(&operator).unwrap();
        assert_eq!(
            String::from_utf8(stored.clone()).unwrap(),
            r#"{"v":1,"enabled":false,"note":"drained"}"#
        );
        assert_eq!(decode_override(&stored).unwrap(), operator);
    }

    #[test]
    fn the_form_of_a_claim_never_changes() {
        for (mode, form) in [
            (Mode::Exclusive, r#"{"v":1,"mode":"exclusive","owner":"o","since_ms":7}"#),
            (Mode::Shared, r#"{"v":1,"mode":"shared","owner":"o","since_ms":7}"#),
            (Mode::Permit(3), r#"{"v":1,"mode":"permit","permits":3,"owner":"o","since_ms":7}"#),
        ] {
            let claim = ClaimRecord { mode, owner: "o".to_owned(), since_ms: Some(7) };
            assert_eq!(String::from_utf8(claim.encode().unwrap()).unwrap(), form);
            assert_eq!(ClaimRecord::decode(form.as_bytes()).unwrap(), claim);
        }
        let without_count = br#"{"v":1,"mode":"permit","owner":"o"}"#;
        assert_eq!(ClaimRecord::decode(without_count).unwrap_err().code(), "conflict");
    }

    #[test]
    fn what_was_stored_comes_back() {
        assert_eq!(InstanceRecord::decode(FULL.as_bytes()).unwrap(), full());
    }

    #[test]
    fn properties_of_later_hosts_are_skipped_and_later_versions_refused() {
        let later = FULL.replace("\"v\":1,", "\"v\":1,\"colour\":\"red\",");
        assert_eq!(InstanceRecord::decode(later.as_bytes()).unwrap(), full());
        let error = InstanceRecord::decode(FULL.replace("\"v\":1", "\"v\":2").as_bytes());
        assert_eq!(error.unwrap_err().code(), "conflict");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [&b""[..], b"null", b"{}", b"[1]", br#"{"v":1}"#, &[0xff]] {
            assert_eq!(InstanceRecord::decode(bytes).unwrap_err().code(), "conflict");
        }
    }
}
