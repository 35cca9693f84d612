//! Every check, grouped by what it is about. The tests of the project hold that each promise and
//! each feature of the WIT packages has one, and that each one can fail.

mod calls;
mod claims;
mod config;
mod crashes;
mod directory;
mod feeds;
mod forgotten;
mod held;
mod lock;
mod others;
mod pages;
mod plugin;
mod registry;
mod sessions;
mod tracing;
mod versions;
mod watch;
mod writes;

use crate::check::Check;

/// The groups in the order in which a report shows them.
pub(crate) const GROUPS: &[&[Check]] = &[
    plugin::CHECKS,
    crashes::CHECKS,
    calls::CHECKS,
    config::CHECKS,
    pages::CHECKS,
    others::CHECKS,
    writes::CHECKS,
    held::CHECKS,
    versions::CHECKS,
    watch::CHECKS,
    feeds::CHECKS,
    forgotten::CHECKS,
    registry::CHECKS,
    directory::CHECKS,
    lock::CHECKS,
    claims::CHECKS,
    sessions::CHECKS,
    tracing::CHECKS,
];
