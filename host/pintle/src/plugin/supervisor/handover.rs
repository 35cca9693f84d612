//! From one file of a plugin to the next.
//!
//! The new one takes over as a successor takes over from a plugin that ended: with its last
//! checkpoint, on the same sessions. So the two never run at once (see
//! `docs/decisions/0009-a-new-file-is-a-successor.md`), and what there is to gain is gained before:
//! the new file is compiled and its settings are checked while the old one serves, locks are waited
//! for, and calls under way come to their end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{End, Serving, Supervisor, missing_data_dir, prepare};
use crate::plugin::{audit, loader::Plugin};

/// How long calls under way may take to come to their end. Others wait meanwhile.
const QUIET_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at what is still held or under way.
const LOOK: Duration = Duration::from_millis(2);

/// Whether the old plugin makes room for the new one.
pub(super) enum Room {
    Made,
    /// The new one cannot work here; the old one goes on.
    Refused,
    /// It was taken back meanwhile, or another is wanted.
    Unwanted,
    /// Something else came first.
    Ended(End),
}

impl Supervisor {
    /// Waits until `plugin` can take over from the incarnation that serves.
    pub(super) async fn make_room(
        &mut self,
        serving: &Arc<Serving>,
        plugin: &Arc<Plugin>,
        wanted: &mut watch::Receiver<Option<Arc<Plugin>>>,
    ) -> Room {
        if let Err(reason) = self.fits(plugin) {
            let text = format!("the new file cannot run with these settings: {reason}");
            tracing::error!(backend = &*self.backend.name, reason, "plugin not replaced");
            audit::refused("replace-plugin", &self.backend.name, &text);
            self.backend.remark(Some(&text));
            return Room::Refused;
        }
        let mut stop = self.stop.clone();
        let drain = self.backend.shared.settings.plugins.drain;
        let is_other = |wanted: &Option<Arc<Plugin>>| {
            wanted.as_ref().is_none_or(|wanted| !Arc::ptr_eq(wanted, plugin))
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Room::Ended(End::Stopped),
            _ = wanted.wait_for(is_other) => Room::Unwanted,
            reason = serving.incarnation.ended() => {
                // Then it takes over at once.
                tracing::warn!(backend = &*self.backend.name, %reason, "plugin ended while it was being replaced");
                Room::Made
            }
            () = self.leases_released(drain) => Room::Made,
        }
    }

    /// Whether the settings are what the new file takes.
    fn fits(&self, plugin: &Plugin) -> Result<(), String> {
        if plugin.info.data_directory && self.backend.settings.data_dir.is_none() {
            return Err(missing_data_dir(&self.backend.name, plugin));
        }
        prepare(&self.backend, plugin).map(drop).map_err(super::StartFailure::into_reason)
    }

    /// Waits until nobody holds a lock, or for `drain`.
    async fn leases_released(&self, drain: Duration) {
        let begun = Instant::now();
        let is_held = || {
            let leases = self.backend.routes.leases.all();
            leases.iter().any(|(_, lease)| lease.is_held())
                || self.backend.routes.releases.are_under_way()
        };
        while begun.elapsed() < drain && is_held() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the incarnation that serves so that another can take over: calls wait from now on, and
    /// those under way come to their end first.
    pub(super) async fn end_for(&self, serving: &Serving, reason: &str) {
        self.backend.publish_wait(reason);
        self.backend.set_serving(None);
        // What was granted since nobody held one. A release would go to the successor from now on,
        // which does not know it.
        let leases = self.backend.routes.leases.all();
        for (_, lease) in leases.iter().filter(|(_, lease)| lease.was_asked_of(serving.number)) {
            if lease.is_held() {
                lease.lose(reason.into());
            }
        }
        let begun = Instant::now();
        // At least once: who has found the old one just now is about to call it.
        loop {
            tokio::time::sleep(LOOK).await;
            if serving.incarnation.is_quiet() || begun.elapsed() > QUIET_TIMEOUT {
                break;
            }
        }
        // Before its leases are lost: none that it grants after that is believed.
        serving.incarnation.kill(reason);
        self.let_go(serving, &reason.into());
    }
}
