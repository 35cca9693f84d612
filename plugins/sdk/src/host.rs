//! What the host offers back.

/// Replaces the state that a successor gets as [`Start::resume`](crate::Start::resume). When this
/// returns the host has it.
///
/// Name in it whatever the server keeps for this incarnation (a lease, a session) *before* the
/// plugin relies on that.
///
/// # Limits
///
/// At most 64 KiB; more ends the incarnation.
pub fn checkpoint(state: &[u8]) {
    #[cfg(target_family = "wasm")]
    crate::bindings::wire::host::checkpoint(state);
    #[cfg(not(target_family = "wasm"))]
    crate::testing::record_checkpoint(state);
}
