//! Deadlines, cancellation, leases and registrations, as a host sees them: with a plugin that does
//! what its settings say.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use pintle_plugin_sdk::config::*;
use pintle_plugin_sdk::lock::{
    AcquireRequest, Acquired, Event as LockEvent, LeaseReporter, Lock, LockState, LocksPage, Mode,
};
use pintle_plugin_sdk::testing::{AcquireOutcome, Host, PutRequest, StartOptions, run};
use pintle_plugin_sdk::time::{Instant, sleep};
use pintle_plugin_sdk::{
    Context, Description, Effect, End, Error, Feature, Health, Plugin, Secret, Start, Validity,
    checkpoint,
};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static REPORTER: RefCell<Option<LeaseReporter>> = const { RefCell::new(None) };
}

fn saw(what: impl Into<String>) {
    SEEN.with_borrow_mut(|seen| seen.push(what.into()));
}

fn seen() -> Vec<String> {
    SEEN.take()
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// How long every call takes.
    #[serde(default)]
    delay_ms: u64,
    /// Whether `acquire` comes back when it is cancelled.
    #[serde(default)]
    deaf: bool,
    /// How often `release` fails before it works.
    #[serde(default)]
    release_failures: u32,
    /// Opens nothing.
    #[allow(dead_code, reason = "its schema is what matters here")]
    #[serde(default)]
    password: Option<Secret<String>>,
}

struct Slow {
    settings: Settings,
    failures: Cell<u32>,
}

impl Plugin for Slow {
    type Settings = Settings;

    fn description() -> Description {
        Description::new("1.2.3", "takes its time").features([Feature::ConfigCas])
    }

    async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
        if let Some(resume) = start.resume {
            saw(format!("resumed {}", String::from_utf8_lossy(&resume)));
        }
        checkpoint(b"started");
        let failures = Cell::new(start.settings.release_failures);
        Ok(Rc::new(Self { settings: start.settings, failures }))
    }

    fn health(&self) -> Health {
        let health = Health::degraded("slow");
        (0..100).fold(health, |health, number| health.counter(format!("c{number}"), number))
    }

    async fn stop(&self, _: &Context) -> Result<(), Error> {
        saw("stop");
        Ok(())
    }
}

impl Slow {
    async fn delay(&self) {
        sleep(Duration::from_millis(self.settings.delay_ms)).await;
    }
}

impl Config for Slow {
    type Held = String;

    async fn get(&self, _: &Context, key: String, _: ReadOptions) -> Result<Option<Entry>, Error> {
        self.delay().await;
        saw(format!("got {key}"));
        Ok(None)
    }

    async fn list(&self, _: &Context, _: ListRequest) -> Result<Page, Error> {
        Err(Error::unsupported("no list"))
    }

    async fn put(&self, _: &Context, _: Put<String>) -> Result<PutOutcome, Error> {
        self.delay().await;
        Ok(PutOutcome::Stale(None))
    }

    async fn delete(&self, _: &Context, _: Delete<String>) -> Result<DeleteOutcome, Error> {
        Ok(DeleteOutcome::Absent)
    }

    async fn delete_prefix(
        &self,
        _: &Context,
        _: String,
        _: Option<Rc<String>>,
    ) -> Result<u64, Error> {
        Ok(0)
    }

    async fn watch(self: Rc<Self>, _: WatchRequest, sink: WatchSink) -> Result<(), Error> {
        sink.snapshot().end(None);
        sleep(Duration::from_secs(1)).await;
        Err(Error::denied("not any more"))
    }
}

impl Lock for Slow {
    type Lease = String;

