//! A connection within the process, for tests of protocol code.

use super::{Sink, Source, Step};
use crate::signal::Signal;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

/// The two ends of one direction. Each write arrives as a whole; when the writing end is dropped,
/// the reading end sees the end.
pub(super) fn ends() -> (Box<dyn Source>, Box<dyn Sink>) {
    let shared = Rc::new(Shared::default());
    (Box::new(ReadEnd(Rc::clone(&shared))), Box::new(WriteEnd(shared)))
}

#[derive(Default)]
struct Shared {
    writes: RefCell<VecDeque<Vec<u8>>>,
    changed: Signal,
    ends: Cell<Ends>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Ends {
    writer_gone: bool,
    reader_gone: bool,
}

impl Shared {
    fn set(&self, change: impl FnOnce(&mut Ends)) {
        let mut ends = self.ends.get();
        change(&mut ends);
        self.ends.set(ends);
        self.changed.notify();
    }
}

struct ReadEnd(Rc<Shared>);

impl Drop for ReadEnd {
    fn drop(&mut self) {
        self.0.set(|ends| ends.reader_gone = true);
    }
}

struct WriteEnd(Rc<Shared>);

impl Drop for WriteEnd {
    fn drop(&mut self) {
        self.0.set(|ends| ends.writer_gone = true);
    }
}

impl Source for ReadEnd {
    fn read(self: Box<Self>, mut buffer: Vec<u8>) -> Step<dyn Source> {
        Box::pin(async move {
            let shared = &self.0;
            let next = || match shared.writes.borrow_mut().pop_front() {
                Some(data) => Some(data),
                None => shared.ends.get().writer_gone.then(Vec::new),
            };
            let data = shared.changed.wait(next).await;
            buffer.extend_from_slice(&data);
            (self as Box<dyn Source>, Ok(buffer))
        })
    }
}

impl Sink for WriteEnd {
    fn write(self: Box<Self>, data: Vec<u8>) -> Step<dyn Sink> {
        Box::pin(async move {
            let result = if self.0.ends.get().reader_gone {
                Err(io::ErrorKind::BrokenPipe.into())
            } else {
                self.0.writes.borrow_mut().push_back(data);
                self.0.changed.notify();
                Ok(Vec::new())
            };
            (self as Box<dyn Sink>, result)
        })
    }
}
