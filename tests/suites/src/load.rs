//! Clients that work on a register while something breaks, and what they saw.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use anyhow::Result;
use pintle::{
    Config, Effect,
    config::{Put, PutOutcome},
};
use pintle_test_history::{Answer, Call, Entry, Expect, History, Report, check_linearizable};
use tokio::task::JoinHandle;

use crate::{eventually, follow::text, within};

/// Keys that all clients share.
const KEYS: u64 = 4;

/// Clients that read and write one register, and record what they saw.
pub struct Load {
    configs: Vec<Config>,
    history: History,
    /// Numbers that no client has.
    next_client: AtomicU32,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins: client after client on one of these.
    #[must_use]
    pub fn start(configs: &[Config], clients: u32) -> Self {
        let (history, stop, done) = (History::new(), Arc::default(), Arc::default());
        let tasks = (0..clients)
            .map(|client| {
                let config = configs.get(client as usize % configs.len().max(1)).cloned();
                let (history, stop, done): (History, Arc<AtomicBool>, Arc<AtomicUsize>) =
                    (history.clone(), Arc::clone(&stop), Arc::clone(&done));
                tokio::spawn(async move {
                    let Some(config) = config else { return };
                    let mut turn = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let answered = operate(&config, &history, client, turn).await;
                        turn += 1;
                        done.fetch_add(usize::from(answered), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let (configs, next_client) = (configs.to_vec(), AtomicU32::new(clients));
        Self { configs, history, next_client, stop, done, tasks }
    }

    /// How many operations were answered; those that failed or are unknown do not count.
    #[must_use]
    pub fn count(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until this many more operations were answered.
    ///
    /// # Errors
    ///
    /// Fails when they have not in time.
    pub async fn more(&self, count: usize) -> Result<()> {
        let before = self.count();
        eventually("operations", async || Ok((self.count() >= before + count).then_some(()))).await
    }

    /// Has every key read now over each of the configurations, beside the clients: those wait for the
    /// answer of what they asked before. Resolves when all have ended.
    pub fn look(&self) -> impl Future<Output = Result<()>> + use<> {
        let mut looking = Vec::new();
        for config in &self.configs {
            for key in 0..KEYS {
                let client = self.next_client.fetch_add(1, Ordering::Relaxed);
                let (config, history) = (config.clone(), self.history.clone());
                looking.push(tokio::spawn(async move {
                    read(&config, &history, client, &format!("reg/{key}")).await
                }));
            }
        }
        async {
            for task in looking {
                within("the end of a read", task).await??;
            }
            Ok(())
        }
    }

    /// Ends the clients, and checks what they saw.
    ///
    /// # Errors
    ///
    /// Fails when one does not end.
    pub async fn end(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            within("the end of a client", task).await??;
        }
        Ok(check_linearizable(&self.history.operations()))
    }
}

/// One operation on one of a few keys; what is unknown is recorded as unknown. Whether there was an
/// answer.
async fn operate(config: &Config, history: &History, client: u32, turn: u64) -> bool {
    let key = format!("reg/{}", turn % KEYS);
    let value = format!("{client}.{turn}");
    if turn.is_multiple_of(3) {
        return read(config, history, client, &key).await;
    }
    let call = Call::Put { value: value.clone(), expect: Expect::Anything };
    let pending = history.begin(client, &key, call);
    let put = config.put(Put::new(key.as_str(), value)).await;
    let answered = put.is_ok();
    match put {
        Ok(PutOutcome::Stored { version, .. }) => {
            pending.ok(Answer::Stored(Some(version.to_string())));
        }
        Err(error) if error.effect() == Effect::None => pending.failed(),
        // An outcome that cannot be is found by the checker as well.
        Ok(_) | Err(_) => pending.unknown(),
    }
    answered
}

async fn read(config: &Config, history: &History, client: u32, key: &str) -> bool {
    let pending = history.begin(client, key, Call::Get);
    let got = config.get(key).await;
    let answered = got.is_ok();
    match got {
        Ok(entry) => pending.ok(Answer::Got(entry.map(recorded))),
        Err(_) => pending.failed(),
    }
    answered
}

fn recorded(entry: pintle::config::Entry) -> Entry {
    Entry { value: text(&entry.value), version: Some(entry.version.to_string()) }
}
