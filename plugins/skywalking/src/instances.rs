//! Which processes report, and telling the server that they live.

use crate::reporter::Reporter;
use crate::wire::messages::{InstancePing, InstanceProperties};
use crate::wire::span::{Process, properties};
use futures::future::{Either, select};
use pintle_otlp::Resource;
use pintle_plugin_sdk::signal::Signal;
use pintle_plugin_sdk::time::{Instant, sleep};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// As many processes are told of; of more only the spans are reported.
const INSTANCES_MAX: usize = 1_000;
/// A process of which nothing came for so long is not kept alive any more.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// Every so many rounds the properties are told again, in case that the server has forgotten them.
const ROUNDS_PER_REPORT: u64 = 10;

#[derive(Default)]
pub(crate) struct Instances {
    known: RefCell<BTreeMap<Rc<Process>, Instance>>,
    /// One came that the server does not know.
    appeared: Signal,
    news: Cell<bool>,
    failures: Cell<u64>,
}

struct Instance {
    resource: Resource,
    seen: Instant,
    is_reported: bool,
}

impl Instances {
    /// A span of this process came.
    pub(crate) fn saw(&self, process: &Rc<Process>, resource: &Resource) {
        let mut known = self.known.borrow_mut();
        if let Some(instance) = known.get_mut(process) {
            instance.seen = Instant::now();
            return;
        }
        if known.len() >= INSTANCES_MAX {
            known.retain(|_, instance| instance.seen.elapsed() < SILENCE_MAX);
        }
        if known.len() >= INSTANCES_MAX {
            return;
        }
        let (resource, seen) = (resource.clone(), Instant::now());
        known.insert(Rc::clone(process), Instance { resource, seen, is_reported: false });
        drop(known);
        self.news.set(true);
        self.appeared.notify();
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.known.borrow().len()).unwrap_or(u64::MAX)
    }

    /// Reports that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.get()
    }

    /// Tells the server of new processes at once, and of all of them again and again. Never ends.
    pub(crate) async fn keep(&self, reporter: &Reporter, layer: &str, period: Duration) {
        let mut round = 0;
        loop {
            let due = Instant::now().after(period);
            loop {
                self.report(reporter, layer, false).await;
                let appeared = pin!(self.appeared.wait(|| self.news.take().then_some(())));
                match select(appeared, pin!(sleep(due.remaining()))).await {
                    Either::Left(_) => {}
                    Either::Right(_) => break,
                }
            }
            round += 1;
            self.report(reporter, layer, round % ROUNDS_PER_REPORT == 0).await;
            self.ping(reporter, layer).await;
        }
    }

    /// Reports the properties of those that are not reported yet, or of all.
    async fn report(&self, reporter: &Reporter, layer: &str, all: bool) {
        let due: Vec<_> = {
            let mut known = self.known.borrow_mut();
            known.retain(|_, instance| instance.seen.elapsed() < SILENCE_MAX);
            let due = known.iter().filter(|(_, instance)| all || !instance.is_reported);
            due.map(|(process, instance)| (Rc::clone(process), properties(&instance.resource)))
                .collect()
        };
        for (process, properties) in due {
            let report = InstanceProperties {
                service: process.service.clone(),
                service_instance: process.instance.clone(),
                properties,
                layer: layer.to_owned(),
            };
            match reporter.report_properties(report).await {
                Ok(()) => {
                    if let Some(instance) = self.known.borrow_mut().get_mut(&process) {
                        instance.is_reported = true;
                    }
                }
                // It is tried again in the next round.
                Err(error) => return self.failed(&error),
            }
        }
    }

    async fn ping(&self, reporter: &Reporter, layer: &str) {
        let all: Vec<_> = self.known.borrow().keys().cloned().collect();
        for process in all {
            let ping = InstancePing {
                service: process.service.clone(),
                service_instance: process.instance.clone(),
                layer: layer.to_owned(),
            };
            if let Err(error) = reporter.keep_alive(ping).await {
                return self.failed(&error);
            }
        }
    }

    fn failed(&self, error: &pintle_plugin_sdk::Error) {
        self.failures.set(self.failures.get() + 1);
        tracing::debug!(%error, "the server was not told of the processes that report");
    }
}
