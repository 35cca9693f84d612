use super::*;
use crate::testing::run;
use crate::time::{sleep, timeout};
use std::time::Duration;

struct Sized(usize);

impl Weight for Sized {
    fn weight(&self) -> usize {
        self.0
    }
}

fn ids(batch: &[(u64, Sized)]) -> Vec<u64> {
    batch.iter().map(|(id, _)| *id).collect()
}

#[test]
fn channels_take_turns_and_keep_their_order() {
    let outbox = Outbox::default();
    let (one, two) = (outbox.open(1).unwrap(), outbox.open(2).unwrap());
    for weight in 1..=3 {
        one.push(Sized(weight));
    }
    two.push(Sized(9));
    let batch = outbox.take(3);
    assert_eq!(ids(&batch), [1, 2, 1]);
    assert_eq!(batch.iter().map(|(_, event)| event.0).collect::<Vec<_>>(), [1, 9, 2]);
    assert_eq!(ids(&outbox.take(3)), [1]);
    assert!(outbox.take(3).is_empty());
}

#[test]
fn a_batch_is_bounded_by_bytes() {
    let outbox = Outbox::default();
    let channel = outbox.open(1).unwrap();
    for _ in 0..4 {
        channel.push(Sized(700 << 10));
    }
    assert_eq!(outbox.take(100).len(), 2);
    assert_eq!(outbox.take(100).len(), 2);
}

#[test]
fn many_slow_channels_together_are_bounded() {
    let outbox = Outbox::<Sized>::default();
    let channels: Vec<_> = (0..20).map(|id| outbox.open(id).unwrap()).collect();
    let half = CHANNEL_BYTES_MAX / 2;
    for channel in &channels {
        channel.push(Sized(half));
    }
    assert!(!channels[0].fits(half), "eight megabytes are full");
    outbox.take(10);
    assert!(channels[0].fits(half));
}

#[test]
fn an_id_is_in_use_until_it_is_closed() {
    let outbox = Outbox::<Sized>::default();
    let channel = outbox.open(1).unwrap();
    assert!(outbox.open(1).is_none());
    channel.finish(Sized(1));
    assert!(outbox.open(1).is_none(), "its last event is on the way");
    outbox.take(1);
    assert!(outbox.open(1).is_some());
    outbox.close(1);
    outbox.close(1);
    assert!(outbox.open(1).is_some());
}

#[test]
fn a_waiting_poll_is_woken() {
    run(async {
        let outbox = Outbox::default();
        let channel = outbox.open(1).unwrap();
        let pushing = async {
            sleep(Duration::from_secs(1)).await;
            channel.push(Sized(1));
        };
        let polling = timeout(Duration::from_secs(5), outbox.arrived());
        let (woken, ()) = futures::future::join(polling, pushing).await;
        woken.unwrap();
        assert_eq!(outbox.take(10).len(), 1);
    });
}

#[test]
fn what_was_taken_back_does_not_wake_a_poll() {
    run(async {
        let outbox = Outbox::default();
        let channel = outbox.open(1).unwrap();
        channel.push(Sized(1));
        channel.retract(|_| true);
        assert!(timeout(Duration::from_secs(5), outbox.arrived()).await.is_err());
        channel.push(Sized(2));
        channel.retract_last(|event| event.0 == 1);
        assert_eq!(outbox.take(10).len(), 1);
    });
}
