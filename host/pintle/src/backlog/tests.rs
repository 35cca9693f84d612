//! Each change once, whatever happens to the watch upstream.

use super::*;
use bytes::Bytes;

fn put(key: &str, version: u64) -> Upstream<Entry> {
    sized(key, version, 1)
}

fn sized(key: &str, version: u64, bytes: usize) -> Upstream<Entry> {
    let value = Arc::new(Entry {
        key: key.into(),
        value: Bytes::from(vec![0; bytes]),
        content_type: None,
        version: version.to_string().into(),
        modified: None,
    });
    Upstream::Put { key: key.into(), value, previous: None }
}

fn removed(key: &str, version: Option<&str>) -> Upstream<Entry> {
    Upstream::Removed { key: key.into(), version: version.map(Into::into), previous: None }
}

fn end_snapshot(version: Option<&str>) -> Upstream<Entry> {
    Upstream::SnapshotEnd(version.map(Into::into))
}

fn after(version: &str) -> Backlog {
    Backlog::new(ChangePosition::from(Version::from(version)))
}

fn partly(after: &str, count: u32, version: &str) -> ChangePosition {
    let part = DeliveredPart { version: version.into(), count };
    ChangePosition::After { version: after.into(), part: Some(part) }
}

fn apply(backlog: &mut Backlog, events: impl IntoIterator<Item = Upstream<Entry>>) {
    for event in events {
        assert_eq!(backlog.apply(event), Fit::Taken);
    }
}

/// Everything that can be taken.
fn take(backlog: &mut Backlog) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(Some(next)) = backlog.take() {
        texts.push(match next {
            Ok(WatchEvent::SnapshotBegin) => "begin".into(),
            Ok(WatchEvent::SnapshotEnd) => "end".into(),
            Ok(WatchEvent::Put { entry, .. }) => format!("{}={}", entry.key, entry.version),
            Ok(WatchEvent::Removed { key, .. }) => format!("-{key}"),
            Ok(WatchEvent::Resync(_)) => "resync".into(),
            Err(error) => format!("error({error})"),
        });
    }
    texts
}

#[test]
fn an_opening_after_an_end_repeats_nothing_and_leaves_nothing_out() {
    let mut backlog = after("4");
    apply(&mut backlog, [put("a", 5), put("a", 6), put("b", 6)]);
    assert_eq!(backlog.reopen(), Some("5".into()));
    // The plugin begins after version 5 again, and there were three changes at version 6.
    apply(&mut backlog, [put("a", 6), put("b", 6), put("c", 6), put("a", 7)]);
    assert_eq!(take(&mut backlog), ["a=5", "a=6", "b=6", "c=6", "a=7"]);
    assert_eq!(backlog.taken_position().to_string(), "1@6/7");
}

#[test]
fn a_position_is_that_of_what_was_taken_and_opens_another_watch_there() {
    let mut backlog = after("4");
    apply(&mut backlog, [put("a", 5), put("b", 5), put("c", 5)]);
    backlog.take();
    backlog.take();
    let position: ChangePosition = backlog.taken_position().to_string().parse().unwrap();
    assert_eq!(position, partly("4", 2, "5"));

    let mut other = Backlog::new(position);
    assert_eq!(other.reopen(), Some("4".into()));
    apply(&mut other, [put("a", 5), put("b", 5), put("c", 5), removed("a", Some("6"))]);
    assert_eq!(take(&mut other), ["c=5", "-a"]);
}

#[test]
fn what_was_not_repeated_after_all_is_delivered() {
    let mut backlog = Backlog::new(partly("4", 2, "5"));
    backlog.reopen();
    apply(&mut backlog, [put("a", 5), put("a", 6)]);
    assert_eq!(take(&mut backlog), ["a=6"]);
    // The version of which one change was delivered is not shown any more.
    let mut backlog = Backlog::new(partly("4", 1, "5"));
    backlog.reopen();
    apply(&mut backlog, [put("a", 6), put("b", 6)]);
    assert_eq!(take(&mut backlog), ["a=6", "b=6"]);
}

#[test]
fn within_a_snapshot_the_position_is_that_only_another_helps() {
    let mut backlog = after("4");
    apply(&mut backlog, [put("a", 5), Upstream::Resync("too far behind".into())]);
    apply(&mut backlog, [Upstream::SnapshotBegin, put("a", 5), put("b", 3)]);
    backlog.take();
    assert_eq!(backlog.taken_position(), &partly("4", 1, "5"));
    // The resync, the beginning, and one of two keys.
    for _ in 0..3 {
        backlog.take();
        assert_eq!(backlog.taken_position(), &ChangePosition::Snapshot);
    }
    let mut other = Backlog::new(backlog.taken_position().clone());
    assert_eq!(other.reopen(), None);
    apply(&mut other, [Upstream::SnapshotBegin, put("a", 5), put("b", 3)]);
    apply(&mut other, [end_snapshot(Some("5"))]);
    assert_eq!(take(&mut other), ["resync", "begin", "a=5", "b=3", "end"]);
    assert_eq!(other.taken_position(), &ChangePosition::from(Version::from("5")));

    apply(&mut backlog, [end_snapshot(Some("5"))]);
    assert_eq!(take(&mut backlog), ["b=3", "end"]);
    assert_eq!(backlog.reopen(), Some("5".into()));
}

