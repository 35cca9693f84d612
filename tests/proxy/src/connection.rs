//! One proxied connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::state::{Shared, WaitError, wait_for};
use crate::{Cut, Direction, Fault};

/// A handle to one connection; it stays valid after the connection has ended.
#[derive(Clone)]
pub struct Connection {
    pub(crate) link: Arc<Link>,
    pub(crate) shared: Arc<Shared>,
}

impl Connection {
    /// Its number, from 0 in the order of acceptance.
    pub fn id(&self) -> u64 {
        self.link.id
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        self.link.client
    }

    /// Whether either side is still open.
    pub fn is_live(&self) -> bool {
        !*self.link.ended.borrow()
    }

    /// Gives it this fault; in force when this returns.
    pub fn set(&self, fault: Fault) {
        self.link.set(fault);
    }

    /// Lets everything pass, held bytes first.
    pub fn heal(&self) {
        self.set(Fault::None);
    }

    /// Ends both sides now, without delivering what is on its way; answers when both sockets are
    /// closed.
    ///
    /// # Errors
    /// [`WaitError`] when that takes longer than the proxy's deadline.
    pub async fn cut(&self, cut: Cut) -> Result<(), WaitError> {
        self.link.control.send_modify(|control| control.end = Some(End::Cut(cut)));
        self.wait_for_end().await
    }

    /// Ends the server's side only and gives the connection [`Fault::HalfOpen`]: the client keeps
    /// an open connection on which nothing ever comes. Answers when the server's side is closed.
    ///
    /// # Errors
    /// [`WaitError`] when that takes longer than the proxy's deadline.
    pub async fn strand(&self) -> Result<(), WaitError> {
        self.link.control.send_modify(|control| {
            control.fault = Fault::HalfOpen;
            control.end = Some(End::Strand);
        });
        self.wait_until_stranded().await
    }

    /// Waits until the server's side has ended without the client knowing ([`Fault::HalfOpen`]).
    ///
    /// # Errors
    /// [`WaitError`] when it has not within the proxy's deadline.
    pub async fn wait_until_stranded(&self) -> Result<(), WaitError> {
        let stranded = || *self.link.stranded.borrow() || !self.is_live();
        wait_for(&self.shared, stranded, || format!("connection {} to be stranded", self.id()))
            .await
    }

    /// Waits until both sides have ended.
    ///
    /// # Errors
    /// [`WaitError`] when they have not within the proxy's deadline.
    pub async fn wait_for_end(&self) -> Result<(), WaitError> {
        wait_for(&self.shared, || !self.is_live(), || format!("connection {} to end", self.id()))
            .await
    }

    /// What was delivered in this direction, up to the proxy's recording limit.
    pub fn recorded(&self, direction: Direction) -> Vec<u8> {
        self.link.recording(direction).lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the handles tell the task of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Control {
    pub(crate) fault: Fault,
    pub(crate) end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Cut(Cut),
    Strand,
}

pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) client: SocketAddr,
    /// Bytes are written while this is borrowed, so that nothing is delivered under an old fault
    /// once it has been modified.
    pub(crate) control: watch::Sender<Control>,
    pub(crate) stranded: watch::Sender<bool>,
    pub(crate) ended: watch::Sender<bool>,
    to_server: Mutex<Vec<u8>>,
    to_client: Mutex<Vec<u8>>,
}

impl Link {
    pub(crate) fn new(id: u64, client: SocketAddr, fault: Fault) -> Link {
        Link {
            id,
            client,
            control: watch::Sender::new(Control { fault, end: None }),
            stranded: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            to_server: Mutex::default(),
            to_client: Mutex::default(),
        }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.control.send_modify(|control| control.fault = fault);
    }

    pub(crate) fn fault(&self) -> Fault {
        self.control.borrow().fault
    }

    /// Waits until the fault is one that `holds`.
    pub(crate) async fn wait_for_fault(&self, holds: impl Fn(Fault) -> bool) {
        let mut control = self.control.subscribe();
        // An error would mean that the sender is gone, and it is `self`.
        let _ = control.wait_for(|control| holds(control.fault)).await;
    }

    pub(crate) async fn wait_for_end_asked(&self) -> End {
        let mut control = self.control.subscribe();
        loop {
            let asked = control.borrow_and_update().end;
            if let Some(end) = asked {
                return end;
            }
            if control.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn record(&self, direction: Direction, bytes: &[u8], len_max: usize) {
        let mut recording =
            self.recording(direction).lock().unwrap_or_else(PoisonError::into_inner);
        let room = len_max.saturating_sub(recording.len()).min(bytes.len());
        recording.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    fn recording(&self, direction: Direction) -> &Mutex<Vec<u8>> {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}
