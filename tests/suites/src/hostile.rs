//! Plugins that attack their host: what the suite `sandbox` and `cargo xtask chaos sandbox` share.

mod attacks;
pub mod bytes;
pub mod exports;
mod stage;

use std::time::Duration;

use anyhow::{Result, ensure};

pub use attacks::{Attack, CALL, Met};
pub use stage::{Door, Options, SECRET, Server, Stage, impatient};

use crate::{log, within};

impl Attack {
    /// Attacks beside a victim, and expects that it is contained. Answers how much later than its
    /// limit it was over, where that is a time.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn is_contained(&self) -> Result<Duration> {
        let stage = Stage::of(self, self.options.clone()).await?;
        stage.meets(self.met).await?;
        if let Met::Refused(reason) = self.met
            && self.file.is_some()
        {
            let path = stage.sandbox.plugins_dir().join("hostile.wasm").display().to_string();
            let audit = log::lines_with(&["\"target\":\"audit\"", "load-plugin", &path]);
            // What concerns settings is not a matter of the file.
            ensure!(!audit.is_empty() || reason.contains("schema"), "there is no audit line");
        }
        let took = stage.provoked_for();
        stage.is_unharmed().await?;
        Ok(self.limit.map_or(Duration::ZERO, |limit| took.saturating_sub(limit)))
    }

    /// Attacks with the limit raised that contains it, and expects that it succeeds: nothing else was
    /// in its way. False where no setting moves what contains it.
    ///
    /// # Errors
    ///
    /// Fails when it is otherwise.
    pub async fn succeeds_when_raised(&self) -> Result<bool> {
        let Some((options, met)) = &self.raised else { return Ok(false) };
        let stage = Stage::of(self, options.clone()).await?;
        stage.meets(*met).await?;
        within("the shutdown", stage.pintle.shutdown()).await?;
        Ok(true)
    }
}
