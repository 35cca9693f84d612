//! Registry: instances that sessions keep, instances that nobody keeps, and what operators say of
//! both.

pub(crate) mod feed;
pub(crate) mod read;
mod turn;
mod types;
pub(crate) mod watch;

pub use feed::InstanceChange;
pub use turn::{Adoption, LABELS_MAX};
pub use types::{
    Added, Instance, InstanceState, Override, Register, Registered, Removed, ServiceSummary,
};
pub use watch::{RegistryEvent, RegistryWatch};
