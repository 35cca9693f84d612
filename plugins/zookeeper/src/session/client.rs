//! One connection of a session: requests go out as they come, answers come back in their order.

mod reads;

use super::Common;
use super::tally::Tally;
use super::watches::Watches;
use crate::wire::{
    Decoder, Encoder, ErrorCode, Event, FRAME_HEAD, Malformed, Multi, MultiOutcome, Op,
    ReplyHeader, Request, XID_EVENT, XID_PING, begin_frame, end_frame, oversized_frame,
    split_frame,
};
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, Shared, select};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use pintle_plugin_sdk::connection::Connection;
use pintle_plugin_sdk::signal::Signal;
use pintle_plugin_sdk::time::{sleep, timeout};
use reads::{Reads, reads_of};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes of an answer's header, behind its length.
const REPLY_HEAD: usize = 16;
/// Bytes that one read takes.
const READ_BYTES: usize = 64 << 10;

/// Why a request has no answer that it could use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server refused it; nothing was done.
    Refused(ErrorCode),
    /// The connection is gone; whether it was done is not known if it was `sent`.
    Lost { reason: Rc<str>, sent: bool },
    /// It was not sent: the server would hang up on it.
    TooLarge { bytes: usize, limit: usize },
    /// It was done, but its answer takes more memory than one may.
    AnswerTooLarge { bytes: usize, limit: usize },
    /// The values that were asked for together have more bytes than one answer may.
    TooMuch { limit: usize },
    /// What it is part of would take more than this limit allows, whose name comes first.
    OverLimit { name: &'static str, what: &'static str, limit: usize },
}

impl Failure {
    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        *self == Self::Refused(code)
    }

    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// The session that a connection serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The server's number of it.
    pub(crate) id: i64,
    /// Which of the sessions it is that this plugin had one after the other.
    pub(crate) generation: u64,
    /// How long the server keeps it without a sign of life.
    pub(crate) timeout: Duration,
}

/// One connection. Clones speak on the same.
#[derive(Clone)]
pub(crate) struct Client {
    shared: Rc<Inner>,
}

struct Inner {
    identity: Identity,
    request_bytes_max: usize,
    answer_bytes_max: usize,
    /// Requests that are written, and not handed over yet.
    outgoing: RefCell<Vec<u8>>,
    /// Something was added to `outgoing`, or came in.
    changed: Signal,
    awaited: RefCell<VecDeque<Awaited>>,
    last_xid: Cell<i32>,
    /// Newest transaction that this connection has shown.
    zxid: Cell<i64>,
    /// Newest transaction that any connection has shown.
    newest_zxid: Rc<Cell<i64>>,
    tally: Rc<Tally>,
    frames_read: Cell<u64>,
    closed: RefCell<Option<Rc<str>>>,
    /// They know their client, too: they end with their session and its listeners.
    watches: Weak<Watches>,
    /// A barrier that is still in `outgoing`: whatever is added behind it may rely on it.
    barrier: RefCell<Option<Barrier>>,
    reads: Reads,
    /// As in [`Common`].
    reads_nodes_alone: Rc<Cell<bool>>,
}

type Barrier = Shared<LocalBoxFuture<'static, Result<(), Failure>>>;
/// The transaction that the server had seen, and what stands behind the header.
type Answer<'a> = Result<(i64, Decoder<'a>), Failure>;

/// Takes an answer to whom it belongs, if it is one.
type Deliver = Box<dyn FnOnce(Answer<'_>) -> Result<(), Malformed>>;

struct Awaited {
    xid: i32,
    answer: Deliver,
}

/// The answer to a request that is on its way. Dropping it leaves the request as it is.
pub(crate) struct Reply<T> {
    answered: oneshot::Receiver<Result<T, Failure>>,
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let lost = || Failure::Lost { reason: "the connection is gone".into(), sent: true };
        self.answered.poll_unpin(cx).map(|answer| answer.unwrap_or_else(|_| Err(lost())))
    }
}

