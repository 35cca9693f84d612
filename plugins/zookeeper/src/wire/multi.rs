//! Several operations in one request: transactions, of which all are done at one moment or none, and
//! reads, each of which succeeds or fails by itself.

use super::request::{CREATE_CONTAINER, CREATE2, DELETE, GET_DATA, SET_DATA};
use super::{
    Acl, Content, Create, CreateMode, Decoder, Delete, Encoder, ErrorCode, GetData, Malformed,
    Request, SetData, Stat,
};

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op<'a> {
    /// Creates a node.
    Create(Create<'a>),
    /// Deletes a node.
    Delete(Delete<'a>),
    /// Sets a node's data.
    SetData(SetData<'a>),
    /// Goes on only if the node exists, at this version if it is not -1.
    Check {
        /// Which.
        path: &'a str,
        /// At which version.
        version: i32,
    },
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Multi<'a> {
    /// Its operations, in order; each sees what those before it did.
    pub ops: Vec<Op<'a>>,
}

/// What one operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Created. Servers before 3.6 tell no stat here; see [`MultiOutcome::at`].
    Created(String, Option<Stat>),
    /// Deleted.
    Deleted,
    /// Set.
    Set(Stat),
    /// It was as it should be.
    Checked,
}

/// How a transaction went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiOutcome {
    /// All was done.
    Done(Vec<OpResult>),
    /// Nothing was done, because of this operation.
    Failed {
        /// Its position.
        index: usize,
        /// Why.
        code: ErrorCode,
    },
}

impl MultiOutcome {
    /// Completes what an older server leaves out: a node that came into being in this transaction is
    /// as its header says.
    #[must_use]
    pub fn at(mut self, zxid: i64) -> Self {
        if let Self::Done(results) = &mut self {
            for result in results {
                if let OpResult::Created(_, stat @ None) = result {
                    *stat = Some(Stat { czxid: zxid, mzxid: zxid, pzxid: zxid, ..Stat::default() });
                }
            }
        }
        self
    }
}

const CREATE: i32 = 1;
const CHECK: i32 = 13;
const ERROR: i32 = -1;

impl Op<'_> {
    fn opcode(&self) -> i32 {
        match self {
            Self::Create(create) => create.opcode(),
            Self::Delete(delete) => delete.opcode(),
            Self::SetData(set) => set.opcode(),
            Self::Check { .. } => CHECK,
        }
    }

    fn encode(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Create(create) => create.encode(out),
            Self::Delete(delete) => delete.encode(out),
            Self::SetData(set) => set.encode(out),
            Self::Check { path, version } => {
                out.string(path);
                out.int(*version);
            }
        }
    }
}

impl<'a> Op<'a> {
    /// A directory.
    pub fn directory(path: &'a str, acl: &'a [Acl]) -> Self {
        Self::Create(Create { path, data: None, acl, mode: CreateMode::Persistent })
    }
}

impl Request for Multi<'_> {
    type Response = MultiOutcome;

    fn opcode(&self) -> i32 {
        14
    }

    fn encode(&self, out: &mut Encoder<'_>) {
        for op in &self.ops {
            header(out, op.opcode(), false);
            op.encode(out);
        }
        header(out, ERROR, true);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<MultiOutcome, Malformed> {
        let mut done = Vec::new();
        let mut failed: Option<(usize, ErrorCode)> = None;
        for index in 0.. {
            let (kind, last, code) = (input.int()?, input.bool()?, input.int()?);
            if last {
                break;
            }
            match kind {
                ERROR => note_failure(&mut failed, index, input.int()?),
                CREATE2 | CREATE_CONTAINER => {
                    let (path, stat) = Create::decode(input)?;
                    done.push(OpResult::Created(path, Some(stat)));
                }
                CREATE => done.push(OpResult::Created(input.string()?.to_owned(), None)),
                DELETE => done.push(OpResult::Deleted),
                SET_DATA => done.push(OpResult::Set(Stat::decode(input)?)),
                CHECK => done.push(OpResult::Checked),
                _ => return Err(Malformed("a transaction's answer has an unknown operation")),
            }
            if kind != ERROR && code != 0 {
                return Err(Malformed("an operation of a transaction succeeded with an error"));
            }
        }
        Ok(match failed {
            Some((index, code)) => MultiOutcome::Failed { index, code },
            None => MultiOutcome::Done(done),
        })
    }
}

/// A failed transaction answers an error for each operation: 0 before the one that failed, and
/// behind it that it was not tried.
fn note_failure(failed: &mut Option<(usize, ErrorCode)>, index: usize, code: i32) {
    let code = ErrorCode(code);
    let told = code != ErrorCode(0) && code != ErrorCode::RUNTIME_INCONSISTENCY;
    match failed {
        None => *failed = Some((index, code)),
        Some((_, ErrorCode(0) | ErrorCode::RUNTIME_INCONSISTENCY)) if told => {
            *failed = Some((index, code));
        }
        Some(_) => {}
    }
}

/// Reads nodes (servers from 3.6 on).
#[derive(Clone, Debug)]
pub struct MultiRead<'a> {
    /// Which, in the order of the answer.
    pub paths: Vec<&'a str>,
}

impl Request for MultiRead<'_> {
    type Response = Vec<Result<Content, ErrorCode>>;

    fn opcode(&self) -> i32 {
        22
    }

    fn encode(&self, out: &mut Encoder<'_>) {
        for path in &self.paths {
            header(out, GET_DATA, false);
            GetData { path, watch: false }.encode(out);
        }
        header(out, ERROR, true);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self::Response, Malformed> {
        let mut read = Vec::new();
        loop {
            let (kind, last, _) = (input.int()?, input.bool()?, input.int()?);
            match kind {
                _ if last => return Ok(read),
                ERROR => read.push(Err(ErrorCode(input.int()?))),
                GET_DATA => read.push(Ok(GetData::decode(input)?)),
                _ => return Err(Malformed("an answer to reads has another operation")),
            }
        }
    }
}

fn header(out: &mut Encoder<'_>, opcode: i32, last: bool) {
    out.int(opcode);
    out.bool(last);
    out.int(-1);
}
