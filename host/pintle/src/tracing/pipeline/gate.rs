//! Whether anything gets through to a sink: what all that goes there finds out together.
//!
//! Spans of one trace may be in several batches, and a sink may have to see them together. So all that
//! waits for a sink that is away has one pause, and goes at once when it is over.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::worker::{PAUSE_LAST, jittered};

/// Shared by the workers of a sink.
pub(super) struct Gate {
    state: watch::Sender<State>,
    pause_first: Duration,
}

struct State {
    /// Nothing goes before.
    shut_until: Instant,
    /// For how long it is shut the next time.
    pause: Duration,
    served: u64,
}

impl Gate {
    /// An open one; the first pause is about `pause_first`, and each longer than the one before.
    pub(super) fn new(pause_first: Duration) -> Self {
        let state = State { shut_until: Instant::now(), pause: pause_first, served: 0 };
        Self { state: watch::Sender::new(state), pause_first }
    }

    /// How many batches the sink took.
    pub(super) fn served(&self) -> u64 {
        self.state.borrow().served
    }

    /// The sink took a batch: all that waits may go.
    pub(super) fn open(&self) {
        let now = Instant::now();
        self.state.send_if_modified(|state| {
            let was_shut = state.shut_until > now;
            let served = state.served.wrapping_add(1);
            *state = State { shut_until: now, pause: self.pause_first, served };
            was_shut
        });
    }

    /// The sink took nothing: nothing goes for a pause, and nothing within `least`.
    pub(super) fn shut(&self, least: Duration) {
        let now = Instant::now();
        self.state.send_modify(|state| {
            // What was under way together fails together: that is one pause.
            if state.shut_until <= now {
                state.shut_until = now + jittered(state.pause);
                state.pause = (state.pause * 2).min(PAUSE_LAST);
            }
            state.shut_until = state.shut_until.max(now + least);
        });
    }

    /// Waits until nothing speaks against going.
    pub(super) async fn passed(&self) {
        let mut state = self.state.subscribe();
        let mut until = state.borrow_and_update().shut_until;
        // Who has waited goes, also if the first who went has shut it again by now.
        while until > Instant::now() {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                _ = state.changed() => {
                    if until > Instant::now() {
                        until = state.borrow_and_update().shut_until;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn all_that_waits_goes_when_the_sink_takes_something() {
        run(async {
            let gate = Gate::new(LONG);
            gate.passed().await;
            gate.shut(Duration::ZERO);
            let (mut one, mut other) = (Box::pin(gate.passed()), Box::pin(gate.passed()));
            assert!(poll!(&mut one).is_pending() && poll!(&mut other).is_pending());
            gate.open();
            assert!(poll!(one).is_ready() && poll!(other).is_ready());
            assert!(poll!(Box::pin(gate.passed())).is_ready());
        });
    }

    #[test]
    fn what_fails_while_it_is_shut_waits_for_the_same_moment() {
        run(async {
            let gate = Gate::new(PAUSE_LAST);
            let until = || gate.state.borrow().shut_until;
            gate.shut(Duration::ZERO);
            let first = until();
            gate.shut(Duration::from_millis(1));
            assert_eq!(until(), first);
            // A sink that asks for more time than that gets it, from all.
            gate.shut(LONG);
            assert!(until() > first);
        });
    }

    #[test]
    fn pauses_grow_while_nothing_gets_through() {
        run(async {
            let gate = Gate::new(Duration::from_secs(1));
            let pause = || gate.state.borrow().pause;
            let is_over = || gate.state.send_modify(|state| state.shut_until = Instant::now());
            for grown in [2, 4, 8, 10, 10] {
                gate.shut(Duration::ZERO);
                is_over();
                assert_eq!(pause(), Duration::from_secs(grown));
            }
            gate.open();
            assert_eq!((pause(), gate.served()), (Duration::from_secs(1), 1));
        });
    }
}
