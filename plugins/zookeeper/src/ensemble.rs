//! A ZooKeeper for tests: in memory, on the test's clock, and as slow or broken as a test wants it.
//!
//! Sessions end when they are closed, or when a test says so.

mod line;
mod multi;

use crate::session::Dial;
use crate::wire::{ConnectRequest, Decoder, Encoder, ErrorCode, XID_PING};
use futures::future::{Either, select};
use futures::io::AsyncWriteExt as _;
use line::frame;
use pintle_plugin_sdk::connection::Connection;
use pintle_plugin_sdk::signal::Signal;
use pintle_plugin_sdk::testing::{Host, StartOptions};
use pintle_plugin_sdk::{Endpoint, Error, spawn};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::{Rc, Weak};

pub(crate) const EXISTS: i32 = 3;
pub(crate) const GET_DATA: i32 = 4;
pub(crate) const SET_DATA: i32 = 5;
pub(crate) const CHILDREN: i32 = 12;
pub(crate) const DELETE: i32 = 2;
pub(crate) const MULTI: i32 = 14;
/// An operation of transactions only.
const CHECK: i32 = 13;

/// The password of every session.
const PASSWORD: [u8; 16] = [7; 16];

thread_local! {
    /// Which plugins on this thread connect to.
    static CURRENT: RefCell<Weak<Ensemble>> = RefCell::default();
}

/// How a plugin's servers are connected to, if a test has any.
pub(crate) fn dial() -> Option<Dial> {
    let ensemble = CURRENT.with_borrow(Weak::upgrade)?;
    Some(Rc::new(move |_| {
        let accepted = ensemble.accept();
        Box::pin(async { accepted })
    }))
}

/// The servers.
#[derive(Default)]
pub(crate) struct Ensemble {
    nodes: RefCell<BTreeMap<String, Node>>,
    sessions: RefCell<BTreeSet<i64>>,
    zxid: Cell<i64>,
    lines: RefCell<Vec<Weak<Line>>>,
    most_lines: Cell<usize>,
    /// Connections that it takes; more are refused, as a host does.
    pub(crate) lines_max: Cell<Option<usize>>,
    /// It takes no connections.
    pub(crate) is_down: Cell<bool>,
    /// It is older than 3.6.
    pub(crate) is_old: Cell<bool>,
    rule: RefCell<Option<Rule>>,
    /// Changes of a transaction that is under way: told when all of it is done.
    untold: RefCell<Option<Vec<(String, i32)>>>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) data: Vec<u8>,
    pub(crate) owner: i64,
    pub(crate) czxid: i64,
    pub(crate) mzxid: i64,
    pub(crate) version: i32,
}

/// A request, as a rule sees it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) opcode: i32,
    /// Of a transaction, that of its first operation; empty where it has none.
    pub(crate) path: String,
    /// Whether the next change is to be told.
    pub(crate) is_watching: bool,
}

/// What becomes of a request.
pub(crate) enum Fate {
    Serve,
    Refuse(ErrorCode),
    /// Neither this nor what comes after it on this connection is looked at, but for pings.
    Stall,
    /// It is done, and nothing more is answered on this connection, but for pings.
    Swallow,
    /// It is done; this answer, and what comes after it on this connection, waits until a test lets it go.
    Hold,
}

type Rule = Box<dyn Fn(&Asked) -> Fate>;
type Answer = Result<Vec<u8>, ErrorCode>;

/// One connection.
#[derive(Default)]
struct Line {
    session: Cell<i64>,
    outgoing: RefCell<Vec<u8>>,
    changed: Signal,
    is_cut: Cell<bool>,
    is_stalled: Cell<bool>,
    /// What is not written yet goes out later.
    is_held: Cell<bool>,
    /// Paths whose next change is told: of the node, and of its children.
    once: RefCell<BTreeSet<(String, bool)>>,
    /// Paths below which everything is told.
    trees: RefCell<BTreeSet<String>>,
}

impl Ensemble {
    /// Servers for plugins that are started on this thread from now on.
    pub(crate) fn start() -> Rc<Self> {
        let ensemble = Rc::new(Self::default());
        ensemble.sessions.borrow_mut().insert(1);
        ensemble.nodes.borrow_mut().insert("/".to_owned(), Node::default());
        CURRENT.set(Rc::downgrade(&ensemble));
        ensemble
    }

    /// A plugin on these servers, with what predecessors left, as [`left`](Self::left) has it.
    pub(crate) async fn plugin(
        &self,
        registry: &[(i64, u64)],
        locks: &[(i64, u64)],
    ) -> Host<crate::ZooKeeper> {
        self.plugin_with(json!({}), Some(self.left(registry, locks))).await
    }

