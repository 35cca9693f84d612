//! The rules that subscribers rely on.

use super::*;

impl Weight for u32 {
    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

impl Weight for Vec<u8> {
    fn bytes(&self) -> usize {
        self.len()
    }
}

fn put(key: &str, value: u32) -> Upstream<u32> {
    Upstream::Put { key: key.into(), value: Arc::new(value), previous: None }
}

fn removed(key: &str) -> Upstream<u32> {
    Upstream::Removed { key: key.into(), version: None, previous: None }
}

fn filled(entries: &[(&str, u32)]) -> Arc<Mirror<u32>> {
    let mirror = Arc::new(Mirror::new());
    fill(&mirror, entries);
    mirror
}

fn fill(mirror: &Mirror<u32>, entries: &[(&str, u32)]) {
    mirror.apply(Upstream::SnapshotBegin);
    for (key, value) in entries {
        mirror.apply(put(key, *value));
    }
    mirror.apply(Upstream::SnapshotEnd(None));
}

fn text<V: std::fmt::Debug>(item: Item<'_, V>) -> String {
    match item {
        Item::SnapshotBegin => "begin".into(),
        Item::Snapshot(value) => format!("={value:?}"),
        Item::SnapshotEnd => "end".into(),
        Item::Change(Change::Put { key, value, previous }) => match previous {
            Some(previous) => format!("{key}:{previous:?}->{value:?}"),
            None => format!("{key}:->{value:?}"),
        },
        Item::Change(Change::Removed { key, previous, .. }) => match previous {
            Some(previous) => format!("{key}:{previous:?}->"),
            None => format!("{key}:->"),
        },
        Item::Change(Change::Resync(reason)) => format!("resync({reason})"),
    }
}

/// Everything that can be delivered without waiting.
async fn drain(subscription: &mut Subscription<u32>) -> Vec<String> {
    let mut items = Vec::new();
    while let Some(next) =
        futures::FutureExt::now_or_never(tokio::task::unconstrained(subscription.next(text)))
            .flatten()
    {
        items.push(match next {
            Ok((_, item)) => item,
            Err(error) => format!("error({error})"),
        });
    }
    items
}

#[tokio::test]
async fn a_subscriber_begins_with_a_snapshot_and_then_sees_changes_with_what_was_before() {
    let mirror = filled(&[("a", 1), ("b", 2)]);
    let mut subscription = Subscription::new(Arc::clone(&mirror));
    mirror.apply(put("a", 3));
    mirror.apply(removed("b"));
    assert_eq!(drain(&mut subscription).await, ["begin", "=3", "end"]);
    mirror.apply(put("a", 4));
    assert_eq!(drain(&mut subscription).await, ["a:3->4"]);
}

#[tokio::test]
async fn nothing_is_delivered_before_the_first_snapshot_is_whole() {
    let mirror = Arc::new(Mirror::new());
    let mut subscription = Subscription::new(Arc::clone(&mirror));
    mirror.apply(Upstream::SnapshotBegin);
    mirror.apply(put("a", 1));
    assert!(drain(&mut subscription).await.is_empty());
    assert!(mirror.cached("a").is_none());
    mirror.apply(Upstream::SnapshotEnd(None));
    assert_eq!(drain(&mut subscription).await, ["begin", "=1", "end"]);
}

#[tokio::test]
async fn after_a_gap_subscribers_see_a_resync_and_only_the_differences() {
    let mirror = filled(&[("same", 1), ("changed", 1), ("gone", 1)]);
    let mut subscription = Subscription::new(Arc::clone(&mirror));
    drain(&mut subscription).await;
    mirror.apply(Upstream::Resync("compacted".into()));
    fill(&mirror, &[("same", 1), ("changed", 2), ("new", 1)]);
    let mut seen = drain(&mut subscription).await;
    assert_eq!(seen.remove(0), "resync(compacted)");
    seen.sort();
    assert_eq!(seen, ["changed:1->2", "gone:1->", "new:->1"]);
}

#[tokio::test]
async fn a_snapshot_that_is_interrupted_is_forgotten() {
    let mirror = filled(&[("a", 1)]);
    mirror.apply(Upstream::SnapshotBegin);
    mirror.apply(put("half", 1));
    mirror.interrupt("connection lost".into());
    assert!(mirror.cached("half").unwrap().value.is_none());
    fill(&mirror, &[("a", 1)]);
    assert!(mirror.cached("half").unwrap().value.is_none());
}

#[tokio::test]
async fn a_slow_subscriber_gets_a_resync_and_holds_back_nobody() {
    let mirror = filled(&[]);
    let mut slow = Subscription::new(Arc::clone(&mirror));
    drain(&mut slow).await;
    for value in 0..3000 {
        mirror.apply(put("k", value));
    }
    let seen = drain(&mut slow).await;
    assert!(seen[0].starts_with("resync(this subscriber fell"), "{seen:?}");
    assert_eq!(seen[1..4], ["begin", "=2999", "end"]);
    mirror.apply(put("k", 3000));
    assert_eq!(drain(&mut slow).await.last().unwrap(), "k:2999->3000");
}

#[tokio::test]
async fn a_watch_resumes_over_the_ring_without_loss() {
    let mirror = filled(&[]);
    mirror.apply(put("a", 1));
    let last = mirror.position();
    mirror.apply(put("a", 2));
    mirror.apply(removed("a"));
    let mut resumed = Subscription::resuming(Arc::clone(&mirror), last);
    assert_eq!(drain(&mut resumed).await, ["a:1->2", "a:2->"]);
    mirror.apply(put("a", 3));
    assert_eq!(drain(&mut resumed).await, ["a:->3"]);
}

#[tokio::test]
async fn what_cannot_be_resumed_yields_a_resync_and_a_snapshot() {
    let mirror = filled(&[("a", 1)]);
    let other_epoch = EventId { epoch: 1, sequence: 1 };
    let mut resumed = Subscription::resuming(Arc::clone(&mirror), other_epoch);
    let seen = drain(&mut resumed).await;
    assert!(seen[0].starts_with("resync("), "{seen:?}");
    assert_eq!(seen[1..], ["begin", "=1", "end"]);

    let last = mirror.position();
    for value in 0..2000 {
        mirror.apply(put("a", value));
    }
    let mut resumed = Subscription::resuming(mirror, last);
    assert!(drain(&mut resumed).await[0].starts_with("resync("));
}

#[tokio::test]
async fn the_ring_keeps_fewer_large_changes_than_small_ones() {
    let mirror = Arc::new(Mirror::<Vec<u8>>::new());
    mirror.apply(Upstream::SnapshotBegin);
    mirror.apply(Upstream::SnapshotEnd(None));
    let put = |bytes: usize| {
        let value = Arc::new(vec![0; bytes]);
        mirror.apply(Upstream::Put { key: "k".into(), value, previous: None });
        mirror.position()
    };
    let resumes = |last| {
        let first = Subscription::resuming(Arc::clone(&mirror), last);
        async move {
            let mut first = first;
            !matches!(first.next(text).await, Some(Ok((_, item))) if item.starts_with("resync"))
        }
    };
    let small = put(1);
    let large = put(3 << 20);
    assert!(resumes(small).await);
    // With what it replaces it is more than is kept.
    put(3 << 20);
    assert!(!resumes(small).await);
    assert!(resumes(large).await);
    // A single change is kept whatever its size.
    let before = mirror.position();
    put(64 << 20);
    assert!(resumes(before).await);
    assert!(!resumes(large).await);
}

#[tokio::test]
async fn an_ended_watch_tells_its_error_once_and_is_over() {
    let mirror = filled(&[("a", 1)]);
    let mut subscription = Subscription::new(Arc::clone(&mirror));
    drain(&mut subscription).await;
    mirror.apply(Upstream::Ended(crate::error::Refusal::ShuttingDown.into()));
    assert_eq!(drain(&mut subscription).await, ["error(the host is shutting down)"]);
    assert!(subscription.next(text).await.is_none());
}

#[tokio::test]
async fn a_cached_value_tells_whether_the_watch_works() {
    let mirror = filled(&[("a", 1)]);
    assert!(mirror.cached("a").unwrap().live);
    mirror.interrupt("connection lost".into());
    let cached = mirror.cached("a").unwrap();
    assert_eq!((cached.value.as_deref(), cached.live), (Some(&1), false));
    mirror.apply(Upstream::Progress(None));
    assert!(!mirror.cached("a").unwrap().live, "progress proves nothing over a gap");
    fill(&mirror, &[("a", 1)]);
    assert!(mirror.cached("a").unwrap().live);
}

#[test]
fn a_watch_that_shows_more_than_it_may_ends_with_the_reason() {
    let put = |number: u32| Upstream::Put {
        key: format!("k{number:03}").into(),
        value: Arc::new(vec![0_u8; 100]),
        previous: None,
    };
    // In a snapshot that has no end.
    let mirror = Mirror::bounded(1_000);
    mirror.apply(Upstream::SnapshotBegin);
    (0..20).for_each(|number| mirror.apply(put(number)));
    let error = mirror.end().unwrap();
    assert_eq!(error.code(), "exhausted");
    assert!(error.to_string().contains("watch_bytes"), "{error}");
    // And by changes after it. What is replaced or removed makes room.
    let mirror = Mirror::bounded(1_000);
    mirror.apply(Upstream::SnapshotBegin);
    mirror.apply(Upstream::SnapshotEnd(None));
    for _ in 0..20 {
        mirror.apply(put(1));
        mirror.apply(put(2));
        mirror.apply(Upstream::Removed { key: "k001".into(), version: None, previous: None });
    }
    assert!(mirror.end().is_none());
    (0..20).for_each(|number| mirror.apply(put(number)));
    assert_eq!(mirror.end().unwrap().code(), "exhausted");
}

#[tokio::test]
async fn what_was_published_before_the_end_is_delivered_before_it() {
    let mirror = filled(&[]);
    let mut subscription = Subscription::new(Arc::clone(&mirror));
    drain(&mut subscription).await;
    mirror.apply(put("a", 1));
    mirror.apply(put("a", 2));
    mirror.apply(Upstream::Ended(crate::error::Refusal::ShuttingDown.into()));
    let seen = drain(&mut subscription).await;
    assert_eq!(seen, ["a:->1", "a:1->2", "error(the host is shutting down)"]);
}
