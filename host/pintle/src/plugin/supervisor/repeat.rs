//! What a new incarnation is asked for again.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    plugin::{
        backend::{Backend, pause_after},
        routes::LockWatchRoute,
    },
    registry::RegistrationRecord,
};

/// Asks a new incarnation for everything that users have open: each on its own, because one that
/// is refused again and again must not hold up the others.
pub(super) async fn repeat_requests(backend: Arc<Backend>) {
    let routes = &backend.routes;
    let (registrations, tails) = (routes.registrations.all(), routes.tails.all());
    let lock_watches = routes.lock_watches.all();
    let registering = registrations.iter().map(|(_, record)| register_again(&backend, record));
    let registering: FuturesUnordered<_> = registering.collect();
    let following: FuturesUnordered<_> =
        tails.iter().map(|(_, tail)| tail.reopen(&backend)).collect();
    let watching = lock_watches.iter().map(|(id, watch)| watch_lock_again(&backend, *id, watch));
    let watching: FuturesUnordered<_> = watching.collect();
    tokio::join!(
        registering.collect::<()>(),
        following.collect::<()>(),
        watching.collect::<()>(),
        routes.config.reopen(&backend),
        routes.instances.reopen(&backend),
    );
}

async fn watch_lock_again(backend: &Backend, id: u64, watch: &Arc<LockWatchRoute>) {
    let _permit = backend.routes.openings.acquire().await;
    if let Err(error) = backend.lock_watch(id, watch).await {
        watch.state.send_replace(Some(Err(error)));
    }
    // Its user may have gone while it was being opened, and closed what was not there yet.
    if backend.routes.lock_watches.find(id).is_none() {
        backend.lock_close(id);
    }
}

async fn register_again(backend: &Backend, registration: &Arc<RegistrationRecord>) {
    while !registration.is_over() {
        let permit = backend.routes.openings.acquire().await;
        let registered = backend.registry_register_again(registration).await;
        drop(permit);
        let Err(error) = registered else { return };
        if !registration.is_over() {
            registration.lost(error.to_string().into());
            // When this incarnation ends too, so does this task.
            tokio::time::sleep(pause_after(&error)).await;
        }
    }
}
