//! Single nodes: those that come while others are read go out in one request.

use super::{Client, Failure, Inner};
use crate::wire::{Content, ErrorCode, GetData, MultiRead};
use pintle_plugin_sdk::coalesce::{Coalescer, Failed, Limits};
use std::rc::Weak;

const LIMITS: Limits = Limits { under_way: 2, questions: 32, answer_bytes: 1 << 20 };

/// What a server says of a node.
type Read = Result<Content, ErrorCode>;

/// Reads over one connection.
pub(super) type Reads = Coalescer<String, Read>;

pub(super) fn reads_of(connection: &Weak<Inner>) -> Reads {
    // The connection owns its reads.
    let connection = Weak::clone(connection);
    Coalescer::new(LIMITS, bytes, move |paths| {
        let client = connection.upgrade().map(|shared| Client { shared });
        Box::pin(async move { client.ok_or(Failed::Otherwise)?.read_together(&paths).await })
    })
}

fn bytes(read: &Read) -> usize {
    read.as_ref().map_or(0, |(data, _)| data.as_ref().map_or(0, Vec::len))
}

impl Client {
    /// Reads a node, together with others that are read at the same time. Behind what was called in the
    /// same turn before it was first polled.
    ///
    /// # Errors
    ///
    /// As the answer to `GetData`.
    pub(crate) async fn get(&self, path: &str) -> Result<Content, Failure> {
        let alone =
            async |path: String| match self.call(&GetData { path: &path, watch: false }).await {
                Ok(content) => Ok(Ok(content)),
                Err(Failure::Refused(code)) => Ok(Err(code)),
                Err(failure) => Err(failure),
            };
        let read = if self.shared.reads_nodes_alone.get() {
            alone(path.to_owned()).await
        } else {
            self.shared.reads.ask(path.to_owned(), alone).await
        };
        read?.map_err(Failure::Refused)
    }

    async fn read_together(&self, paths: &[String]) -> Result<Vec<Read>, Failed> {
        let tally = &self.shared.tally;
        // Each is read alone then, and told what is wrong.
        if self.shared.reads_nodes_alone.get() {
            return Err(Failed::Otherwise);
        }
        let paths = paths.iter().map(String::as_str).collect();
        match self.call(&MultiRead { paths }).await {
            Ok(reads) => {
                let refused = reads.iter().filter_map(|read| read.as_ref().err());
                refused.for_each(|code| tally.failed(&Failure::Refused(*code)));
                Ok(reads)
            }
            Err(Failure::AnswerTooLarge { .. } | Failure::TooLarge { .. }) => Err(Failed::TooMuch),
            Err(failure) => {
                if failure.is(ErrorCode::UNIMPLEMENTED) {
                    tracing::info!("this server is older than 3.6: keys are read one at a time");
                    self.shared.reads_nodes_alone.set(true);
                }
                Err(Failed::Otherwise)
            }
        }
    }
}
