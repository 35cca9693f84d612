//! What the host's HTTP client answers in a test.

use crate::http::{HttpError, Request, Response};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use std::cell::RefCell;
use std::rc::Rc;

type Answer = LocalBoxFuture<'static, Result<Response<Bytes>, HttpError>>;
type Server = Rc<dyn Fn(Request<Bytes>) -> Answer>;

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// Answers all HTTP requests of this thread with `server`, until the test ends. Without a server
/// connections are refused.
pub fn answer_http<A>(server: impl Fn(Request<Bytes>) -> A + 'static)
where
    A: Future<Output = Result<Response<Bytes>, HttpError>> + 'static,
{
    let server: Server = Rc::new(move |request| Box::pin(server(request)));
    SERVER.set(Some(server));
}

pub(crate) fn http_answer(request: Request<Bytes>) -> Option<Answer> {
    let server = SERVER.with_borrow(Clone::clone)?;
    Some(server(request))
}

pub(super) fn reset() {
    SERVER.set(None);
}
