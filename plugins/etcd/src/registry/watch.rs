//! Watches of the registry: instances and what operators say of them, as one.

use super::states::{Name, Operators, Stored};
use crate::error::is_passing;
use crate::etcd::Etcd;
use crate::watches::{End, Notice, Subscription, Target};
use crate::wire::layout::{Layout, Range};
use crate::wire::messages::Event;
use futures::future::{Either, select};
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::registry::{InstanceState, WatchSink};
use pintle_plugin_sdk::{Context, Error};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long reading the registry may take.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// What a watch has shown.
struct View {
    layout: Layout,
    instances: BTreeMap<Name, Stored>,
    operators: Operators,
    /// The revision of the store that it shows.
    revision: i64,
}

impl Etcd {
    pub(super) async fn follow_registry(
        self: Rc<Self>,
        service: Option<String>,
        sink: WatchSink,
    ) -> Result<(), Error> {
        let mut pauses = Backoff::default();
        loop {
            let view = self.read_view(service.as_deref()).await?;
            let start_revision = view.revision + 1;
            let mut snapshot = sink.snapshot();
            for state in view.states() {
                snapshot.put(state).await;
            }
            snapshot.end();
            let view = Rc::new(RefCell::new(view));
            let open = |range: Range| -> Subscription {
                let (view, sink) = (Rc::clone(&view), sink.clone());
                let target = Target { range, start_revision, prev_kv: false };
                self.watches.open(target, move |notice| match notice {
                    Notice::Events(events) => {
                        let mut view = view.borrow_mut();
                        events.into_iter().for_each(|event| view.change(&sink, event));
                    }
                    Notice::Progress(_) => sink.progress(),
                })
            };
            let mut instances = open(self.layout.instances(service.as_deref()));
            let mut operators = open(self.layout.operators(service.as_deref()));
            let ended = pin!(async {
                select(pin!(instances.ended()), pin!(operators.ended())).await.factor_first().0
            });
            match select(ended, pin!(sink.snapshot_wanted())).await {
                Either::Left((End::Refused(error), _)) if !is_passing(&error) => return Err(error),
                Either::Left((end, _)) => {
                    sink.resync(&end.reason());
                    pauses.wait().await;
                }
                // The reader fell behind, and was told so.
                Either::Right(_) => {}
            }
        }
    }

    /// Reads the registry at one revision, for as long as it takes.
    async fn read_view(&self, service: Option<&str>) -> Result<View, Error> {
        let mut pauses = Backoff::default();
        loop {
            let cx = Context::background("registry.watch", READ_LIMIT);
            match self.view(&cx, service).await {
                Err(error) if is_passing(&error) || error.code() == "compacted" => {
                    tracing::debug!(%error, "the registry is read again");
                }
                outcome => return outcome,
            }
            pauses.wait().await;
        }
    }

    async fn view(&self, cx: &Context, service: Option<&str>) -> Result<View, Error> {
        let layout = &self.layout;
        let (kvs, revision) = self.reader.all_now(cx, layout.instances(service)).await?;
        let stored = kvs.into_iter().filter_map(|kv| Stored::new(layout, kv));
        let instances = stored.map(|stored| (stored.name(), stored)).collect();
        let kvs = self.reader.all(cx, layout.operators(service), revision).await?;
        let operators = Operators::new(layout, kvs);
        Ok(View { layout: layout.clone(), instances, operators, revision })
    }
}

impl View {
    fn states(&self) -> Vec<InstanceState> {
        self.instances.values().map(|stored| self.operators.merged(stored.clone())).collect()
    }

    fn state(&self, name: &Name) -> Option<InstanceState> {
        self.instances.get(name).map(|stored| self.operators.merged(stored.clone()))
    }

    /// Takes a change, and passes on what a reader sees of it.
    fn change(&mut self, sink: &WatchSink, event: Event) {
        let deleted = event.is_deletion();
        let Some(kv) = event.kv else { return };
        let (name, is_operator) = match self.layout.instance_named(&kv.key) {
            Some(name) => (name, false),
            None => match self.layout.operator_named(&kv.key) {
                Some(name) => (name, true),
                None => return,
            },
        };
        let previous = self.state(&name);
        match (is_operator, deleted) {
            (true, true) => self.operators.clear(&name),
            (true, false) => self.operators.set(name.clone(), &kv.value),
            (false, true) => drop(self.instances.remove(&name)),
            (false, false) => match Stored::new(&self.layout, kv) {
                Some(stored) => drop(self.instances.insert(name.clone(), stored)),
                None => drop(self.instances.remove(&name)),
            },
        }
        match (self.state(&name), previous) {
            (Some(state), previous) => sink.put(state, previous),
            (None, Some(previous)) => sink.removed(name.0, name.1, Some(previous)),
            // What an operator says of an instance that does not run shows with its registration.
            (None, None) => {}
        }
    }
}
