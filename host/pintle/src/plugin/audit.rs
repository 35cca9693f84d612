//! Lines for those who look after security, apart from the log of everyday: target `audit`.

/// What was done or refused, to what, and why.
pub(crate) fn refused(action: &'static str, subject: &str, reason: &str) {
    tracing::warn!(target: "audit", action, outcome = "refused", subject, reason);
}

/// Something that changes which code runs.
pub(crate) fn done(action: &'static str, subject: &str, detail: &str) {
    tracing::info!(target: "audit", action, outcome = "done", subject, detail);
}