    async fn acquire(
        self: Rc<Self>,
        cx: &Context,
        request: AcquireRequest,
        reporter: LeaseReporter,
    ) -> Result<Acquired<String>, Error> {
        REPORTER.set(Some(reporter));
        let delay = std::pin::pin!(self.delay());
        let validity = Validity { sent_at: Instant::now(), valid_for: Duration::from_secs(9) };
        if self.settings.deaf {
            delay.await;
        } else {
            let cancelled = std::pin::pin!(cx.cancelled());
            if let futures::future::Either::Right((end, _)) =
                futures::future::select(delay, cancelled).await
            {
                saw(match end {
                    End::Cancelled => "cleaned up after a cancellation",
                    End::Timeout => "cleaned up after a timeout",
                });
                return Err(cx.error(end));
            }
        }
        Ok(Acquired::Held { lease: request.name, validity, token: None })
    }

    async fn release(&self, _: &Context, lease: Rc<String>) -> Result<bool, Error> {
        if self.failures.get() > 0 {
            self.failures.set(self.failures.get() - 1);
            return Err(Error::unavailable("not now"));
        }
        saw(format!("released {lease}"));
        Ok(true)
    }

    async fn inspect(&self, _: &Context, _: String) -> Result<LockState, Error> {
        Err(Error::unsupported("no inspect"))
    }

    async fn list_locks(
        &self,
        _: &Context,
        _: String,
        _: Option<String>,
        _: u32,
    ) -> Result<LocksPage, Error> {
        Err(Error::unsupported("no list"))
    }
}

pintle_plugin_sdk::export!(Slow: lock, config);

async fn host(settings: serde_json::Value) -> Host<Slow> {
    Host::start(StartOptions { settings, ..StartOptions::default() }).await.unwrap()
}

fn sequential() -> ReadOptions {
    ReadOptions { consistency: Consistency::Sequential, at: None, selectors: Vec::new() }
}

fn put() -> PutRequest {
    PutRequest {
        key: "k".to_owned(),
        value: Vec::new(),
        content_type: None,
        expect: Expectation::Absent,
        held: None,
        previous: false,
        selectors: Vec::new(),
    }
}

fn ask() -> AcquireRequest {
    AcquireRequest {
        name: "l".to_owned(),
        mode: Mode::Exclusive,
        ttl_ms: 9_000,
        wait_ms: 0,
        owner: "test".to_owned(),
    }
}

/// Runs a call and cancels it after 10 ms.
async fn cancelled<T>(host: &Host<Slow>, call: impl Future<Output = T>) -> (T, Duration) {
    let call_id = host.next_call_id();
    let cancelling = async {
        sleep(Duration::from_millis(10)).await;
        host.cancel(call_id);
        Instant::now()
    };
    let (output, at) = futures::future::join(call, cancelling).await;
    (output, at.elapsed())
}

#[test]
fn a_read_that_takes_too_long_ends_in_time_without_effect() {
    run(async {
        let host = host(json!({ "delay_ms": 60_000 })).await;
        host.set_timeout(Duration::from_secs(2));
        let begun = Instant::now();
        let error = host.config().get("k".into(), sequential()).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("timeout", Effect::None));
        assert!(begun.elapsed() < Duration::from_secs(2));
        sleep(Duration::from_secs(120)).await;
        assert_eq!(seen(), [""; 0], "the read was dropped");
    });
}

#[test]
fn a_write_that_takes_too_long_may_have_happened() {
    run(async {
        let host = host(json!({ "delay_ms": 60_000 })).await;
        let error = host.config().put(put()).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("timeout", Effect::Unknown));
    });
}

#[test]
fn a_cancelled_call_ends_at_once() {
    run(async {
        let host = host(json!({ "delay_ms": 60_000 })).await;
        let config = host.config();
        let (read, took) = cancelled(&host, config.get("k".into(), sequential())).await;
        assert_eq!(read.unwrap_err().code(), "cancelled");
        assert_eq!(took, Duration::ZERO);
        let (write, _) = cancelled(&host, config.put(put())).await;
        assert_eq!(write.unwrap_err().effect(), Effect::Unknown);
        host.cancel(4711);
    });
}

