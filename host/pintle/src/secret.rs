//! Values that must never be seen: kept in memory, wiped afterwards, taken out of every text.

use std::fmt;

use zeroize::Zeroizing;

pub use scrub::{SCRUBBED, Scrubber, ScrubberError};

mod scrub;

/// A secret text. It is wiped from memory when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes `value` over; other copies of it are the caller's to wipe.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The secret itself. Never log, print or return it to a client.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[secret]")
    }
}
