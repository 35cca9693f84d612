//! How a connection begins: a session is asked for, or taken up again.

use super::{Decoder, Encoder, Malformed};
use std::fmt;

/// Asks for a session.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The newest transaction that this client has seen; a server that is behind it refuses.
    pub last_zxid: i64,
    /// How long the server shall keep the session without a sign of life, in ms.
    pub timeout_ms: i32,
    /// The session to take up again, 0 for a new one.
    pub session_id: i64,
    /// Its password.
    pub password: Vec<u8>,
}

/// What the server grants.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// How long it keeps the session, in ms; 0 or less when the one asked for has expired.
    pub timeout_ms: i32,
    /// The session.
    pub session_id: i64,
    /// What takes it up again elsewhere.
    pub password: Vec<u8>,
    /// The server has no quorum and only reads.
    pub read_only: bool,
}

impl ConnectRequest {
    const VERSION: i32 = 0;

    /// Writes it.
    pub fn encode(&self, out: &mut Encoder<'_>) {
        out.int(Self::VERSION);
        out.long(self.last_zxid);
        out.int(self.timeout_ms);
        out.long(self.session_id);
        out.buffer(Some(&self.password));
        // A server without a quorum shall refuse.
        out.bool(false);
    }
}

impl ConnectResponse {
    /// Reads it. Servers before 3.4 left `read_only` out.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let _version = input.int()?;
        let timeout_ms = input.int()?;
        let session_id = input.long()?;
        let password = input.buffer()?.unwrap_or_default().to_vec();
        let read_only = !input.is_empty() && input.bool()?;
        input.finish()?;
        Ok(Self { timeout_ms, session_id, password, read_only })
    }

    /// Whether the session that was asked for is gone.
    pub fn is_expired(&self) -> bool {
        self.timeout_ms <= 0 || self.session_id == 0
    }
}

// The password of a session is as good as the session.
impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("last_zxid", &self.last_zxid)
            .field("timeout_ms", &self.timeout_ms)
            .field("session_id", &format_args!("{:#x}", self.session_id))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConnectResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectResponse")
            .field("timeout_ms", &self.timeout_ms)
            .field("session_id", &format_args!("{:#x}", self.session_id))
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}
