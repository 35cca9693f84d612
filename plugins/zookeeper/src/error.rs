//! What the server's refusals are called towards the host.

use crate::session::Failure;
use crate::wire::ErrorCode;
use pintle_plugin_sdk::Error;

impl Failure {
    /// The error of a read, or of a request that was certainly not done unless the connection broke.
    pub(crate) fn explain(&self, doing: &str) -> Error {
        match self {
            Self::Refused(code) => refused(*code, doing),
            Self::Lost { reason, sent } => {
                let error = Error::unavailable(format!("{doing}: {reason}"));
                if *sent { error.effect_unknown() } else { error }
            }
            Self::TooLarge { bytes, limit } => {
                let message = format!(
                    "{doing}: the request has {bytes} bytes, the server takes {limit}; raise \
                     `jute.maxbuffer` there and `request_bytes_max` here"
                );
                Error::too_large(message)
                    .detail("limit", "request_bytes_max")
                    .detail("max", limit.to_string())
            }
            Self::AnswerTooLarge { bytes, limit } => {
                let message = format!(
                    "{doing}: the server's answer has {bytes} bytes, this backend takes {limit}; a \
                     node has more children than fit, or raise `answer_bytes_max`"
                );
                Error::too_large(message)
                    .detail("limit", "answer_bytes_max")
                    .detail("max", limit.to_string())
                    .effect_unknown()
            }
            Self::TooMuch { limit } => {
                let message = format!(
                    "{doing}: the values have more than {limit} bytes together; ask for fewer keys at a \
                     time"
                );
                Error::too_large(message)
                    .detail("limit", "values of one answer")
                    .detail("max", limit.to_string())
            }
            Self::OverLimit { name, what, limit } => {
                Error::exhausted(format!("{doing}: {what} (at most {limit})"))
                    .detail("limit", *name)
                    .detail("max", limit.to_string())
            }
        }
    }

    /// The same for a read, which never changes anything.
    pub(crate) fn explain_read(&self, doing: &str) -> Error {
        self.explain(doing).effect_none()
    }
}

/// The one table of what the server's codes mean: the error, and whether something may have
/// happened.
fn refused(code: ErrorCode, doing: &str) -> Error {
    let message = format!("{doing}: {code}");
    let error = match code {
        ErrorCode::UNIMPLEMENTED | ErrorCode::EPHEMERAL_ON_LOCAL_SESSION => {
            Error::unsupported(message)
        }
        ErrorCode::BAD_ARGUMENTS
        | ErrorCode::MARSHALLING_ERROR
        | ErrorCode::INVALID_ACL
        | ErrorCode::INVALID_CALLBACK
        | ErrorCode::NO_CHILDREN_FOR_EPHEMERALS => Error::invalid(message),
        ErrorCode::NO_AUTH => Error::denied(message),
        ErrorCode::AUTH_FAILED | ErrorCode::SASL_REQUIRED => Error::unauthenticated(message),
        ErrorCode::NO_NODE => Error::not_found(message),
        ErrorCode::BAD_VERSION
        | ErrorCode::NODE_EXISTS
        | ErrorCode::NOT_EMPTY
        | ErrorCode::RUNTIME_INCONSISTENCY => Error::conflict(message),
        ErrorCode::QUOTA_EXCEEDED | ErrorCode::THROTTLED => Error::exhausted(message),
        ErrorCode::SESSION_EXPIRED
        | ErrorCode::UNKNOWN_SESSION
        | ErrorCode::SESSION_MOVED
        | ErrorCode::NOT_READ_ONLY
        | ErrorCode::NO_QUORUM_FOR_CONFIG
        | ErrorCode::RECONFIG_IN_PROGRESS => Error::unavailable(message),
        ErrorCode::CONNECTION_LOSS | ErrorCode::OPERATION_TIMEOUT | ErrorCode::REQUEST_TIMEOUT => {
            Error::unavailable(message).effect_unknown()
        }
        _ => Error::internal(message).effect_unknown(),
    };
    error.detail("zookeeper-code", code.0.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_plugin_sdk::Effect;

    #[test]
    fn what_may_have_happened_is_never_told_as_certain() {
        let effect = |code| Failure::Refused(code).explain("writing").effect();
        for code in ErrorCode::KNOWN {
            let certain = !matches!(
                *code,
                ErrorCode::CONNECTION_LOSS
                    | ErrorCode::OPERATION_TIMEOUT
                    | ErrorCode::REQUEST_TIMEOUT
                    | ErrorCode::SYSTEM_ERROR
                    | ErrorCode::DATA_INCONSISTENCY
                    | ErrorCode::API_ERROR
                    | ErrorCode::NO_WATCHER
                    | ErrorCode::RECONFIG_DISABLED
            );
            assert_eq!(effect(*code) == Effect::None, certain, "{code:?}");
        }
        assert_eq!(effect(ErrorCode(-4711)), Effect::Unknown, "a code of a later server");
        let lost = |sent| Failure::Lost { reason: "reset".into(), sent }.explain("writing");
        assert_eq!((lost(true).effect(), lost(false).effect()), (Effect::Unknown, Effect::None));
    }
}
