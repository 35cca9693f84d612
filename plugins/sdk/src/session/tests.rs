use super::*;
use crate::testing::{instance, run};
use crate::time::sleep;
use std::cell::{Cell, RefCell};

fn granted(ttl_ms: u64) -> Validity {
    Validity { sent_at: Instant::now(), valid_for: Duration::from_millis(ttl_ms) }
}

/// A connection that never breaks.
async fn never() -> String {
    std::future::pending().await
}

#[test]
fn the_deadline_counts_from_sending_less_a_margin() {
    run(async {
        let clock = LeaseClock::new(granted(9_000));
        let sent = clock.validity().sent_at;
        assert_eq!(clock.renew_at().since(sent), Duration::from_secs(3));
        assert_eq!(clock.deadline().since(sent), Duration::from_millis(8_100));
        let short = LeaseClock::new(granted(2_000));
        assert_eq!(short.deadline().since(sent), Duration::from_millis(1_500));
    });
}

#[test]
fn it_is_renewed_at_a_third_and_lost_when_the_server_says_so() {
    run(async {
        let begun = Instant::now();
        let attempts = RefCell::new(Vec::new());
        let renew = async || {
            attempts.borrow_mut().push(begun.elapsed().as_secs());
            if attempts.borrow().len() < 3 {
                Ok(Renewal::Renewed(granted(9_000)))
            } else {
                Ok(Renewal::Gone("expired".to_owned()))
            }
        };
        let reason = keep_alive(LeaseClock::new(granted(9_000)), renew, never, |_| {}).await;
        assert_eq!(reason, "expired");
        assert_eq!(*attempts.borrow(), [3, 6, 9]);
    });
}

#[test]
fn a_clock_that_is_due_is_renewed_at_once_and_then_as_usual() {
    run(async {
        let begun = Instant::now();
        let attempts = RefCell::new(Vec::new());
        let renew = async || {
            attempts.borrow_mut().push(begun.elapsed().as_secs());
            if attempts.borrow().len() < 2 {
                Ok(Renewal::Renewed(granted(9_000)))
            } else {
                Ok(Renewal::Gone("expired".to_owned()))
            }
        };
        keep_alive(LeaseClock::new(granted(9_000)).due_now(), renew, never, |_| {}).await;
        assert_eq!(*attempts.borrow(), [0, 3]);
    });
}

#[test]
fn failing_renewals_are_told_and_end_at_the_deadline() {
    run(async {
        let begun = Instant::now();
        let told = Cell::new(0);
        let renew = async || Err(Error::unavailable("no server"));
        let tell = |status| {
            assert_eq!(status, Status::Suspect("no server".to_owned()));
            told.set(told.get() + 1);
        };
        keep_alive(LeaseClock::new(granted(9_000)), renew, never, tell).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(8_100));
        assert!(told.get() >= 4, "tried {} times", told.get());
    });
}

#[test]
fn a_broken_connection_is_told_at_once_and_the_lease_renewed_early() {
    run(async {
        let begun = Instant::now();
        let breaks = Cell::new(true);
        let doubt = async || {
            if !breaks.replace(false) {
                return never().await;
            }
            sleep(Duration::from_secs(1)).await;
            "reset by peer".to_owned()
        };
        let attempts = RefCell::new(Vec::new());
        let renew = async || {
            attempts.borrow_mut().push(begun.elapsed().as_secs());
            if attempts.borrow().len() < 2 {
                Ok(Renewal::Renewed(granted(9_000)))
            } else {
                Ok(Renewal::Gone("expired".to_owned()))
            }
        };
        let told = RefCell::new(Vec::new());
        let tell = |status| told.borrow_mut().push((begun.elapsed().as_secs(), status));
        keep_alive(LeaseClock::new(granted(9_000)), renew, doubt, tell).await;
        assert_eq!(*attempts.borrow(), [1, 4]);
        let told = told.borrow();
        let [(1, Status::Suspect(reason)), (1, Status::Renewed(_))] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(reason, "reset by peer");
    });
}

#[test]
fn a_renewal_without_an_answer_ends_at_the_deadline() {
    run(async {
        let begun = Instant::now();
        let renew = async || std::future::pending().await;
        keep_alive(LeaseClock::new(granted(9_000)), renew, never, |_| {}).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(8_100));
    });
}

