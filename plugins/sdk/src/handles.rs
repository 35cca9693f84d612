//! The host's numbers for what stays open after a call: watches, leases, registrations.
//!
//! Authors return their own objects; the numbers stay here.

use crate::bindings::wire::types;
use crate::calls::{Calls, reserve_to_clean_up};
use crate::outbox::{Channel, Outbox, Weight};
use crate::reporter::Reporter;
use crate::runtime::{self, Task};
use crate::signal::Signal;
use crate::time::{Instant, sleep, timeout_at};
use crate::{Context, Error};
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How long a cancelled call may clean up before it is answered: it has to return within a second.
const CLEAN_UP_AFTER_CANCEL: Duration = Duration::from_millis(800);
/// Wait between attempts to give something back in the background.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(500);

/// All that is open of one capability.
pub(crate) struct Handles<E> {
    pub(crate) outbox: Outbox<E>,
    slots: Rc<Slots>,
    attempts: Rc<Attempts>,
}

/// How many leases or registrations are being asked for.
#[derive(Default)]
struct Attempts {
    running: Cell<usize>,
    ended: Signal,
}

pub(crate) type Slots = RefCell<HashMap<u64, Slot>>;

pub(crate) enum Slot {
    Watch(Task),
    /// A lease or registration that is being asked for.
    Opening(Context),
    Open(Open),
}

/// A lease or registration.
#[derive(Clone)]
pub(crate) struct Open {
    object: Rc<dyn Any>,
    give_back: GiveBack,
    /// How long the server keeps it without us.
    ttl: Duration,
}

type GiveBack = Rc<dyn Fn(Context) -> LocalBoxFuture<'static, Result<(), Error>>>;

/// How a lease or registration is asked for and given back.
pub(crate) struct Request<E, B, G> {
    pub(crate) operation: &'static str,
    pub(crate) id: u64,
    pub(crate) ttl: Duration,
    pub(crate) begin: B,
    pub(crate) give_back: G,
    pub(crate) events: std::marker::PhantomData<E>,
}

impl<E> Default for Handles<E> {
    fn default() -> Self {
        Self { outbox: Outbox::default(), slots: Rc::default(), attempts: Rc::default() }
    }
}

impl<E: Weight + 'static> Handles<E> {
    /// Opens a channel for `id`.
    ///
    /// # Errors
    ///
    /// `invalid` when the host uses the id for something else.
    pub(crate) fn open_channel(&self, id: u64) -> Result<Rc<Channel<E>>, Error> {
        self.outbox.open(id).ok_or_else(|| Error::invalid(format!("id {id} is in use")))
    }

    /// Runs what feeds watch `id` until it ends or the watch is closed.
    pub(crate) fn feed(&self, id: u64, producer: impl Future<Output = ()> + 'static) {
        let slots = Rc::downgrade(&self.slots);
        let task = runtime::spawn(async move {
            producer.await;
            forget(&slots, id);
        });
        self.slots.borrow_mut().insert(id, Slot::Watch(task));
    }

    /// The object of an open lease or registration.
    pub(crate) fn object<H: 'static>(&self, id: u64) -> Option<Rc<H>> {
        match self.slots.borrow().get(&id) {
            Some(Slot::Open(open)) => Rc::clone(&open.object).downcast().ok(),
            _ => None,
        }
    }

    /// Forgets `id`: its object is gone from the server.
    pub(crate) fn remove(&self, id: u64) {
        let slot = self.slots.borrow_mut().remove(&id);
        drop(slot);
        self.outbox.close(id);
    }

    /// Ends `id` from the host's side, in the background where the server has to be told.
    pub(crate) fn close(&self, id: u64) {
        let slot = self.slots.borrow_mut().remove(&id);
        self.outbox.close(id);
        match slot {
            Some(Slot::Watch(task)) => task.stop(),
            Some(Slot::Opening(context)) => context.cancel(),
            Some(Slot::Open(open)) => runtime::spawn(open.give_back_in_background()).detach(),
            None => {}
        }
    }

    /// Ends everything, and waits until the server knows.
    pub(crate) async fn close_all(&self, cx: &Context) -> Result<(), Error> {
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        self.outbox.close_all();
        let mut open = Vec::new();
        for slot in slots.into_values() {
            match slot {
                Slot::Watch(task) => task.stop(),
                Slot::Opening(context) => context.cancel(),
                Slot::Open(slot) => open.push((slot.give_back)(cx.clone())),
            }
        }
        let results = futures::future::join_all(open).await;
        let until = cx.deadline().min(Instant::now().after(CLEAN_UP_AFTER_CANCEL));
        let attempts = &self.attempts;
        let none_left = attempts.ended.wait(|| (attempts.running.get() == 0).then_some(()));
        if timeout_at(until, none_left).await.is_err() {
            let message = "something that was being asked for may be left on the server";
            return Err(Error::timeout(message).effect_unknown());
        }
        results.into_iter().collect()
    }

    /// Asks for a lease or registration. `begin` answers the author's object, if there is one now,
    /// and what to tell the host. It is never dropped: when the call ends first, what it brings is
    /// given back.
    pub(crate) async fn open<H, T, B, G>(
        &self,
        calls: &Calls,
        raw: types::Context,
        request: Request<E, B, G>,
    ) -> Result<T, types::Error>
    where
        H: 'static,
        T: 'static,
        B: AsyncFnOnce(&Context, Reporter<E>) -> Result<(Option<H>, T), Error> + 'static,
        G: Fn(Context, Rc<H>) -> LocalBoxFuture<'static, Result<(), Error>> + 'static,
    {
        let Request { operation, id, ttl, begin, give_back, .. } = request;
        let hard = Instant::now().after(Duration::from_millis(raw.timeout_ms.into()));
        let call_id = raw.call_id;
        let cx = Context::of_call(operation, raw, reserve_to_clean_up);
        let channel = self.open_channel(id)?;
        let reporter = Reporter::new(channel, id, Rc::downgrade(&self.slots));
        let _entry = calls.enter(call_id, cx.clone());
        self.slots.borrow_mut().insert(id, Slot::Opening(cx.clone()));

        let (answer, answered) = oneshot::channel();
        let attempt = Attempt::begin(self, id, cx.clone(), reporter.clone());
        runtime::spawn(async move {
            let result = begin(&attempt.cx, attempt.reporter.clone()).await;
            let result = attempt.settle(result, ttl, give_back).await;
            if let Err(Ok(_)) = answer.send(result) {
                attempt.give_back_unheard();
            }
        })
        .detach();

        let mut result = wait_for_answer(&cx, hard, answered).await;
        if result.is_ok() && reporter.is_over() {
            result = Err(lost_again());
        }
        let open = matches!(self.slots.borrow().get(&id), Some(Slot::Open(_)));
        if open && result.is_ok() {
            reporter.begin();
        } else {
            self.outbox.close(id);
        }
        result.map_err(types::Error::from)
    }
}

