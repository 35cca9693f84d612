//! TTLs: the servers may keep no lease as short as the interface allows.

use std::time::Duration;

use pintle::direct::{Failure, types::Error};

use super::Owner;

/// The longest TTL that there is, in milliseconds.
const TTL_MS_MAX: u32 = 3_600_000;

impl Owner {
    /// What to ask for in place of `wanted_ms`: that, or the least that the servers keep, as far as it
    /// is known.
    pub(crate) fn ttl_ms(&self, wanted_ms: u32) -> u32 {
        wanted_ms.max(self.subject.ttl_ms_min())
    }

    /// How long to wait where `usual` does for a lease of `wanted_ms`: as much longer as the lease is.
    pub(crate) fn patience(&self, usual: Duration, wanted_ms: u32) -> Duration {
        usual * self.ttl_ms(wanted_ms) / wanted_ms
    }

    /// [`patience`](Self::patience) in milliseconds, for a wait that the plugin is asked for.
    pub(crate) fn wait_ms(&self, usual_ms: u32, wanted_ms: u32) -> u32 {
        let wait = self.patience(Duration::from_millis(usual_ms.into()), wanted_ms);
        u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
    }

    /// Asks with a TTL, and once more where the refusal says what the least is.
    pub(super) async fn with_ttl<T, F>(
        &self,
        wanted_ms: u32,
        ask: impl Fn(u32) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let asked_ms = self.ttl_ms(wanted_ms);
        let outcome = ask(asked_ms).await;
        let Err(Failure::Error(error)) = &outcome else { return outcome };
        match least_ms(error) {
            Some(least_ms) if least_ms > asked_ms => {
                self.subject.keeps_no_lease_below(least_ms);
                ask(least_ms).await
            }
            _ => outcome,
        }
    }
}

/// The least TTL, if the error is about that.
fn least_ms(error: &Error) -> Option<u32> {
    let detail = |wanted| error.details.iter().find(|(name, _)| name == wanted);
    let least_ms = detail("min")?.1.parse().ok()?;
    (error.code == "invalid" && detail("limit").is_some() && least_ms <= TTL_MS_MAX)
        .then_some(least_ms)
}

#[cfg(test)]
mod tests {
    use pintle::direct::types::Effect;

    use super::*;

    fn refusal(code: &str, details: &[(&str, &str)]) -> Error {
        Error {
            code: code.to_owned(),
            effect: Effect::None,
            retry_after_ms: None,
            message: "too short".to_owned(),
            details: details.iter().map(|(one, two)| ((*one).into(), (*two).into())).collect(),
        }
    }

    #[test]
    fn a_refusal_that_names_the_least_ttl_is_understood_and_no_other() {
        let limit = ("limit", "minSessionTimeout");
        assert_eq!(least_ms(&refusal("invalid", &[limit, ("min", "4000")])), Some(4_000));
        for (code, details) in [
            ("denied", vec![limit, ("min", "4000")]),
            ("invalid", vec![("min", "4000")]),
            ("invalid", vec![limit]),
            ("invalid", vec![limit, ("min", "4 s")]),
            ("invalid", vec![limit, ("min", "3600001")]),
        ] {
            assert_eq!(least_ms(&refusal(code, &details)), None, "{code} {details:?}");
        }
    }
}
