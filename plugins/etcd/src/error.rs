//! What a status of the server means: one table.

use pintle_plugin_sdk::grpc::{self, tonic};
use pintle_plugin_sdk::{Effect, Error};
use tonic::{Code, Status};

/// What to do about a failure besides telling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing: the caller decides.
    None,
    /// Ask for a new token, once; the request was refused before anything happened.
    Authenticate,
    /// This member cannot serve; nothing happened. Go to another and ask again.
    LeaveAndRetry,
    /// This member has trouble; the request may have been done.
    Leave,
}

/// A failed request.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) remedy: Remedy,
}

/// One line of the table.
struct Row {
    /// What the server's text begins with.
    text: &'static str,
    make: fn(String) -> Error,
    effect: Effect,
    remedy: Remedy,
    /// A remedy for a person; empty where the text says enough.
    advice: &'static str,
}

const fn refused(text: &'static str, make: fn(String) -> Error, advice: &'static str) -> Row {
    Row { text, make, effect: Effect::None, remedy: Remedy::None, advice }
}

const fn remedied(
    text: &'static str,
    make: fn(String) -> Error,
    effect: Effect,
    remedy: Remedy,
) -> Row {
    Row { text, make, effect, remedy, advice: "" }
}

/// Texts of etcd (`api/v3rpc/rpctypes/error.go`), and of gRPC where it speaks for it. The first row
/// that fits counts; what fits none is told by its gRPC code.
const TABLE: &[Row] = &[
    // Who we are.
    refused(
        "etcdserver: authentication failed",
        Error::unauthenticated,
        "check `user` and `password`",
    ),
    Row {
        text: "etcdserver: user name is empty",
        make: Error::unauthenticated,
        effect: Effect::None,
        // It may have been switched on while we were connected.
        remedy: Remedy::Authenticate,
        advice: "the server demands authentication: set `user` and `password`, or `tls.cert` and \
                 `tls.key`",
    },
    refused("etcdserver: user name not found", Error::unauthenticated, "check `user`"),
    remedied(
        "etcdserver: invalid auth token",
        Error::unauthenticated,
        Effect::None,
        Remedy::Authenticate,
    ),
    remedied(
        "etcdserver: revision of auth store is old",
        Error::unauthenticated,
        Effect::None,
        Remedy::Authenticate,
    ),
    refused(
        "etcdserver: permission denied",
        Error::denied,
        "the user needs a role with this permission on the keys below `root`",
    ),
    // What was asked for.
    refused("etcdserver: request is too large", Error::too_large, "see --max-request-bytes"),
    refused("grpc: received message larger than max", Error::too_large, "see --max-request-bytes"),
    refused("etcdserver: too many operations in txn", Error::too_large, "see --max-txn-ops"),
    refused("etcdserver: mvcc: required revision has been compacted", Error::compacted, ""),
    refused("etcdserver: mvcc: required revision is a future", Error::invalid, ""),
    refused("etcdserver: duplicate key given in txn", Error::invalid, ""),
    refused("etcdserver: key is not provided", Error::invalid, ""),
    refused("etcdserver: requested lease not found", Error::not_found, ""),
    refused("etcdserver: lease already exists", Error::conflict, ""),
    refused("etcdserver: too large lease TTL", Error::invalid, ""),
    // What the server can do.
    refused(
        "etcdserver: mvcc: database space exceeded",
        Error::exhausted,
        "compact, defragment, and disarm the alarm with etcdctl",
    ),
    refused("etcdserver: too many requests", Error::exhausted, ""),
    remedied("etcdserver: no leader", Error::unavailable, Effect::None, Remedy::LeaveAndRetry),
    remedied(
        "etcdserver: rpc not supported for learner",
        Error::unavailable,
        Effect::None,
        Remedy::LeaveAndRetry,
    ),
    // Until the cluster has agreed on its version.
    remedied("etcdserver: not capable", Error::unavailable, Effect::None, Remedy::LeaveAndRetry),
    remedied("raft proposal dropped", Error::unavailable, Effect::None, Remedy::LeaveAndRetry),
    remedied("etcdserver: corrupt cluster", Error::unavailable, Effect::Unknown, Remedy::Leave),
    remedied("etcdserver: server stopped", Error::unavailable, Effect::Unknown, Remedy::Leave),
    remedied("etcdserver: leader changed", Error::unavailable, Effect::Unknown, Remedy::None),
    // The member may be cut off from the others.
    remedied("etcdserver: request timed out", Error::unavailable, Effect::Unknown, Remedy::Leave),
];