    /// The checkpoint of a predecessor that had these sessions of registrations and of locks, each with
    /// its timeout.
    pub(crate) fn left(&self, registry: &[(i64, u64)], locks: &[(i64, u64)]) -> Vec<u8> {
        let keys = |sessions: &[(i64, u64)]| -> Vec<_> {
            let key = |(id, timeout_ms): &(i64, u64)| {
                self.sessions.borrow_mut().insert(*id);
                json!({ "id": id, "password": PASSWORD, "timeout_ms": timeout_ms })
            };
            sessions.iter().map(key).collect()
        };
        json!({ "registry": keys(registry), "locks": keys(locks) }).to_string().into_bytes()
    }

    /// A plugin on these servers, with these settings and what its predecessor's checkpoint said.
    pub(crate) async fn plugin_with(
        &self,
        settings: serde_json::Value,
        resume: Option<Vec<u8>>,
    ) -> Host<crate::ZooKeeper> {
        let endpoint = Endpoint { host: "zk".to_owned(), port: 2181, tls: false };
        let options =
            StartOptions { settings, endpoints: vec![endpoint], resume, ..StartOptions::default() };
        Host::start(options).await.unwrap()
    }

    pub(crate) fn obey(&self, rule: impl Fn(&Asked) -> Fate + 'static) {
        *self.rule.borrow_mut() = Some(Box::new(rule));
    }

    pub(crate) fn obey_nobody(&self) {
        *self.rule.borrow_mut() = None;
    }

    /// Breaks all connections.
    pub(crate) fn cut(&self) {
        for line in self.lines() {
            line.is_cut.set(true);
            line.changed.notify();
        }
    }

    /// Writes what was held.
    pub(crate) fn let_go(&self) {
        for line in self.lines() {
            line.is_held.set(false);
            line.changed.notify();
        }
    }

    /// Ends all sessions, as if they had given no sign of life; breaks all connections.
    pub(crate) fn expire_all(&self) {
        let sessions = std::mem::take(&mut *self.sessions.borrow_mut());
        sessions.into_iter().for_each(|session| self.end(session));
        self.cut();
    }

    /// Sessions that live.
    pub(crate) fn sessions(&self) -> BTreeSet<i64> {
        self.sessions.borrow().clone()
    }

    pub(crate) fn node(&self, path: &str) -> Option<Node> {
        self.nodes.borrow().get(path).cloned()
    }

    /// Nodes whose path begins so.
    pub(crate) fn below(&self, prefix: &str) -> Vec<String> {
        let nodes = self.nodes.borrow();
        nodes.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }

