//! The thread of one plugin: its store runs there, and so do the connections that its guest made.
//!
//! What arrives on such a connection wakes the guest on the very thread that saw it arrive. And a
//! guest that computes, or waits for its disk, delays nobody: the operating system shares the cores.

mod answer;
mod callers;
mod lookout;
mod worth;

use std::{
    convert::Infallible,
    future::Future,
    io,
    num::NonZero,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
};

pub(crate) use answer::AnswerLookout;
pub(crate) use callers::Callers;
use lookout::{Doings, look_out};

/// How many cores this process may use, quotas included; asked once.
pub(crate) fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *CORES
}

/// A thread with a runtime of its own, for one store. It ends when this is dropped, or with the
/// future that was given to it.
pub(crate) struct PluginThread {
    handle: Handle,
    callers: Callers,
    _wanted: oneshot::Sender<Infallible>,
}

impl PluginThread {
    /// Starts a thread for `backend`'s plugin, whose name says so.
    ///
    /// # Errors
    ///
    /// Fails where the machine does not let it: threads, open files.
    pub(crate) fn start(backend: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (wanted, unwanted) = oneshot::channel::<Infallible>();
        thread::Builder::new().name(format!("p:{backend}")).spawn(move || {
            // An error is the only answer there can be: the other end is gone.
            let _ = runtime.block_on(unwanted);
            // Waiting for what blocks in the background would keep the thread for nothing.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, callers: Callers::default(), _wanted: wanted })
    }

    /// Where the guest's connections live.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Who waits for the guest's answers.
    pub(crate) fn callers(&self) -> Callers {
        self.callers.clone()
    }

    /// Runs `store` on this thread, which ends with it. After each of its turns the thread looks out for
    /// what comes next for at most so long before it sleeps; zero for never.
    pub(crate) fn run<F>(self, store: F, looks_out: Duration) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let handle = self.handle.clone();
        let doings = Arc::new(Doings::new(self.callers()));
        if !looks_out.is_zero() {
            handle.spawn(look_out(Arc::downgrade(&doings), looks_out));
        }
        handle.spawn(async move {
            let output = doings.of(store).await;
            drop(self);
            output
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_micros(100);

    #[tokio::test]
    async fn the_thread_ends_with_what_it_runs() {
        let thread = PluginThread::start("main").unwrap();
        let running = thread.run(async { thread::current().name().map(str::to_owned) }, MOMENT);
        assert_eq!(running.await.unwrap().as_deref(), Some("p:main"));
    }

    #[tokio::test]
    async fn a_thread_that_computes_delays_no_other() {
        let (busy, other) = (PluginThread::start("a").unwrap(), PluginThread::start("b").unwrap());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let computing = busy.run(async move { stopped.recv().is_err() }, MOMENT);
        assert_eq!(other.run(async { 7 }, MOMENT).await.unwrap(), 7);
        drop(stop);
        assert!(computing.await.unwrap());
    }

    #[tokio::test]
    async fn somebody_looks_out_beside_a_store_unless_that_is_turned_off() {
        for (moment, tasks) in [(MOMENT, 2), (Duration::ZERO, 1)] {
            let thread = PluginThread::start("main").unwrap();
            let metrics = thread.handle().metrics();
            let running = thread.run(std::future::pending::<()>(), moment);
            assert_eq!(metrics.num_alive_tasks(), tasks);
            running.abort();
        }
    }

    #[tokio::test]
    async fn what_is_given_up_leaves_no_thread() {
        let thread = PluginThread::start("main").unwrap();
        let (alive, ended) = oneshot::channel::<Infallible>();
        let running = thread.run(
            async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            },
            MOMENT,
        );
        running.abort();
        assert!(ended.await.is_err());
        assert!(running.await.unwrap_err().is_cancelled());
    }
}
