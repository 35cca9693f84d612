//! The server's error codes.

use std::fmt;

/// Why the server refused a request. Codes that are not known here stay what they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i32);

macro_rules! codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        #[allow(missing_docs, reason = "the text beside each says what it means")]
        impl ErrorCode {
            $(pub const $name: Self = Self($code);)*

            /// What it means, for a person.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    _ => "the server refused for a reason that is not known here",
                }
            }

            fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// All that are known here.
            pub const KNOWN: &[Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    SYSTEM_ERROR = -1, "the server has an internal problem";
    RUNTIME_INCONSISTENCY = -2, "the server found itself inconsistent, or an earlier operation of the transaction failed";
    DATA_INCONSISTENCY = -3, "the server found its data inconsistent";
    CONNECTION_LOSS = -4, "the server lost the request";
    MARSHALLING_ERROR = -5, "the server could not read the request";
    UNIMPLEMENTED = -6, "this server is too old for the request, or it is switched off there";
    OPERATION_TIMEOUT = -7, "the server gave up";
    BAD_ARGUMENTS = -8, "the server holds the arguments for wrong";
    UNKNOWN_SESSION = -12, "the server does not know the session";
    NO_QUORUM_FOR_CONFIG = -13, "there is no quorum";
    RECONFIG_IN_PROGRESS = -14, "the ensemble is being reconfigured";
    API_ERROR = -100, "the server refused the call";
    NO_NODE = -101, "there is no such node";
    NO_AUTH = -102, "the access control list of the node forbids it";
    BAD_VERSION = -103, "the node was changed in between";
    NO_CHILDREN_FOR_EPHEMERALS = -108, "an ephemeral node cannot have children";
    NODE_EXISTS = -110, "the node exists";
    NOT_EMPTY = -111, "the node has children";
    SESSION_EXPIRED = -112, "the session has expired";
    INVALID_CALLBACK = -113, "the call was wrong";
    INVALID_ACL = -114, "the access control list is invalid";
    AUTH_FAILED = -115, "the server did not accept the credentials";
    SESSION_MOVED = -118, "the session has moved to another server";
    NOT_READ_ONLY = -119, "the server has no quorum and only reads";
    EPHEMERAL_ON_LOCAL_SESSION = -120, "local sessions have no ephemeral nodes";
    NO_WATCHER = -121, "there is no such watch";
    REQUEST_TIMEOUT = -122, "the server gave up the request";
    RECONFIG_DISABLED = -123, "reconfiguration is switched off";
    SASL_REQUIRED = -124, "the server accepts clients with SASL only, which is not supported here";
    QUOTA_EXCEEDED = -125, "a quota of the node is used up";
    THROTTLED = -127, "the server has too much to do";
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "ErrorCode({})", self.0),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.0)
    }
}