#[test]
fn a_cancelled_acquire_cleans_up_before_it_answers() {
    run(async {
        let host = host(json!({ "delay_ms": 60_000 })).await;
        let lock = host.lock();
        let (outcome, took) = cancelled(&host, lock.acquire(1, ask())).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("cancelled", Effect::None));
        assert!(took < Duration::from_millis(800));
        assert_eq!(seen(), ["cleaned up after a cancellation"]);
    });
}

#[test]
fn an_acquire_that_runs_out_of_time_cleans_up_in_time() {
    run(async {
        let host = host(json!({ "delay_ms": 60_000 })).await;
        let begun = Instant::now();
        let error = host.lock().acquire(1, ask()).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("timeout", Effect::None));
        assert!(begun.elapsed() <= Duration::from_secs(5));
        assert_eq!(seen(), ["cleaned up after a timeout"]);
    });
}

#[test]
fn a_lease_that_is_won_after_the_cancellation_is_given_back() {
    run(async {
        let host = host(json!({ "delay_ms": 300, "deaf": true })).await;
        let lock = host.lock();
        let (outcome, _) = cancelled(&host, lock.acquire(1, ask())).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("cancelled", Effect::None));
        assert_eq!(seen(), ["released l"], "before the call answered");
        assert!(!lock.release(1).await.unwrap());
    });
}

#[test]
fn a_lease_that_is_won_much_later_is_given_back_in_the_background() {
    run(async {
        let host = host(json!({ "delay_ms": 20_000, "deaf": true })).await;
        let lock = host.lock();
        let (outcome, took) = cancelled(&host, lock.acquire(1, ask())).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("cancelled", Effect::Unknown));
        assert!(took <= Duration::from_secs(1));
        assert_eq!(seen(), [""; 0]);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(seen(), ["released l"]);
    });
}

#[test]
fn a_lease_that_is_closed_while_it_is_asked_for_is_given_back() {
    run(async {
        let host = host(json!({ "delay_ms": 300, "deaf": true })).await;
        let lock = host.lock();
        let closing = async {
            sleep(Duration::from_millis(10)).await;
            lock.close(1);
        };
        let (outcome, ()) = futures::future::join(lock.acquire(1, ask()), closing).await;
        assert_eq!(outcome.unwrap_err().code(), "cancelled");
        assert_eq!(seen(), ["released l"]);
    });
}

#[test]
fn a_closed_lease_is_given_back_even_if_that_fails_at_first() {
    run(async {
        let host = host(json!({ "release_failures": 3 })).await;
        let lock = host.lock();
        lock.acquire(1, ask()).await.unwrap();
        lock.close(1);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(seen(), ["released l"]);
    });
}

#[test]
fn a_release_that_failed_can_be_repeated() {
    run(async {
        let host = host(json!({ "release_failures": 1 })).await;
        let lock = host.lock();
        lock.acquire(1, ask()).await.unwrap();
        assert_eq!(lock.release(1).await.unwrap_err().code(), "unavailable");
        assert!(lock.release(1).await.unwrap());
        assert!(!lock.release(1).await.unwrap());
    });
}

#[test]
fn an_id_that_is_in_use_is_refused() {
    run(async {
        let host = host(json!({})).await;
        let lock = host.lock();
        lock.acquire(1, ask()).await.unwrap();
        assert_eq!(lock.acquire(1, ask()).await.unwrap_err().code(), "invalid");
        assert!(lock.release(1).await.unwrap(), "the first is still there");
        lock.acquire(1, ask()).await.unwrap();
    });
}

