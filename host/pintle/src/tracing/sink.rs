//! A backend as the end of a pipeline.

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    ExportResult, Tracing,
    pipeline::{Failure, Remedy, Sink},
};
use crate::error::{Cause, Effect, Error, Refusal};

pub(crate) struct BackendSink(pub(crate) Tracing);

impl Sink for BackendSink {
    fn name(&self) -> &str {
        self.0.backend()
    }

    fn deliver(&self, batch: Bytes) -> BoxFuture<'_, Result<ExportResult, Failure>> {
        Box::pin(async move {
            let exported = self.0.export(batch).await;
            exported.map_err(|error| Failure { remedy: remedy(&error), message: error.to_string() })
        })
    }
}

/// Whether, and how, trying again may help.
///
/// Where nobody knows whether a batch arrived it is sent once more: the ids of its spans let every
/// sink see that it has them, and a span twice is better than none.
fn remedy(error: &Error) -> Remedy {
    match error.cause() {
        Cause::Plugin(told) => match told.code.as_str() {
            "too-large" => Remedy::Less,
            "unavailable" | "exhausted" | "timeout" | "cancelled" => {
                Remedy::Later(told.retry_after)
            }
            _ if told.retry_after.is_some() => Remedy::Later(told.retry_after),
            code => Remedy::None(code.to_owned()),
        },
        // It had not been begun: the plugin ended over something else.
        Cause::Ended(ended) if ended.effect == Effect::None => Remedy::Later(None),
        Cause::Ended(_) => Remedy::Cautiously,
        Cause::Refused(Refusal::NotRunning { .. } | Refusal::Busy { .. }) => Remedy::Later(None),
        Cause::Refused(_) => Remedy::None(error.code().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::error::{Ended, Place, PluginError};

    fn told(code: &str, retry_after: Option<Duration>) -> Remedy {
        let error = PluginError {
            code: code.into(),
            effect: Effect::Unknown,
            retry_after,
            message: String::new(),
            details: BTreeMap::new(),
        };
        of(Cause::Plugin(error))
    }

    fn of(cause: Cause) -> Remedy {
        let place = Place { backend: "sw".into(), plugin: "".into(), operation: "tracing.export" };
        remedy(&Error::new(cause, place))
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let soon = Some(Duration::from_secs(3));
        for code in ["unavailable", "exhausted", "timeout"] {
            assert_eq!(told(code, None), Remedy::Later(None), "{code}");
            assert_eq!(told(code, soon), Remedy::Later(soon), "{code}");
        }
        for code in ["invalid", "unauthenticated", "denied", "unsupported", "internal"] {
            assert_eq!(told(code, None), Remedy::None(code.into()), "{code}");
        }
        assert_eq!(told("denied", soon), Remedy::Later(soon));
        assert_eq!(told("too-large", None), Remedy::Less);
    }

    #[test]
    fn a_plugin_that_ended_is_tried_with_caution_and_one_that_is_away_with_patience() {
        let ended = |effect| Cause::Ended(Ended { reason: "trap".into(), effect });
        assert_eq!(of(ended(Effect::Unknown)), Remedy::Cautiously);
        assert_eq!(of(ended(Effect::None)), Remedy::Later(None), "it had not been begun");
        let away = Refusal::NotRunning { reason: "restarting".into() };
        assert_eq!(of(Cause::Refused(away)), Remedy::Later(None));
        assert_eq!(of(Cause::Refused(Refusal::ShuttingDown)), Remedy::None("shutting-down".into()));
    }
}
