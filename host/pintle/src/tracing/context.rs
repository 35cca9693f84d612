//! The trace that a call belongs to: set around it, passed on to the plugin.

use std::future::Future;

tokio::task_local! {
    static CURRENT: TraceHeaders;
}

/// The headers by which a trace goes on in another process, in W3C form, and what these cannot say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceHeaders {
    /// `traceparent`; empty if the caller names no span.
    pub traceparent: String,
    /// `tracestate`; empty if there is none.
    pub tracestate: String,
    /// Whether this host records what it does in the trace, where `traceparent` does not tell; see
    /// [`Carried::trace_headers`](super::propagation::Carried::trace_headers).
    pub sampled: Option<bool>,
}

/// Makes every call in `future` part of a trace: plugins get its headers, and pass them on to their
/// servers where the protocol has a place for them.
///
/// # Cancellation
///
/// Dropping it drops `future`.
pub async fn in_trace<F: Future>(headers: TraceHeaders, future: F) -> F::Output {
    CURRENT.scope(headers, future).await
}

/// The trace that the caller belongs to.
pub(crate) fn current() -> Option<TraceHeaders> {
    CURRENT.try_with(Clone::clone).ok()
}

/// What a plugin gets with a call that is made here.
pub(crate) fn current_headers() -> Vec<(String, String)> {
    let pairs = |headers: &TraceHeaders| {
        let mut pairs = Vec::new();
        if !headers.traceparent.is_empty() {
            pairs.push(("traceparent".to_owned(), headers.traceparent.clone()));
        }
        if !headers.tracestate.is_empty() {
            pairs.push(("tracestate".to_owned(), headers.tracestate.clone()));
        }
        pairs
    };
    // Most calls belong to no trace.
    CURRENT.try_with(pairs).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_within_a_trace_carry_it_and_others_carry_none() {
        let headers = TraceHeaders {
            traceparent: "00-1-2-01".into(),
            tracestate: "a=b".into(),
            sampled: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert!(current_headers().is_empty());
            let seen = in_trace(headers, async { current_headers() }).await;
            assert_eq!(
                seen,
                [
                    ("traceparent".to_owned(), "00-1-2-01".to_owned()),
                    ("tracestate".to_owned(), "a=b".to_owned())
                ]
            );
            assert!(current_headers().is_empty());
        });
    }
}
