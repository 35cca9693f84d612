//! Recorders of what a test saw, and checkers of whether a correct system could have shown it.
//!
//! | promise | recorder | checker |
//! |---|---|---|
//! | each key is a linearizable register | [`History`] | [`check_linearizable`] |
//! | locks exclude, tokens rise | [`LockHistory`] | [`check_locks`] |
//! | a fenced resource takes no stale write | [`Resource`] | [`check_writes`] |
//! | watches are complete | a list of [`Seen`] | [`check_watch`] |
//!
//! All are pure: histories can as well be built by hand, with stamps of any one clock.

mod linearizable;
mod lock;
mod register;
mod report;
mod resource;
mod watch;

pub use linearizable::{TRIALS_MAX, check_linearizable};
pub use lock::{Holding, LockHistory, LockMode, Token, check_locks};
pub use register::{Answer, Call, Entry, Expect, History, Operation, Outcome, Pending};
pub use report::{Report, Violation};
pub use resource::{AcceptedWrite, Resource, StaleToken, check_writes};
pub use watch::{Change, Opening, Promise, Seen, Target, Watcher, Written, check_watch};
