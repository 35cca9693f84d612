//! Between the generated exports and the author's traits. Nothing here is for authors; the
//! [`export!`](crate::export) macro names it.

mod config;
mod lifecycle;
mod lock;
mod registry;
mod tracing;

pub use config::ConfigGlue;
pub use lifecycle::PluginGlue;
pub use lock::LockGlue;
pub use registry::RegistryGlue;
pub use tracing::TracingGlue;

use crate::bindings::wire;
use crate::calls::{Calls, Kind};
use crate::handles::Handles;
use crate::outbox::{Outbox, Weight};
use crate::plugin::{Features, Plugin};
use crate::time::timeout_at;
use crate::{Context, Error};
use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    /// The one incarnation in this store (natively: on this thread).
    static INCARNATION: RefCell<Rc<Incarnation>> = RefCell::default();
}

/// Everything that lives from `start` to the end of the store.
#[derive(Default)]
pub(crate) struct Incarnation {
    plugin: RefCell<Option<Rc<dyn Any>>>,
    features: RefCell<Rc<Features>>,
    calls: Calls,
    config: Handles<wire::config::Event>,
    registry: Handles<wire::registry::Event>,
    lock: Handles<wire::lock::Event>,
}

impl Incarnation {
    fn current() -> Rc<Self> {
        INCARNATION.with_borrow(Rc::clone)
    }

    /// Puts a fresh incarnation in the place of the one on this thread.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn renew() {
        drop(INCARNATION.replace(Rc::default()));
    }

    /// The author's plugin.
    ///
    /// # Errors
    ///
    /// `unavailable` before `start` has succeeded.
    fn plugin<P: Plugin>(&self) -> Result<Rc<P>, Error> {
        let plugin = self.plugin.borrow().clone();
        let plugin = plugin.and_then(|plugin| plugin.downcast().ok());
        plugin.ok_or_else(|| Error::unavailable("the plugin has not started"))
    }

    /// Runs a call on the author's plugin, with a deadline and within reach of `cancel`.
    async fn call<P: Plugin, T>(
        &self,
        operation: &'static str,
        kind: Kind,
        raw: wire::types::Context,
        body: impl AsyncFnOnce(Rc<P>, &Context) -> Result<T, Error>,
    ) -> Result<T, wire::types::Error> {
        let plugin = self.plugin::<P>()?;
        self.calls.run(operation, kind, raw, async |cx| body(plugin, cx).await).await
    }

    fn features(&self) -> Rc<Features> {
        Rc::clone(&self.features.borrow())
    }
}

/// Answers a `poll`: with events as soon as there are any, with none at the timeout.
async fn poll<E: Weight + 'static>(
    outbox: &Outbox<E>,
    raw: wire::types::Context,
    events_max: u32,
) -> Vec<(u64, E)> {
    let cx = Context::of_call("poll", raw, crate::calls::reserve_to_answer);
    // Running out of time is the ordinary end of a quiet poll.
    let _ = timeout_at(cx.deadline(), outbox.arrived()).await;
    outbox.take(usize::try_from(events_max).unwrap_or(usize::MAX))
}
