//! Why a request failed, with all that is known.

use std::error::Error;
use std::fmt;

/// A request, its answer, or the whole connection that broke. Its text names the causes.
#[derive(Debug)]
pub struct Failed {
    cause: h2::Error,
    sent: bool,
}

impl Failed {
    /// Nothing of the request was sent.
    pub(super) fn unsent(cause: h2::Error) -> Self {
        Self { cause, sent: false }
    }

    /// Whether the server has certainly done nothing: the request was not sent, or the server says that
    /// it did not look at it.
    pub fn is_untouched(&self) -> bool {
        !self.sent || self.cause.reason() == Some(h2::Reason::REFUSED_STREAM)
    }
}

/// Something may have been sent already.
impl From<h2::Error> for Failed {
    fn from(cause: h2::Error) -> Self {
        Self { cause, sent: true }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause.get_io() {
            // h2 would say only that it was an error of the connection.
            Some(cause) => write!(f, "{cause}"),
            None => write!(f, "{}", self.cause),
        }
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}