impl Client {
    pub(crate) fn new(identity: Identity, common: &Common, watches: Weak<Watches>) -> Self {
        let shared = Rc::new_cyclic(|shared| Inner {
            identity,
            request_bytes_max: common.request_bytes_max,
            answer_bytes_max: common.answer_bytes_max,
            outgoing: RefCell::default(),
            changed: Signal::default(),
            awaited: RefCell::default(),
            last_xid: Cell::new(0),
            zxid: Cell::new(0),
            newest_zxid: Rc::clone(&common.newest_zxid),
            tally: Rc::clone(&common.tally),
            frames_read: Cell::new(0),
            closed: RefCell::new(None),
            watches,
            barrier: RefCell::new(None),
            reads: reads_of(shared),
            reads_nodes_alone: Rc::clone(&common.reads_nodes_alone),
        });
        Self { shared }
    }

    /// The session that it serves.
    pub(crate) fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Most bytes of a request.
    pub(crate) fn request_bytes_max(&self) -> usize {
        self.shared.request_bytes_max
    }

    /// Whether both speak on the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// The newest transaction that this connection has shown.
    pub(crate) fn zxid(&self) -> i64 {
        self.shared.zxid.get()
    }

    /// Sends a request, and answers its answer. It is sent at once: what is called in one turn goes
    /// out in one write, in the order of the calls.
    pub(crate) fn call<R: Request>(&self, request: &R) -> Reply<R::Response>
    where
        R::Response: 'static,
    {
        self.send(request, |_, response| response)
    }

    /// The same for a transaction.
    pub(crate) fn multi(&self, ops: Vec<Op<'_>>) -> Reply<MultiOutcome> {
        let tally = Rc::clone(&self.shared.tally);
        self.send(&Multi { ops }, move |zxid, outcome| {
            let outcome = outcome.at(zxid);
            if let MultiOutcome::Failed { code, .. } = &outcome {
                tally.failed(&Failure::Refused(*code));
            }
            outcome
        })
    }

    fn send<R: Request, T: 'static>(
        &self,
        request: &R,
        finish: impl FnOnce(i64, R::Response) -> T + 'static,
    ) -> Reply<T> {
        let (sender, answered) = oneshot::channel();
        self.shared.tally.asked();
        // Whoever has stopped waiting needs no answer.
        if let Err(failure) = self.shared.write(request) {
            self.shared.tally.failed(&failure);
            let _ = sender.send(Err(failure));
            return Reply { answered };
        }
        let tally = Rc::clone(&self.shared.tally);
        let answer = Box::new(move |answer: Answer<'_>| {
            let outcome = match answer.map(read_answer::<R>) {
                Err(failure) => {
                    tally.failed(&failure);
                    Err(failure)
                }
                Ok(Ok((zxid, response))) => Ok(finish(zxid, response)),
                Ok(Err(malformed)) => {
                    let reason = no_answer(malformed).into();
                    let _ = sender.send(Err(Failure::Lost { reason, sent: true }));
                    return Err(malformed);
                }
            };
            let _ = sender.send(outcome);
            Ok(())
        });
        let xid = self.shared.last_xid.get();
        self.shared.awaited.borrow_mut().push_back(Awaited { xid, answer });
        self.shared.changed.notify();
        Reply { answered }
    }

    /// Lets what is called after it see all that was acknowledged to anyone before: a transaction
    /// that changes nothing goes through the quorum, and reads of a session stay behind its writes.
    ///
    /// Calls of one turn share one.
    pub(crate) fn barrier(&self) -> impl Future<Output = Result<(), Failure>> + use<> {
        if let Some(barrier) = self.shared.barrier.borrow().clone() {
            return barrier;
        }
        let reply = self.multi(vec![Op::Check { path: "/", version: -1 }]);
        let barrier = async move {
            match reply.await? {
                // Refused or not, it went the whole way.
                MultiOutcome::Done(_) | MultiOutcome::Failed { .. } => Ok(()),
            }
        };
        let barrier = barrier.boxed_local().shared();
        *self.shared.barrier.borrow_mut() = Some(barrier.clone());
        barrier
    }

    /// Carries requests and answers until the connection breaks, and answers why it did.
    pub(crate) async fn drive(self, connection: Connection) -> String {
        let broken = Broken(Rc::clone(&self.shared));
        let (reader, writer) = connection.split();
        let shared = &self.shared;
        let reading = pin!(shared.read(reader));
        let writing = pin!(shared.send(writer));
        let pinging = pin!(shared.ping());
        let reason = match select(select(reading, writing), pinging).await {
            Either::Left((Either::Left((reason, _)) | Either::Right((reason, _)), _)) => reason,
            Either::Right((reason, _)) => reason,
        };
        shared.close(&reason);
        drop(broken);
        reason
    }
}

