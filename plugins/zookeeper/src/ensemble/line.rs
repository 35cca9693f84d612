//! One connection, as the servers see it.

use super::{Answer, Line};
use crate::wire::{Encoder, ErrorCode, XID_EVENT, begin_frame, end_frame, split_frame};
use futures::io::AsyncReadExt as _;
use pintle_plugin_sdk::connection::Connection;

impl Line {
    /// Whether there is anything to write.
    pub(super) fn has_news(&self) -> bool {
        !self.is_held.get() && !self.outgoing.borrow().is_empty()
    }

    pub(super) fn write(&self, write: impl FnOnce(&mut Encoder<'_>)) {
        let mut out = self.outgoing.borrow_mut();
        let at = begin_frame(&mut out);
        write(&mut Encoder::new(&mut out));
        end_frame(&mut out, at);
        drop(out);
        self.changed.notify();
    }

    pub(super) fn answer(&self, xid: i32, zxid: i64, answer: Answer) {
        let (code, body) = match answer {
            Ok(body) => (0, body),
            Err(ErrorCode(code)) => (code, Vec::new()),
        };
        let mut out = self.outgoing.borrow_mut();
        let at = begin_frame(&mut out);
        let mut head = Encoder::new(&mut out);
        head.int(xid);
        head.long(zxid);
        head.int(code);
        out.extend_from_slice(&body);
        end_frame(&mut out, at);
        drop(out);
        self.changed.notify();
    }

    /// Takes all watches of a path away, whoever set them.
    pub(super) fn forget(&self, path: &str) -> Result<(), ErrorCode> {
        let ways = [false, true].map(|below| (path.to_owned(), below));
        let mut once = self.once.borrow_mut();
        let is_once = ways.iter().filter(|way| once.remove(*way)).count() > 0;
        let is_lasting = self.trees.borrow_mut().remove(path);
        if is_once || is_lasting { Ok(()) } else { Err(ErrorCode::NO_WATCHER) }
    }

    pub(super) fn tell(&self, kind: i32, path: &str) {
        self.write(|out| {
            out.int(XID_EVENT);
            out.long(-1);
            out.int(0);
            out.int(kind);
            out.int(3);
            out.string(path);
        });
    }
}

/// The next whole frame; none when the connection was left.
pub(super) async fn frame(connection: &mut Connection, input: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(frame) = split_frame(input, 1 << 20).unwrap() {
            let frame = frame.to_vec();
            input.drain(..frame.len() + 4);
            return Some(frame);
        }
        let mut chunk = [0; 4096];
        let count = connection.read(&mut chunk).await.unwrap_or_default();
        if count == 0 {
            return None;
        }
        input.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}