#[test]
fn a_lease_is_reported_lost_exactly_once_and_never_renewed_again() {
    run(async {
        let host = host(json!({})).await;
        let lock = host.lock();
        assert!(matches!(lock.acquire(1, ask()).await.unwrap(), AcquireOutcome::Held(_)));
        let reporter = REPORTER.take().unwrap();
        let validity = Validity { sent_at: Instant::now(), valid_for: Duration::from_secs(9) };
        reporter.suspect("no connection");
        reporter.suspect("no connection");
        reporter.renewed(validity);
        reporter.lost("expired");
        reporter.lost("expired");
        reporter.renewed(validity);
        assert!(reporter.is_over());
        reporter.over().await;
        let events: Vec<_> = lock.events().await.unwrap().into_iter().map(|(_, e)| e).collect();
        assert!(
            matches!(&events[..], [LockEvent::Renewed(_), LockEvent::Lost(why)] if why == "expired"),
            "{events:?}"
        );
        assert!(!lock.release(1).await.unwrap());
        assert_eq!(seen(), [""; 0], "nothing to release");
    });
}

#[test]
fn a_lease_that_is_lost_before_it_is_told_is_no_lease() {
    run(async {
        let host = host(json!({ "delay_ms": 100 })).await;
        let lock = host.lock();
        let losing = async {
            sleep(Duration::from_millis(50)).await;
            REPORTER.take().unwrap().lost("expired");
        };
        let (outcome, ()) = futures::future::join(lock.acquire(1, ask()), losing).await;
        assert_eq!(outcome.unwrap_err().code(), "unavailable");
        assert!(lock.events().await.unwrap().is_empty());
    });
}

#[test]
fn what_the_server_refuses_ends_the_watch() {
    run(async {
        let host = host(json!({})).await;
        let config = host.config();
        let request = WatchRequest {
            target: Target::Prefix(String::new()),
            from_version: None,
            previous: false,
            selectors: Vec::new(),
        };
        config.watch(3, request).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        let events = config.events().await.unwrap();
        assert!(
            matches!(&events[..], [.., (3, Event::Ended(error))] if error.code == "denied"),
            "{events:?}"
        );
    });
}

#[test]
fn settings_are_described_and_refused_without_their_values() {
    run(async {
        let description = Host::<Slow>::describe();
        assert_eq!((description.version.as_str(), description.features.len()), ("1.2.3", 1));
        let schema: serde_json::Value = serde_json::from_str(&description.settings_schema).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["password"]["writeOnly"], true);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");

        let options =
            StartOptions { settings: json!({ "delay_ms": "hunter2" }), ..StartOptions::default() };
        let Err(error) = Host::<Slow>::start(options).await else { panic!("it started") };
        assert_eq!(error.details(), [("setting".to_owned(), "delay_ms".to_owned())]);
        assert!(!error.message().contains("hunter2"), "{error}");
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    });
}

#[test]
fn the_successor_gets_the_last_checkpoint() {
    run(async {
        host(json!({})).await;
        let resume = pintle_plugin_sdk::testing::checkpoint();
        let options = StartOptions { resume, ..StartOptions::default() };
        Host::<Slow>::start(options).await.unwrap();
        assert_eq!(seen(), ["resumed started"]);
    });
}

#[test]
fn stopping_gives_everything_back_before_the_plugin_stops() {
    run(async {
        let host = host(json!({})).await;
        host.lock().acquire(1, ask()).await.unwrap();
        host.stop().await.unwrap();
        assert_eq!(seen(), ["released l", "stop"]);
    });
}

#[test]
fn stopping_waits_for_what_is_being_asked_for() {
    run(async {
        let host = host(json!({ "delay_ms": 300, "deaf": true })).await;
        let lock = host.lock();
        let stopping = async {
            sleep(Duration::from_millis(10)).await;
            host.stop().await
        };
        let (outcome, stopped) = futures::future::join(lock.acquire(1, ask()), stopping).await;
        assert_eq!(outcome.unwrap_err().code(), "cancelled");
        stopped.unwrap();
        assert_eq!(seen(), ["released l", "stop"]);
    });
}

#[test]
fn a_health_report_holds_at_most_64_counters() {
    run(async {
        let report = host(json!({})).await.health().await.unwrap();
        assert_eq!(report.counters.len(), 64);
    });
}
