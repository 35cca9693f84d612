use super::*;
use crate::config::{Entry, Event, PutEvent};
use crate::outbox::{CHANNEL_EVENTS_MAX, Outbox};
use crate::testing::run;

fn put(key: &str) -> Event {
    valued(key, Vec::new())
}

fn valued(key: &str, value: Vec<u8>) -> Event {
    let entry = Entry {
        key: key.to_owned(),
        value,
        content_type: None,
        version: "1".to_owned(),
        modified_ms: None,
    };
    Event::Put(PutEvent { entry, previous: None })
}

fn fresh() -> (Outbox<Event>, Feed<Event>) {
    let outbox = Outbox::default();
    let feed = Feed::new(outbox.open(1).unwrap(), false);
    (outbox, feed)
}

async fn live() -> (Outbox<Event>, Feed<Event>) {
    let (outbox, feed) = fresh();
    feed.snapshot().end(None);
    assert_eq!(taken(&outbox), ["begin", "end"]);
    (outbox, feed)
}

/// What the host takes now, in short.
fn taken(outbox: &Outbox<Event>) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let batch = outbox.take(100);
        if batch.is_empty() {
            return all;
        }
        all.extend(batch.into_iter().map(|(_, event)| short(&event)));
    }
}

fn short(event: &Event) -> String {
    match event {
        Event::SnapshotBegin => "begin".to_owned(),
        Event::SnapshotEnd(_) => "end".to_owned(),
        Event::Put(put) => put.entry.key.clone(),
        Event::Removed(removed) => format!("-{}", removed.key),
        Event::Resync(reason) => format!("resync: {reason}"),
        Event::Progress(version) => format!("progress {}", version.as_deref().unwrap_or("-")),
        Event::Ended(error) => format!("ended: {}", error.code),
    }
}

#[test]
fn changes_before_the_first_snapshot_are_left_to_it() {
    run(async {
        let (outbox, feed) = fresh();
        feed.change(put("early"));
        feed.progress(None);
        feed.resync("nothing was shown yet");
        assert!(feed.wants_snapshot());
        assert_eq!(taken(&outbox), [""; 0]);
        let mut snapshot = feed.snapshot();
        snapshot.add(put("a")).await;
        snapshot.end(None);
        assert_eq!(taken(&outbox), ["begin", "a", "end"]);
    });
}

#[test]
fn changes_during_a_snapshot_follow_its_end() {
    run(async {
        let (outbox, feed) = fresh();
        let mut snapshot = feed.snapshot();
        snapshot.add(put("a")).await;
        feed.change(put("late"));
        feed.progress(None);
        snapshot.add(put("b")).await;
        snapshot.end(Some("7".to_owned()));
        assert_eq!(taken(&outbox), ["begin", "a", "b", "end", "late"]);
    });
}

#[test]
fn a_watch_from_a_version_begins_with_changes() {
    run(async {
        let outbox = Outbox::default();
        let feed = Feed::new(outbox.open(1).unwrap(), true);
        assert!(!feed.wants_snapshot());
        feed.change(put("a"));
        assert_eq!(taken(&outbox), ["a"]);
    });
}

#[test]
fn a_version_that_is_gone_becomes_resync_and_a_snapshot() {
    run(async {
        let outbox = Outbox::default();
        let feed = Feed::new(outbox.open(1).unwrap(), true);
        feed.resync("compacted");
        feed.change(put("shown by the snapshot"));
        feed.snapshot().end(None);
        assert_eq!(taken(&outbox), ["resync: compacted", "begin", "end"]);
    });
}

#[test]
fn a_second_snapshot_is_announced_by_resync() {
    run(async {
        let (outbox, feed) = live().await;
        feed.snapshot().end(None);
        assert_eq!(taken(&outbox), ["resync: the watch starts over", "begin", "end"]);
    });
}

#[test]
fn too_many_changes_become_one_resync_and_a_snapshot_is_wanted() {
    run(async {
        let (outbox, feed) = live().await;
        for _ in 0..CHANNEL_EVENTS_MAX {
            feed.change(put("a"));
        }
        assert!(!feed.wants_snapshot());
        feed.change(put("one too many"));
        assert!(feed.wants_snapshot());
        feed.snapshot_wanted().await;
        feed.change(put("left to the snapshot"));
        let events = taken(&outbox);
        assert_eq!(events.len(), 1);
        assert!(events[0].starts_with("resync: "), "{events:?}");
        feed.snapshot().end(None);
        assert_eq!(taken(&outbox), ["begin", "end"]);
    });
}