    /// Creates a node of a session, 0 for none, and what is missing above it.
    pub(crate) fn create(&self, path: &str, data: &[u8], owner: i64) {
        for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
            let above = path.get(..end).unwrap();
            if self.node(above).is_none() {
                self.insert(above, &[], 0);
            }
        }
        self.insert(path, data, owner);
    }

    pub(crate) fn delete(&self, path: &str) {
        self.zxid.set(self.zxid.get() + 1);
        self.nodes.borrow_mut().remove(path);
        self.fire(path, 2);
    }

    pub(crate) fn connections(&self) -> usize {
        self.lines().len()
    }

    /// How many there were at a time.
    pub(crate) fn most_connections(&self) -> usize {
        self.most_lines.get()
    }

    fn insert(&self, path: &str, data: &[u8], owner: i64) {
        let zxid = self.zxid.get() + 1;
        self.zxid.set(zxid);
        let node = Node { data: data.to_vec(), owner, czxid: zxid, mzxid: zxid, version: 0 };
        self.nodes.borrow_mut().insert(path.to_owned(), node);
        self.fire(path, 1);
    }

    fn end(&self, session: i64) {
        self.sessions.borrow_mut().remove(&session);
        let kept = self.kept_by(session, "");
        kept.iter().for_each(|path| self.delete(path));
    }

    /// Nodes of a session whose path begins so.
    pub(crate) fn kept_by(&self, session: i64, prefix: &str) -> Vec<String> {
        let nodes = self.nodes.borrow();
        let kept = nodes.iter().filter(|(path, node)| {
            node.owner == session && node.owner != 0 && path.starts_with(prefix)
        });
        kept.map(|(path, _)| path.clone()).collect()
    }

    fn children(&self, path: &str) -> Vec<String> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let nodes = self.nodes.borrow();
        let from = nodes.range(below.clone()..);
        let names = from.map_while(|(path, _)| path.strip_prefix(&below));
        names.filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned).collect()
    }

    fn stat(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.node(path)?;
        let mut out = Vec::new();
        let mut stat = Encoder::new(&mut out);
        stat.long(node.czxid);
        stat.long(node.mzxid);
        stat.long(1);
        stat.long(1);
        stat.int(node.version);
        stat.int(0);
        stat.int(0);
        stat.long(node.owner);
        stat.int(0);
        stat.int(i32::try_from(self.children(path).len()).unwrap());
        stat.long(node.czxid);
        Some(out)
    }

    fn lines(&self) -> Vec<Rc<Line>> {
        self.lines.borrow_mut().retain(|line| line.strong_count() > 0);
        self.lines.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells of a change whose kind has this number: of a node that came, went, or was set.
    fn fire(&self, path: &str, kind: i32) {
        if let Some(untold) = &mut *self.untold.borrow_mut() {
            return untold.push((path.to_owned(), kind));
        }
        let parent = crate::path::parent(path);
        for line in self.lines() {
            let in_tree = line.trees.borrow().iter().any(|top| path.starts_with(top));
            let once = line.once.borrow_mut().remove(&(path.to_owned(), false));
            if in_tree || once {
                line.tell(kind, path);
            }
            if kind != 3 && line.once.borrow_mut().remove(&(parent.to_owned(), true)) {
                line.tell(4, parent);
            }
        }
    }

    fn accept(self: &Rc<Self>) -> Result<Connection, Error> {
        if self.is_down.get() {
            return Err(Error::unavailable("connection refused"));
        }
        let count = self.connections() + 1;
        if self.lines_max.get().is_some_and(|most| count > most) {
            return Err(Error::unavailable("refused by the limit of connections"));
        }
        self.most_lines.set(self.most_lines.get().max(count));
        let (ours, theirs) = Connection::pair();
        let line = Rc::new(Line::default());
        self.lines.borrow_mut().push(Rc::downgrade(&line));
        let ensemble = Rc::clone(self);
        spawn(async move { ensemble.serve(&line, theirs).await }).detach();
        Ok(ours)
    }

    /// Serves one connection until it is cut or left.
    async fn serve(&self, line: &Line, mut connection: Connection) {
        let mut input = Vec::new();
        loop {
            if line.has_news() {
                let outgoing = line.outgoing.take();
                // The plugin may have left.
                let _ = connection.write_all(&outgoing).await;
                let _ = connection.flush().await;
            }
            if line.is_cut.get() {
                return;
            }
            let frame = pin!(frame(&mut connection, &mut input));
            let news = line.changed.wait(|| (line.is_cut.get() || line.has_news()).then_some(()));
            match select(frame, pin!(news)).await {
                Either::Left((Some(frame), _)) => self.take(line, &frame),
                Either::Left((None, _)) => return,
                Either::Right(_) => {}
            }
        }
    }

    fn take(&self, line: &Line, frame: &[u8]) {
        let mut input = Decoder::new(frame);
        if line.session.get() == 0 {
            return self.greet(line, &mut input);
        }
        let (xid, opcode) = (input.int().unwrap(), input.int().unwrap());
        if xid == XID_PING {
            return line.answer(xid, self.zxid.get(), Ok(Vec::new()));
        }
        if line.is_stalled.get() {
            return;
        }
        let mut ahead = input.clone();
        if opcode == MULTI {
            // Behind the header of its first operation.
            ahead.int().unwrap();
            ahead.bool().unwrap();
            ahead.int().unwrap();
        }
        let path = match opcode {
            100 | 105 => String::new(),
            _ => ahead.string().unwrap_or_default().to_owned(),
        };
        let is_watching =
            matches!(opcode, EXISTS | GET_DATA | CHILDREN) && ahead.bool() == Ok(true);
        let rule = self.rule.borrow();
        let asked = Asked { opcode, path, is_watching };
        let fate = rule.as_ref().map_or(Fate::Serve, |rule| rule(&asked));
        drop(rule);
        match fate {
            Fate::Serve => {
                let answer = self.answer(line, opcode, &mut input);
                if self.is_old.get() && answer == Err(ErrorCode::UNIMPLEMENTED) {
                    line.is_cut.set(true);
                }
                line.answer(xid, self.zxid.get(), answer);
                if opcode == -11 {
                    line.is_cut.set(true);
                }
            }
            Fate::Refuse(code) => line.answer(xid, self.zxid.get(), Err(code)),
            Fate::Stall => line.is_stalled.set(true),
            Fate::Hold => {
                line.is_held.set(true);
                line.answer(xid, self.zxid.get(), self.answer(line, opcode, &mut input));
            }
            Fate::Swallow => {
                line.is_stalled.set(true);
                drop(self.answer(line, opcode, &mut input));
            }
        }
    }

    fn greet(&self, line: &Line, input: &mut Decoder<'_>) {
        let request = ConnectRequest {
            last_zxid: { input.int().and_then(|_| input.long()).unwrap() },
            timeout_ms: input.int().unwrap(),
            session_id: input.long().unwrap(),
            password: input.buffer().unwrap().unwrap_or_default().to_vec(),
        };
        let mut sessions = self.sessions.borrow_mut();
        let session = match request.session_id {
            0 => sessions.last().copied().unwrap_or(1_000).max(1_000) + 1,
            asked => asked,
        };
        let is_granted = request.session_id == 0 || sessions.contains(&session);
        if is_granted {
            sessions.insert(session);
            line.session.set(session);
        }
        line.write(|out| {
            out.int(0);
            out.int(if is_granted { request.timeout_ms } else { 0 });
            out.long(if is_granted { session } else { 0 });
            out.buffer(Some(&PASSWORD));
            out.bool(false);
        });
    }

    fn answer(&self, line: &Line, opcode: i32, input: &mut Decoder<'_>) -> Answer {
        let mut body = Vec::new();
        let mut out = Encoder::new(&mut body);
        let missing = ErrorCode::NO_NODE;
        match opcode {
            DELETE => {
                let (path, version) = (input.string().unwrap(), input.int().unwrap());
                let node = self.node(path).ok_or(missing)?;
                check(&node, version)?;
                if !self.children(path).is_empty() {
                    return Err(ErrorCode::NOT_EMPTY);
                }
                self.delete(path);
            }
            EXISTS | GET_DATA => {
                let (path, watch) = (input.string().unwrap(), input.bool().unwrap());
                let stat = self.stat(path);
                if watch && (opcode == EXISTS || stat.is_some()) {
                    line.once.borrow_mut().insert((path.to_owned(), false));
                }
                let stat = stat.ok_or(missing)?;
                if opcode == GET_DATA {
                    out.buffer(Some(&self.node(path).ok_or(missing)?.data));
                }
                body.extend_from_slice(&stat);
            }
            SET_DATA => {
                let path = input.string().unwrap();
                let data = input.buffer().unwrap().unwrap_or_default();
                let mut node = self.node(path).ok_or(missing)?;
                check(&node, input.int().unwrap())?;
                self.zxid.set(self.zxid.get() + 1);
                (node.data, node.mzxid) = (data.to_vec(), self.zxid.get());
                node.version += 1;
                self.nodes.borrow_mut().insert(path.to_owned(), node);
                self.fire(path, 3);
                body = self.stat(path).ok_or(missing)?;
            }
            CHILDREN => {
                let (path, watch) = (input.string().unwrap(), input.bool().unwrap());
                let stat = self.stat(path).ok_or(missing)?;
                if watch {
                    line.once.borrow_mut().insert((path.to_owned(), true));
                }
                out.strings(&self.children(path));
                body.extend_from_slice(&stat);
            }
            CHECK => {
                let node = self.node(input.string().unwrap()).ok_or(missing)?;
                check(&node, input.int().unwrap())?;
            }
            MULTI => body = self.multi(line, input),
            15 | 19 => return self.created(line, input),
            -11 => self.end(line.session.get()),
            18 => line.forget(input.string().unwrap())?,
            100 => {}
            _ if self.is_old.get() => return Err(ErrorCode::UNIMPLEMENTED),
            103 => out.strings(&self.kept_by(line.session.get(), input.string().unwrap())),
            105 => {
                input.long().unwrap();
                let lists = [(); 5].map(|()| input.strings().unwrap());
                line.trees.borrow_mut().extend(lists.into_iter().flatten());
            }
            106 => {
                line.trees.borrow_mut().insert(input.string().unwrap().to_owned());
                out.int(0);
            }
            _ => return Err(ErrorCode::UNIMPLEMENTED),
        }
        Ok(body)
    }

    fn created(&self, line: &Line, input: &mut Decoder<'_>) -> Answer {
        let mut path = input.string().unwrap().to_owned();
        let data = input.buffer().unwrap().unwrap_or_default();
        for _ in 0..input.int().unwrap() {
            input.int().unwrap();
            input.string().unwrap();
            input.string().unwrap();
        }
        let flags = input.int().unwrap();
        let parent = crate::path::parent(&path);
        if parent != "/" && self.node(parent).is_none() {
            return Err(ErrorCode::NO_NODE);
        }
        let is_numbered = flags == 3;
        if is_numbered {
            path = format!("{path}{:010}", self.zxid.get() + 1);
        } else if self.node(&path).is_some() {
            return Err(ErrorCode::NODE_EXISTS);
        }
        let is_ephemeral = matches!(flags, 1 | 3);
        self.insert(&path, data, if is_ephemeral { line.session.get() } else { 0 });
        let mut body = Vec::new();
        Encoder::new(&mut body).string(&path);
        body.extend_from_slice(&self.stat(&path).unwrap_or_default());
        Ok(body)
    }
}

fn check(node: &Node, version: i32) -> Result<(), ErrorCode> {
    match version {
        -1 => Ok(()),
        version if version == node.version => Ok(()),
        _ => Err(ErrorCode::BAD_VERSION),
    }
}