#[test]
fn a_snapshot_that_does_not_end_ends_the_watch_instead_of_filling_the_memory() {
    let mut by_bytes = after("4");
    apply(&mut by_bytes, [Upstream::Resync("gap".into()), Upstream::SnapshotBegin]);
    // One value, counted as often as it comes.
    let Upstream::Put { value, .. } = sized("k", 5, 32 << 20) else { panic!("a put") };
    while !by_bytes.is_over() {
        let value = Arc::clone(&value);
        by_bytes.apply(Upstream::Put { key: "k".into(), value, previous: None });
        assert!(by_bytes.waiting_bytes <= SNAPSHOT_BYTES_MAX + WAITING_BYTES_MAX);
    }
    let Some(Some(Err(error))) = by_bytes.take() else { panic!("no error") };
    assert_eq!(error.code(), "exhausted");

    let mut by_len = after("4");
    while !by_len.is_over() {
        by_len.apply(Upstream::SnapshotBegin);
        // The second is the end of nothing.
        apply(&mut by_len, [end_snapshot(None), end_snapshot(None)]);
        assert!(by_len.waiting.len() <= SNAPSHOT_LEN_MAX);
    }
    assert_eq!(take(&mut by_len).len(), 1);
}

#[test]
fn proof_that_nothing_is_missing_moves_the_position_of_an_idle_watch() {
    let mut backlog = after("4");
    apply(&mut backlog, [put("a", 5), Upstream::Progress(Some("90".into()))]);
    assert_eq!(backlog.taken_position().to_string(), "0@4");
    take(&mut backlog);
    assert_eq!(backlog.taken_position().to_string(), "0@90");
    assert_eq!(backlog.reopen(), Some("90".into()));
}

#[test]
fn an_interrupted_snapshot_begins_anew_with_a_resync() {
    let mut backlog = after("4");
    apply(&mut backlog, [put("a", 5), Upstream::Resync("compacted".into())]);
    apply(&mut backlog, [Upstream::SnapshotBegin, put("a", 9)]);
    assert_eq!(backlog.reopen(), None);
    apply(&mut backlog, [Upstream::SnapshotBegin, put("a", 9), put("b", 7)]);
    apply(&mut backlog, [end_snapshot(Some("9")), put("a", 10)]);
    // Of the first snapshot nothing was taken, so nothing of it is delivered.
    assert_eq!(take(&mut backlog), ["a=5", "resync", "begin", "a=9", "b=7", "end", "a=10"]);
    assert_eq!(backlog.reopen(), Some("9".into()));
}

#[test]
fn a_snapshot_without_a_version_can_be_continued_after_the_next_versions() {
    let mut backlog = after("4");
    apply(&mut backlog, [Upstream::Resync("gap".into()), Upstream::SnapshotBegin]);
    apply(&mut backlog, [end_snapshot(None), put("a", 10)]);
    assert_eq!(backlog.position, ChangePosition::Snapshot);
    apply(&mut backlog, [put("a", 11)]);
    assert_eq!(backlog.reopen(), Some("10".into()));
}

#[test]
fn after_a_removal_without_a_version_only_a_snapshot_helps() {
    let mut backlog = after("4");
    apply(&mut backlog, [removed("a", None)]);
    assert_eq!(backlog.reopen(), None);
    assert_eq!(take(&mut backlog), ["-a", "resync"]);
}

#[test]
fn what_waits_is_bounded_by_count_and_by_bytes_and_goes_on_after_it_was_read() {
    let mut by_count = after("0");
    let mut version = 1;
    while by_count.apply(put("a", version)) == Fit::Taken {
        version += 1;
    }
    assert_eq!(take(&mut by_count).len(), WAITING_LEN_MAX);
    let from = by_count.reopen().unwrap();
    assert_eq!(from.as_str(), (version - 2).to_string());
    // The last change that was taken is repeated.
    apply(&mut by_count, [put("a", version - 1), put("a", version)]);
    assert_eq!(take(&mut by_count), [format!("a={version}")]);

    let mut by_bytes = after("0");
    apply(&mut by_bytes, (1..=8).map(|version| sized("a", version, 1 << 20)));
    assert_eq!(by_bytes.apply(put("a", 9)), Fit::Full);
    take(&mut by_bytes);
    apply(&mut by_bytes, [put("a", 9)]);
}

#[test]
fn what_belongs_to_an_entry_counts_as_its_value_does() {
    let mut backlog = after("0");
    let entry = |content_type: Option<String>, version: String| Entry {
        key: "a".into(),
        value: Bytes::new(),
        content_type,
        version: version.into(),
        modified: None,
    };
    let mut taken = 0;
    loop {
        let long = "9".repeat(WAITING_BYTES_MAX / 16);
        let value = Arc::new(entry(Some(long.clone()), format!("{taken}{long}")));
        let put = Upstream::Put { key: "a".into(), value, previous: None };
        if backlog.apply(put) == Fit::Full {
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, 8);
    // Nor is what is empty free.
    assert!(entry(None, String::new()).bytes() > 64);
}

#[test]
fn an_error_is_the_last_thing_that_is_told() {
    let mut backlog = after("4");
    let error = Error::from(crate::error::Refusal::ShuttingDown);
    apply(&mut backlog, [put("a", 5), Upstream::Ended(error.clone()), Upstream::Ended(error)]);
    assert_eq!(take(&mut backlog), ["a=5", "error(the host is shutting down)"]);
    assert!(matches!(backlog.take(), Some(None)));
}
