//! What can be wrong with a connection.

use std::time::Duration;

use crate::Direction;

/// A lasting state of a connection, until another is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Everything passes.
    #[default]
    None,
    /// Each byte arrives this much later; throughput is unchanged.
    Delay {
        /// Added on the way to the server.
        to_server: Duration,
        /// Added on the way to the client.
        to_client: Duration,
    },
    /// Bytes and closes are taken and kept, nothing is delivered. When the fault ends they are
    /// delivered in order, as TCP does by sending again. A new connection is accepted, but the
    /// server sees it only afterwards.
    Blackhole,
    /// A blackhole in one direction.
    BlackholeTowards(Direction),
    /// When the server ends the connection, the client is not told: its bytes are swallowed. When
    /// the fault ends the client is reset, as it would be by its next packet.
    HalfOpen,
}

impl Fault {
    pub(crate) fn blocks(self, direction: Direction) -> bool {
        match self {
            Fault::Blackhole => true,
            Fault::BlackholeTowards(blocked) => blocked == direction,
            Fault::None | Fault::Delay { .. } | Fault::HalfOpen => false,
        }
    }

    pub(crate) fn delay(self, direction: Direction) -> Duration {
        match (self, direction) {
            (Fault::Delay { to_server, .. }, Direction::ToServer) => to_server,
            (Fault::Delay { to_client, .. }, Direction::ToClient) => to_client,
            _ => Duration::ZERO,
        }
    }
}

/// How both sides of a connection are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// As by a crash: the peers see "connection reset".
    Reset,
    /// As by an orderly close: the peers see the end of the stream.
    Close,
}