fn lost_again() -> Error {
    let message = "it was granted, and lost again before that could be told";
    Error::unavailable(message).effect_unknown()
}

/// Waits for the answer; after the call has ended only as long as cleaning up may take.
async fn wait_for_answer<T>(
    cx: &Context,
    hard: Instant,
    answered: oneshot::Receiver<Result<T, Error>>,
) -> Result<T, Error> {
    let lost = || Error::internal("the plugin dropped a call").effect_unknown();
    match select(answered, pin!(cx.cancelled())).await {
        Either::Left((answer, _)) => answer.unwrap_or_else(|_| Err(lost())),
        Either::Right((end, answered)) => {
            let until = hard.min(Instant::now().after(CLEAN_UP_AFTER_CANCEL));
            match timeout_at(until, answered).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(lost())),
                Err(_) => Err(cx.error(end).effect_unknown()),
            }
        }
    }
}

/// One lease or registration that is being asked for.
struct Attempt<E> {
    id: u64,
    cx: Context,
    reporter: Reporter<E>,
    slots: Rc<Slots>,
    attempts: Rc<Attempts>,
}

impl<E> Drop for Attempt<E> {
    fn drop(&mut self) {
        self.attempts.running.set(self.attempts.running.get() - 1);
        self.attempts.ended.notify();
    }
}

impl<E: Weight + 'static> Attempt<E> {
    fn begin(handles: &Handles<E>, id: u64, cx: Context, reporter: Reporter<E>) -> Self {
        let attempts = Rc::clone(&handles.attempts);
        attempts.running.set(attempts.running.get() + 1);
        Self { id, cx, reporter, slots: Rc::clone(&handles.slots), attempts }
    }

    /// Keeps what was granted if the host still wants it, and gives it back otherwise.
    async fn settle<H: 'static, T>(
        &self,
        result: Result<(Option<H>, T), Error>,
        ttl: Duration,
        give_back: impl Fn(Context, Rc<H>) -> LocalBoxFuture<'static, Result<(), Error>> + 'static,
    ) -> Result<T, Error> {
        let (object, outcome) = match result {
            Ok((Some(object), outcome)) => (Rc::new(object), outcome),
            other => {
                self.forget();
                return other.map(|(_, outcome)| outcome);
            }
        };
        let kept = Rc::clone(&object);
        let give_back: GiveBack = Rc::new(move |cx| give_back(cx, Rc::clone(&kept)));
        let open = Open { object, give_back, ttl };
        if let Some(end) = self.cx.ended() {
            self.forget();
            let error = self.cx.error(end);
            let cleaned = open.give_back_within(ttl).await;
            return Err(if cleaned { error } else { error.effect_unknown() });
        }
        if self.reporter.is_over() {
            self.forget();
            return Err(lost_again());
        }
        self.slots.borrow_mut().insert(self.id, Slot::Open(open));
        Ok(outcome)
    }

    /// The host has given up in the very turn in which it was granted.
    fn give_back_unheard(&self) {
        let slot = self.slots.borrow_mut().remove(&self.id);
        if let Some(Slot::Open(open)) = slot {
            runtime::spawn(open.give_back_in_background()).detach();
        }
    }

    fn forget(&self) {
        let slot = self.slots.borrow_mut().remove(&self.id);
        drop(slot);
    }
}

impl Open {
    async fn give_back_in_background(self) {
        let ttl = self.ttl;
        if !self.give_back_within(ttl).await {
            tracing::warn!("could not give back a lease; the server ends it after its TTL");
        }
    }

    /// Tries until the server itself has ended it; answers whether it was given back.
    async fn give_back_within(&self, span: Duration) -> bool {
        let until = Instant::now().after(span);
        loop {
            let cx = Context::background("giving back", until.remaining());
            match timeout_at(until, (self.give_back)(cx)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => tracing::debug!(%error, "giving back failed, trying again"),
                Err(_) => return false,
            }
            if until.remaining() < GIVE_BACK_PAUSE {
                return false;
            }
            sleep(GIVE_BACK_PAUSE).await;
        }
    }
}

pub(crate) fn forget(slots: &Weak<Slots>, id: u64) {
    if let Some(slots) = slots.upgrade() {
        let slot = slots.borrow_mut().remove(&id);
        drop(slot);
    }
}
