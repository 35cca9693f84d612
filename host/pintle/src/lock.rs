//! Locks.
mod types;
pub use types::*;
/// x
#[derive(Debug, Clone)]
pub struct Lock;
impl Lock {
    /// x
    pub fn force_release(&self) {}
}