fn read_answer<R: Request>(
    (zxid, mut input): (i64, Decoder<'_>),
) -> Result<(i64, R::Response), Malformed> {
    let response = R::decode(&mut input)?;
    input.finish()?;
    Ok((zxid, response))
}

fn no_answer(error: Malformed) -> String {
    format!("the server sent what is no answer: {error}")
}

/// Fails what is under way when a connection is left.
struct Broken(Rc<Inner>);

impl Drop for Broken {
    fn drop(&mut self) {
        self.0.close("the connection was left");
    }
}

impl Inner {
    /// Adds a request to what goes out.
    fn write(&self, request: &impl Request) -> Result<(), Failure> {
        if let Some(reason) = &*self.closed.borrow() {
            return Err(Failure::Lost { reason: Rc::clone(reason), sent: false });
        }
        let xid = self.last_xid.get().checked_add(1).unwrap_or(1);
        let mut out = self.outgoing.borrow_mut();
        let at = begin_frame(&mut out);
        let mut encoder = Encoder::new(&mut out);
        encoder.int(xid);
        encoder.int(request.opcode());
        request.encode(&mut encoder);
        let bytes = end_frame(&mut out, at);
        if bytes > self.request_bytes_max {
            out.truncate(at);
            return Err(Failure::TooLarge { bytes, limit: self.request_bytes_max });
        }
        self.last_xid.set(xid);
        Ok(())
    }

    async fn send(&self, mut writer: impl AsyncWrite + Unpin) -> String {
        loop {
            let batch = self.changed.wait(|| {
                let mut out = self.outgoing.borrow_mut();
                (!out.is_empty()).then(|| std::mem::take(&mut *out))
            });
            let batch = batch.await;
            *self.barrier.borrow_mut() = None;
            if let Err(error) = writer.write_all(&batch).await {
                return error.to_string();
            }
            if let Err(error) = writer.flush().await {
                return error.to_string();
            }
        }
    }

    async fn read(&self, mut reader: impl AsyncRead + Unpin) -> String {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; READ_BYTES];
        // Of an answer that is not kept, how much is still to come.
        let mut to_skip = 0;
        loop {
            let count = match reader.read(&mut chunk).await {
                Ok(0) => return "the server closed the connection".to_owned(),
                Ok(count) => count,
                Err(error) => return error.to_string(),
            };
            let skipped = count.min(to_skip);
            to_skip -= skipped;
            buffer.extend_from_slice(chunk.get(skipped..count).unwrap_or_default());
            let mut taken = 0;
            loop {
                let rest = buffer.get(taken..).unwrap_or_default();
                if let Some(length) = oversized_frame(rest, self.answer_bytes_max) {
                    let Some(head) = rest.get(FRAME_HEAD..FRAME_HEAD + REPLY_HEAD) else { break };
                    if let Err(error) = self.refuse(head, length) {
                        return no_answer(error);
                    }
                    let here = rest.len().min(FRAME_HEAD + length);
                    to_skip = FRAME_HEAD + length - here;
                    taken += here;
                    continue;
                }
                match split_frame(rest, self.answer_bytes_max) {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        taken += FRAME_HEAD + frame.len();
                        if let Err(error) = self.take(frame) {
                            return no_answer(error);
                        }
                    }
                    Err(error) => return no_answer(error),
                }
            }
            buffer.drain(..taken);
            if buffer.is_empty() {
                // What one large answer took is not kept for ever.
                buffer.shrink_to(READ_BYTES);
            }
            self.frames_read.set(self.frames_read.get() + 1);
            self.changed.notify();
        }
    }

    /// Tells who asked that an answer of this length is not kept; its header is.
    fn refuse(&self, head: &[u8], length: usize) -> Result<(), Malformed> {
        let header = self.header(&mut Decoder::new(head))?;
        let awaited = self.awaited(header.xid)?;
        let limit = self.answer_bytes_max;
        (awaited.answer)(Err(Failure::AnswerTooLarge { bytes: length, limit }))
    }

    /// Reads the header of what the server sends, and notes what it has seen.
    fn header(&self, input: &mut Decoder<'_>) -> Result<ReplyHeader, Malformed> {
        let header = ReplyHeader::decode(input)?;
        if header.zxid > 0 {
            self.zxid.set(self.zxid.get().max(header.zxid));
            self.newest_zxid.set(self.newest_zxid.get().max(header.zxid));
        }
        Ok(header)
    }

    /// Who waits for this answer, which is the next that has to come.
    fn awaited(&self, xid: i32) -> Result<Awaited, Malformed> {
        let next = self.awaited.borrow_mut().pop_front_if(|awaited| awaited.xid == xid);
        next.ok_or(Malformed("an answer out of order"))
    }

    /// Who waits for an answer that may come before others: what a server does not know at all it refuses
    /// at once, before what it still works on, and hangs up.
    fn awaited_anywhere(&self, xid: i32) -> Result<Awaited, Malformed> {
        let mut waiting = self.awaited.borrow_mut();
        let place = waiting.iter().position(|awaited| awaited.xid == xid);
        place.and_then(|place| waiting.remove(place)).ok_or(Malformed("an answer to nothing"))
    }

    /// Gives a frame to whom it belongs.
    fn take(&self, frame: &[u8]) -> Result<(), Malformed> {
        let mut input = Decoder::new(frame);
        let header = self.header(&mut input)?;
        match header.xid {
            XID_EVENT => {
                let event = Event::decode(&mut input)?;
                if let Some(watches) = self.watches.upgrade() {
                    watches.tell(&event);
                }
            }
            XID_PING => {}
            xid => {
                let awaited = if ErrorCode(header.error) == ErrorCode::UNIMPLEMENTED {
                    self.awaited_anywhere(xid)?
                } else {
                    self.awaited(xid)?
                };
                let answer = match header.error {
                    0 => Ok((header.zxid, input)),
                    code => Err(Failure::Refused(ErrorCode(code))),
                };
                (awaited.answer)(answer)?;
            }
        }
        Ok(())
    }

    /// Gives a sign of life at a third of the session's time, and notices when none comes back: a
    /// server that is silent for a sixth after it is left, so that there is time for another.
    async fn ping(&self) -> String {
        let session = self.identity.timeout;
        let patience = (session / 6).max(Duration::from_millis(100));
        loop {
            sleep(session / 3).await;
            let before = self.frames_read.get();
            self.write_ping();
            let heard = self.changed.wait(|| (self.frames_read.get() != before).then_some(()));
            if timeout(patience, heard).await.is_err() {
                return format!("no answer to a ping within {} ms", patience.as_millis());
            }
        }
    }

    fn write_ping(&self) {
        let mut out = self.outgoing.borrow_mut();
        let at = begin_frame(&mut out);
        let mut encoder = Encoder::new(&mut out);
        encoder.int(XID_PING);
        encoder.int(crate::wire::Ping {}.opcode());
        end_frame(&mut out, at);
        drop(out);
        self.changed.notify();
    }

    fn close(&self, reason: &str) {
        if self.closed.borrow().is_some() {
            return;
        }
        let reason: Rc<str> = reason.into();
        *self.closed.borrow_mut() = Some(Rc::clone(&reason));
        for awaited in std::mem::take(&mut *self.awaited.borrow_mut()) {
            let failure = Failure::Lost { reason: Rc::clone(&reason), sent: true };
            // It reads nothing, so there is nothing to be malformed.
            let _ = (awaited.answer)(Err(failure));
        }
    }
}
