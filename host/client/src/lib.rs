//! Client for Pintle's HTTP API, without the host's sandbox in its dependencies.
//!
//! ```no_run
//! use pintle_client::{Client, config::Put};
//!
//! # async fn example() -> Result<(), pintle_client::ClientError> {
//! let client = Client::http("http://127.0.0.1:7468")?;
//! let config = client.config("default");
//! config.put(Put::new("app/greeting", "hello")).await?;
//! let entry = config.get("app/greeting").await?;
//! # Ok(())
//! # }
//! ```

pub mod admin;
mod backoff;
mod clock;
pub mod config;
mod error;
pub mod lease;
pub mod lock;
pub mod registration;
pub mod registry;
mod sse;
mod transport;
pub mod watch;

pub use backoff::Backoff;
pub use error::ClientError;
pub use pintle_api as api;
pub use transport::{BoxError, Client, RequestBody};