impl Failure {
    /// What a status means for a request to this endpoint.
    pub(crate) fn of(status: &Status, endpoint: &str) -> Self {
        if grpc::is_too_large(status) {
            let message = format!("{endpoint}: the answer is larger than this plugin takes");
            let limit = format!("{} bytes an answer", grpc::MESSAGE_BYTES_MAX);
            // The server has done what it answers.
            let error = Error::too_large(message).detail("limit", limit).effect_unknown();
            return Self { error, remedy: Remedy::None };
        }
        let Some(row) = TABLE.iter().find(|row| status.message().starts_with(row.text)) else {
            let untouched = grpc::is_untouched(status);
            let remedy = if untouched { Remedy::LeaveAndRetry } else { Remedy::None };
            return Self { error: grpc::error(status, endpoint), remedy };
        };
        let advice = if row.advice.is_empty() { "" } else { "; " };
        let message = format!("{endpoint}: {}{advice}{}", status.message(), row.advice);
        let mut error = (row.make)(message)
            .detail("endpoint", endpoint)
            .detail("status", format!("{:?}", status.code()));
        if row.effect == Effect::Unknown {
            error = error.effect_unknown();
        }
        if error.code() == "too-large" {
            error = error.detail("limit", row.advice.trim_start_matches("see "));
        }
        Self { error, remedy: row.remedy }
    }

    /// The server has ended a stream without saying why.
    pub(crate) fn ended(endpoint: &str) -> Self {
        let error = Error::unavailable(format!("{endpoint}: the server ended the stream"));
        Self { error: error.detail("endpoint", endpoint), remedy: Remedy::None }
    }

    /// What the reason means with which a server ended a watch: a status in the words of the server's
    /// gRPC library, or a text alone.
    pub(crate) fn of_reason(reason: &str, endpoint: &str) -> Self {
        let status = reason.strip_prefix("rpc error: code = ");
        let status = status.and_then(|status| status.split_once(" desc = "));
        let (code, text) = status.unwrap_or(("Unknown", reason));
        let code = match code {
            "Unauthenticated" => Code::Unauthenticated,
            "PermissionDenied" => Code::PermissionDenied,
            "InvalidArgument" => Code::InvalidArgument,
            "FailedPrecondition" => Code::FailedPrecondition,
            _ => Code::Unknown,
        };
        Self::of(&Status::new(code, text), endpoint)
    }
}

/// Whether trying again later, unchanged, can succeed.
pub(crate) fn is_passing(error: &Error) -> bool {
    matches!(error.code(), "unavailable" | "timeout" | "exhausted" | "cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, text: &str) -> Failure {
        Failure::of(&Status::new(code, text), "etcd:2379")
    }

    #[test]
    fn a_wrong_password_is_never_worth_another_attempt() {
        let text = "etcdserver: authentication failed, invalid user ID or password";
        let failure = failure(Code::InvalidArgument, text);
        assert_eq!(failure.error.code(), "unauthenticated");
        assert_eq!((failure.remedy, failure.error.effect()), (Remedy::None, Effect::None));
        assert!(!is_passing(&failure.error));
        assert!(failure.error.message().ends_with("check `user` and `password`"));
    }

    #[test]
    fn an_expired_token_is_renewed() {
        let failure = failure(Code::Unauthenticated, "etcdserver: invalid auth token");
        assert_eq!(failure.remedy, Remedy::Authenticate);
    }

    #[test]
    fn a_limit_is_named() {
        let failure = failure(Code::InvalidArgument, "etcdserver: request is too large");
        assert_eq!(failure.error.code(), "too-large");
        let limit = ("limit".to_owned(), "--max-request-bytes".to_owned());
        assert!(failure.error.details().contains(&limit), "{:?}", failure.error);
    }

    #[test]
    fn a_member_without_a_leader_did_nothing_and_a_time_out_may_have() {
        let no_leader = failure(Code::Unavailable, "etcdserver: no leader");
        assert_eq!(no_leader.remedy, Remedy::LeaveAndRetry);
        assert_eq!(no_leader.error.effect(), Effect::None);
        for text in [
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to connection lost",
            "etcdserver: leader changed",
        ] {
            let failure = failure(Code::Unavailable, text);
            assert_eq!(failure.error.code(), "unavailable", "{text}");
            assert_eq!(failure.error.effect(), Effect::Unknown, "{text}");
        }
    }

    #[test]
    fn the_reason_why_a_watch_was_refused_is_understood() {
        let reason = |text: &str| Failure::of_reason(text, "etcd:2379");
        let ended = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        assert_eq!(reason(ended).remedy, Remedy::Authenticate);
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(reason(denied).error.code(), "denied");
        assert_eq!(reason("etcdserver: permission denied").error.code(), "denied");
        assert_eq!(reason("rpc error: code = PermissionDenied desc = new").error.code(), "denied");
        assert_eq!(reason("something new").error.code(), "unavailable");
    }

    #[test]
    fn a_write_whose_answer_is_too_large_may_have_happened() {
        let text = "Error, decoded message length too large: found 20000000 bytes, the limit is: 1";
        let failure = failure(Code::OutOfRange, text);
        assert_eq!((failure.error.code(), failure.error.effect()), ("too-large", Effect::Unknown));
    }

    #[test]
    fn an_unknown_text_goes_by_its_code() {
        let failure = failure(Code::Unavailable, "something new");
        assert_eq!(
            (failure.error.code(), failure.error.effect()),
            ("unavailable", Effect::Unknown)
        );
    }
}
