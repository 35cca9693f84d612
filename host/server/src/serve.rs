//! Listening.

use std::{io, time::Duration};

use axum::serve::ListenerExt;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{check_address, state::Api};

/// Time for answers that are under way when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

impl Api {
    /// Serves on a listener until `shutdown` completes, then drains ([`Api::drain`]) and returns.
    ///
    /// # Errors
    ///
    /// Fails when the listener's address is not allowed ([`check_address`]).
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        check_address(listener.local_addr()?).map_err(io::Error::other)?;
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY is not set");
            }
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(listener, self.router()).with_graceful_shutdown(async {
            // Either way it is time to stop.
            let _ = stopped.await;
        });
        let mut serving = tokio::spawn(serving.into_future());
        tokio::select! {
            ended = &mut serving => return ended.map_err(io::Error::other)?,
            () = shutdown => {}
        }
        // Clients still have to be able to release what they hold.
        self.drain().await;
        drop(stop);
        match tokio::time::timeout(LAST_ANSWERS, &mut serving).await {
            Ok(ended) => ended.map_err(io::Error::other)?,
            Err(_) => {
                tracing::warn!("some answers were cut off");
                serving.abort();
                Ok(())
            }
        }
    }
}