#[test]
fn too_many_bytes_become_resync_too_but_one_large_value_passes() {
    run(async {
        let (outbox, feed) = live().await;
        feed.change(valued("large", vec![0; 3 << 20]));
        assert!(!feed.wants_snapshot());
        feed.change(put("b"));
        assert!(feed.wants_snapshot());
        assert_eq!(taken(&outbox).len(), 1);
    });
}

#[test]
fn a_snapshot_waits_for_its_reader() {
    run(async {
        let (outbox, feed) = fresh();
        let sent = std::cell::Cell::new(0);
        let sending = async {
            let mut snapshot = feed.snapshot();
            for _ in 0..3_000 {
                snapshot.add(put("a")).await;
                sent.set(sent.get() + 1);
            }
            snapshot.end(None);
        };
        let reading = async {
            crate::time::sleep(std::time::Duration::from_millis(1)).await;
            assert_eq!(sent.get(), CHANNEL_EVENTS_MAX - 1, "the queue also holds the beginning");
            let mut events = Vec::new();
            while events.last().is_none_or(|last| last != "end") {
                outbox.arrived().await;
                events.extend(taken(&outbox));
            }
            events
        };
        let ((), events) = futures::future::join(sending, reading).await;
        assert_eq!(events.len(), 3_002);
        assert!(events.iter().all(|event| !event.starts_with("resync")));
    });
}

#[test]
fn changes_that_cannot_be_kept_during_a_snapshot_become_resync_after_it() {
    run(async {
        let (outbox, feed) = fresh();
        let snapshot = feed.snapshot();
        for _ in 0..2 * CHANNEL_EVENTS_MAX {
            feed.change(put("a"));
        }
        snapshot.end(None);
        let events = taken(&outbox);
        assert_eq!(events[..2], ["begin", "end"]);
        assert!(events[2].starts_with("resync: ") && events.len() == 3, "{events:?}");
        assert!(feed.wants_snapshot());
    });
}

#[test]
fn a_snapshot_that_is_given_up_is_a_gap() {
    run(async {
        let (outbox, feed) = fresh();
        let mut snapshot = feed.snapshot();
        snapshot.add(put("a")).await;
        assert_eq!(taken(&outbox), ["begin", "a"]);
        drop(snapshot);
        assert_eq!(taken(&outbox), ["resync: the snapshot could not be finished"]);
        assert!(feed.wants_snapshot());
    });
}

#[test]
fn a_snapshot_that_was_overtaken_cannot_meddle() {
    run(async {
        let (outbox, feed) = fresh();
        let mut old = feed.snapshot();
        let mut new = feed.snapshot();
        old.add(put("old")).await;
        new.add(put("new")).await;
        old.end(None);
        new.end(None);
        assert_eq!(taken(&outbox), ["begin", "new", "end"]);
    });
}

#[test]
fn what_the_reader_has_not_seen_needs_no_resync() {
    run(async {
        let (outbox, feed) = fresh();
        feed.snapshot().end(None);
        feed.resync("before the host took anything");
        assert!(feed.wants_snapshot());
        feed.snapshot().end(None);
        assert_eq!(taken(&outbox), ["begin", "end"]);
    });
}

#[test]
fn only_the_newest_progress_waits() {
    run(async {
        let (outbox, feed) = live().await;
        feed.progress(Some("1".to_owned()));
        feed.change(put("a"));
        feed.progress(Some("2".to_owned()));
        assert_eq!(taken(&outbox), ["a", "progress 2"]);
    });
}

#[test]
fn nothing_follows_the_end() {
    run(async {
        let (outbox, feed) = live().await;
        feed.change(put("a"));
        feed.end(Error::denied("the role was taken away"));
        feed.end(Error::internal("twice"));
        feed.change(put("b"));
        feed.resync("late");
        feed.snapshot().end(None);
        feed.closed().await;
        assert_eq!(taken(&outbox), ["a", "ended: denied"]);
        assert!(outbox.open(1).is_some(), "the id is free again");
    });
}

#[test]
fn a_feed_that_is_dropped_ends_its_watch() {
    run(async {
        let (outbox, feed) = live().await;
        drop(feed.clone());
        assert_eq!(taken(&outbox), [""; 0]);
        drop(feed);
        assert_eq!(taken(&outbox), ["ended: internal"]);
    });
}

#[test]
fn nothing_is_delivered_after_close() {
    run(async {
        let (outbox, feed) = live().await;
        feed.change(put("a"));
        outbox.close(1);
        feed.change(put("b"));
        feed.end(Error::internal("late"));
        feed.closed().await;
        assert_eq!(taken(&outbox), [""; 0]);
        outbox.close(1);
    });
}
