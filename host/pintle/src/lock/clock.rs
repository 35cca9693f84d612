//! The lease clock: tells every lease when its time is up, whatever the plugin does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use crate::clock::BootTime;

/// Something whose time can be up.
pub(crate) trait Expires: Send + Sync {
    /// Until when it is valid now; nothing when it has ended.
    fn deadline(&self) -> Option<BootTime>;
    /// Called when the deadline has passed.
    fn expire(&self);
}

/// Watches the deadlines of any number of leases with one task.
#[derive(Default)]
pub(crate) struct LeaseClock {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    /// By the deadline known when it was put here; a renewal is noticed when that comes.
    by_deadline: BTreeMap<(BootTime, u64), Weak<dyn Expires>>,
    next_id: u64,
}

/// Timers stand still while the machine is suspended, the lease clock does not: never sleep longer
/// than this.
const LONGEST_SLEEP: Duration = Duration::from_millis(250);

impl LeaseClock {
    /// Begins to watch `lease`.
    pub(crate) fn watch(&self, lease: &Arc<dyn Expires>) {
        let Some(deadline) = lease.deadline() else { return };
        let mut queue = self.lock();
        queue.insert(deadline, Arc::downgrade(lease));
        let is_first = queue.by_deadline.keys().next().is_some_and(|(first, _)| *first == deadline);
        drop(queue);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Runs until the task is dropped.
    pub(crate) async fn run(&self) {
        loop {
            let now = BootTime::now();
            let next = self.expire_due(now);
            let changed = self.changed.notified();
            match next {
                None => changed.await,
                Some(next) => {
                    let sleep = now.until(next).min(LONGEST_SLEEP);
                    // Whichever comes first: both only mean to look again.
                    let _ = tokio::time::timeout(sleep, changed).await;
                }
            }
        }
    }

    /// Expires what is due at `now`, and answers when to look again.
    fn expire_due(&self, now: BootTime) -> Option<BootTime> {
        loop {
            let lease = {
                let mut queue = self.lock();
                let entry = queue.by_deadline.first_entry()?;
                let (deadline, _) = *entry.key();
                if deadline > now {
                    return Some(deadline);
                }
                entry.remove().upgrade()
            };
            let Some(lease) = lease else { continue };
            match lease.deadline() {
                Some(renewed) if renewed > now => {
                    self.lock().insert(renewed, Arc::downgrade(&lease))
                }
                Some(_) => lease.expire(),
                None => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn insert(&mut self, deadline: BootTime, lease: Weak<dyn Expires>) {
        let id = self.next_id;
        self.next_id += 1;
        self.by_deadline.insert((deadline, id), lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    struct Fake {
        deadline_ns: AtomicU64,
        expired: AtomicU32,
    }

    impl Expires for Fake {
        fn deadline(&self) -> Option<BootTime> {
            match self.deadline_ns.load(Ordering::Relaxed) {
                0 => None,
                nanos => Some(BootTime::from_nanos(nanos)),
            }
        }
        fn expire(&self) {
            self.deadline_ns.store(0, Ordering::Relaxed);
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fake(deadline_ns: u64) -> Arc<Fake> {
        Arc::new(Fake { deadline_ns: AtomicU64::new(deadline_ns), expired: AtomicU32::new(0) })
    }

    fn watch(clock: &LeaseClock, fake: &Arc<Fake>) {
        let lease: Arc<dyn Expires> = fake.clone();
        clock.watch(&lease);
    }

    fn at(nanos: u64) -> BootTime {
        BootTime::from_nanos(nanos)
    }

    #[test]
    fn a_lease_expires_once_when_its_time_is_up() {
        let (clock, lease) = (LeaseClock::default(), fake(100));
        watch(&clock, &lease);
        assert_eq!(clock.expire_due(at(99)), Some(at(100)));
        assert_eq!(lease.expired.load(Ordering::Relaxed), 0);
        assert_eq!(clock.expire_due(at(100)), None);
        assert_eq!(clock.expire_due(at(200)), None);
        assert_eq!(lease.expired.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_renewed_lease_lives_on() {
        let (clock, lease) = (LeaseClock::default(), fake(100));
        watch(&clock, &lease);
        lease.deadline_ns.store(300, Ordering::Relaxed);
        assert_eq!(clock.expire_due(at(150)), Some(at(300)));
        assert_eq!(lease.expired.load(Ordering::Relaxed), 0);
        clock.expire_due(at(300));
        assert_eq!(lease.expired.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_ended_lease_never_expires() {
        let (clock, lease) = (LeaseClock::default(), fake(100));
        watch(&clock, &lease);
        lease.deadline_ns.store(0, Ordering::Relaxed);
        assert_eq!(clock.expire_due(at(500)), None);
        assert_eq!(lease.expired.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn the_running_clock_notices_a_lease_that_is_due_before_all_others() {
        let clock = Arc::new(LeaseClock::default());
        let running = tokio::spawn({
            let clock = Arc::clone(&clock);
            async move { clock.run().await }
        });
        let late = fake(BootTime::now().plus(Duration::from_secs(600)).nanos());
        watch(&clock, &late);
        let due = fake(BootTime::now().plus(Duration::from_millis(20)).nanos());
        watch(&clock, &due);
        let expired = async {
            while due.expired.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), expired).await.unwrap();
        assert_eq!(late.expired.load(Ordering::Relaxed), 0);
        running.abort();
    }
}