#[test]
fn a_late_answer_counts_from_its_sending() {
    run(async {
        let begun = Instant::now();
        let first = Cell::new(true);
        let renew = async || {
            let sent = granted(9_000);
            if first.replace(false) {
                sleep(Duration::from_secs(4)).await;
                return Ok(Renewal::Renewed(sent));
            }
            std::future::pending().await
        };
        keep_alive(LeaseClock::new(granted(9_000)), renew, never, |_| {}).await;
        // Sent at 3 s, answered at 7 s: lost at 3 s + 8.1 s, not at 7 s + 8.1 s.
        assert_eq!(begun.elapsed(), Duration::from_millis(11_100));
    });
}

mod reported {
    use super::*;
    use crate::lock::Event as LockEvent;
    use crate::outbox::{Outbox, Weight};
    use crate::registry::{Event as RegistryEvent, InstanceHealth};
    use crate::reporter::Reporter;
    use std::rc::Weak;

    fn reporter<E: Weight + 'static>(outbox: &Outbox<E>) -> Reporter<E> {
        let reporter = Reporter::new(outbox.open(1).unwrap(), 1, Weak::new());
        reporter.begin();
        reporter
    }

    #[test]
    fn a_lease_is_kept_until_it_is_lost() {
        run(async {
            let outbox = Outbox::default();
            let reporter = LeaseReporter::new(reporter(&outbox));
            let rounds = Cell::new(0);
            let renew = async || {
                rounds.set(rounds.get() + 1);
                match rounds.get() {
                    1 => Ok(Renewal::Renewed(granted(9_000))),
                    2 => Err(Error::unavailable("no server")),
                    _ => Ok(Renewal::Gone("expired".to_owned())),
                }
            };
            keep_lease(reporter, LeaseClock::new(granted(9_000)), renew, never).await;
            let events = outbox.take(10);
            assert!(
                matches!(
                    &events[..],
                    [
                        (1, LockEvent::Renewed(_)),
                        (1, LockEvent::Suspect(doubt)),
                        (1, LockEvent::Lost(reason))
                    ] if doubt == "no server" && reason == "expired"
                ),
                "{events:?}"
            );
        });
    }

    #[test]
    fn a_lease_that_was_closed_is_not_renewed_any_more() {
        run(async {
            let outbox = Outbox::default();
            let reporter = LeaseReporter::new(reporter(&outbox));
            let renewed = Cell::new(0);
            let renew = async || {
                renewed.set(renewed.get() + 1);
                Ok(Renewal::Renewed(granted(9_000)))
            };
            let closing = async {
                sleep(Duration::from_secs(7)).await;
                outbox.close(1);
            };
            let keeping = keep_lease(reporter, LeaseClock::new(granted(9_000)), renew, never);
            futures::future::join(keeping, closing).await;
            assert_eq!(renewed.get(), 2);
        });
    }

    fn someone_else() -> InstanceState {
        InstanceState {
            instance: instance("shop", "a"),
            operator: None,
            ephemeral: true,
            owner: "another".to_owned(),
            health: InstanceHealth::Unknown,
            version: "1".to_owned(),
            registered_ms: None,
        }
    }

    #[test]
    fn a_registration_heals_itself_and_tells_each_loss_and_recovery() {
        run(async {
            let outbox = Outbox::default();
            let reporter = RegistrationReporter::new(reporter(&outbox));
            let attempts = Cell::new(0);
            let renew = async || Ok(Renewal::Gone("session expired".to_owned()));
            let register = async || {
                attempts.set(attempts.get() + 1);
                match attempts.get() {
                    1..4 => Err(Error::unavailable("no server")),
                    4 => Ok(Again::Registered(granted(9_000))),
                    _ => Ok(Again::Taken(someone_else())),
                }
            };
            keep_registered(reporter, LeaseClock::new(granted(9_000)), renew, never, register)
                .await;
            let events = outbox.take(10);
            assert!(
                matches!(
                    &events[..],
                    [
                        (1, RegistryEvent::Lost(_)),
                        (1, RegistryEvent::Registered(_)),
                        (1, RegistryEvent::Lost(_)),
                        (1, RegistryEvent::Taken(_))
                    ]
                ),
                "{events:?}"
            );
        });
    }
}
