//! A TCP proxy for tests: it cuts, delays, blackholes and refuses, on demand and exactly.
//!
//! A test points the client at [`Proxy::addr`] and switches faults while it runs. When a method
//! that sets a fault returns, the fault is in force: nothing is delivered under the old one any
//! more. Chosen messages are hit by a [`Rule`]: "cut before the reply to the request that contains
//! this key" is
//!
//! ```no_run
//! # use pintle_test_proxy::{Action, Cut, Framing, Proxy, Rule};
//! # async fn example(upstream: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
//! let proxy = Proxy::builder(upstream).framing(Framing::Http2).start().await?;
//! let lost = proxy.arm(Rule::reply_to(|m| m.contains(b"app/key")), Action::CutBefore(Cut::Reset));
//! // … the client writes app/key: the server does it, the client never hears of it …
//! lost.fired().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What a client or server has in its own receive buffer counts as delivered.

mod connection;
mod fault;
mod message;
mod proxy;
mod pump;
mod rule;
mod state;

pub use connection::Connection;
pub use fault::{Cut, Fault};
pub use message::{Direction, Framer, Framing, Head, Message, Split, Tag};
pub use proxy::{Builder, Proxy};
pub use rule::{Action, Armed, Rule};
pub use state::{Counts, WaitError};
