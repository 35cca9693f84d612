//! What a receiver says besides a status: how long to wait (`google.rpc.Status`,
//! `google.rpc.RetryInfo`).

use prost::Message;
use std::time::Duration;

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// A status in full, as it stands in bodies and in details.
#[derive(Clone, PartialEq, Message)]
pub struct RichStatus {
    /// A code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For a person.
    #[prost(string, tag = "2")]
    pub message: String,
    /// For programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// A message of any type.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// Names the type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl RichStatus {
    /// A status with the wait that it asks for, if any.
    pub fn new(code: i32, message: impl Into<String>, wait: Option<Duration>) -> Self {
        let detail = |wait: Duration| {
            let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
            let nanos = i32::try_from(wait.subsec_nanos()).unwrap_or_default();
            let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos }) };
            Any { type_url: RETRY_INFO.to_owned(), value: info.encode_to_vec() }
        };
        Self { code, message: message.into(), details: wait.map(detail).into_iter().collect() }
    }
}

/// The wait that is asked for in the details of a status.
pub fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = RichStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).ok()?;
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_wait_that_is_asked_for_is_found(millis in 0..1_000_000_u64) {
            let wait = Duration::from_millis(millis);
            let status = RichStatus::new(14, "later", Some(wait));
            prop_assert_eq!(retry_delay(&status.encode_to_vec()), Some(wait));
            let status = RichStatus::new(14, "later", None);
            prop_assert_eq!(retry_delay(&status.encode_to_vec()), None);
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = retry_delay(&input);
        }
    }
}
