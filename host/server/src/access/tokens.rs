//! The access tokens: 256 random bits each, of which only the SHA-256 is kept.

mod file;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use pintle_api::access::{CreateToken, Token};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::convert::epoch_ms;
use file::{Stamp, TokensFile};

/// Begins every secret, so that a leaked one is recognised.
const PREFIX: &str = "pintle_";
/// Tokens that may exist.
const TOKENS_MAX: usize = 1_000;
const NAME_CHARS_MAX: usize = 64;
/// Names of callers without a token.
const RESERVED: [&str; 3] = ["owner", "anyone", "unknown"];
/// How often the clock is looked at for the end of a token, because it can be set.
const CLOCK_PERIOD: Duration = Duration::from_secs(30);
/// How often the file is looked at, because another process may have changed it.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

type Hash = [u8; 32];

/// The tokens of one server.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// Without one no token can be made.
    file: Option<TokensFile>,
    /// None until the first token was ever made: then nobody is asked for one.
    table: ArcSwapOption<Table>,
    /// Whether callers are asked for one, for those who wait for it.
    required: watch::Sender<bool>,
    /// What who may read the data folder shows.
    owner: ArcSwapOption<Hash>,
    /// Held by whoever changes the table: how the file looked from which it is.
    seen: Mutex<Option<Stamp>>,
}

#[derive(Debug, Default)]
struct Table {
    tokens: Vec<Arc<Live>>,
    by_hash: HashMap<Hash, Arc<Live>>,
}

/// A token that is known.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) token: Token,
    hash: Hash,
    revoked: watch::Sender<bool>,
}

/// Who has shown a secret.
#[derive(Debug)]
pub(crate) enum Found {
    /// Somebody who may read the data folder.
    Owner,
    /// The holder of a token.
    Holder(Arc<Live>),
}

/// The tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the access tokens in {}: {reason}", path.display())]
pub struct TokensError {
    path: PathBuf,
    reason: String,
}

/// Why there is no new token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// The request can never succeed as it stands.
    #[error("{0}")]
    Invalid(String),
    /// The name is in use.
    #[error("there is a token named {0:?} already")]
    Exists(String),
    /// There are too many.
    #[error("there are {TOKENS_MAX} tokens, and no more fit")]
    Exhausted,
    /// The API has no place for tokens.
    #[error("this API keeps no tokens")]
    NotKept,
    /// It could not be written.
    #[error(transparent)]
    Unwritten(#[from] TokensError),
}

impl Tokens {
    /// For an API that asks nobody for a token, and makes none.
    pub(crate) fn none() -> Self {
        Self {
            file: None,
            table: ArcSwapOption::empty(),
            required: watch::Sender::new(false),
            owner: ArcSwapOption::empty(),
            seen: Mutex::default(),
        }
    }

    /// Reads the tokens, if any were ever made.
    pub(crate) fn open(path: PathBuf) -> Result<Self, TokensError> {
        let tokens = Self { file: Some(TokensFile::new(path)), ..Self::none() };
        if let Some(file) = &tokens.file {
            tokens.read(file, &mut tokens.seen())?;
        }
        Ok(tokens)
    }

    /// Uses what other processes write to the file. What cannot be used is logged, and the present
    /// tokens stay.
    pub(crate) async fn follow_file(&self) {
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            self.look();
        }
    }

    fn look(&self) {
        let Some(file) = &self.file else { return };
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Who changes it reads it, too.
            Err(TryLockError::WouldBlock) => return,
        };
        if file.stamp() == *seen {
            return;
        }
        match self.read(file, &mut seen) {
            Ok(()) if seen.is_none() => {
                tracing::error!("the access tokens' file is gone; those that were in it stay good");
            }
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "the tokens before stay good"),
        }
    }

    fn read(&self, file: &TokensFile, seen: &mut Option<Stamp>) -> Result<(), TokensError> {
        // What comes after this is looked at the next time.
        *seen = file.stamp();
        // Without a file those that were known stay: the door does not open by itself.
        let Some(stored) = file.read()? else { return Ok(()) };
        let present = self.table.load_full().unwrap_or_default();
        let known = |token: &Token, hash: &Hash| {
            present.by_hash.get(hash).filter(|live| live.token == *token).cloned()
        };
        let tokens = stored.into_iter();
        let tokens = tokens.map(|(token, hash)| {
            known(&token, &hash).unwrap_or_else(|| Arc::new(Live::new(token, hash)))
        });
        self.adopt(tokens.collect());
        Ok(())
    }

    /// Lets these be good from now on, and no others.
    fn adopt(&self, tokens: Vec<Arc<Live>>) {
        let next = Arc::new(Table::of(tokens));
        let before = self.table.swap(Some(Arc::clone(&next)));
        self.required.send_replace(true);
        for live in before.iter().flat_map(|before| &before.tokens) {
            if !next.tokens.iter().any(|other| Arc::ptr_eq(other, live)) {
                live.revoked.send_replace(true);
            }
        }
    }

    /// Whether callers are asked for a token.
    pub(crate) fn are_required(&self) -> bool {
        self.table.load().is_some()
    }

    /// The same, to wait for.
    pub(crate) fn required(&self) -> watch::Receiver<bool> {
        self.required.subscribe()
    }

    /// Whether there is one with which somebody could come.
    pub(crate) fn exist(&self) -> bool {
        let now = epoch_ms(SystemTime::now());
        self.table
            .load()
            .as_ref()
            .is_some_and(|table| table.tokens.iter().any(|live| !live.is_over(now)))
    }

    /// Makes a secret for whoever may read the data folder. The one before is no good any more.
    pub(crate) fn issue_owner_secret(&self) -> String {
        let secret = new_secret();
        self.owner.store(Some(Arc::new(hash(&secret))));
        secret
    }

    /// Who has this secret.
    pub(crate) fn find(&self, secret: &str) -> Option<Found> {
        // What is looked up is the hash, so that the time it takes tells nothing of the secret.
        let hash = hash(secret);
        if self.owner.load().as_ref().is_some_and(|owner| **owner == hash) {
            return Some(Found::Owner);
        }
        let live = self.table.load().as_ref()?.by_hash.get(&hash).cloned()?;
        let is_over = live.is_over(epoch_ms(SystemTime::now()));
        (!is_over).then_some(Found::Holder(live))
    }

    /// All tokens, also those whose time is over.
    pub(crate) fn list(&self) -> Vec<Token> {
        self.table.load().as_ref().map_or_else(Vec::new, |table| {
            table.tokens.iter().map(|live| live.token.clone()).collect()
        })
    }

    /// Makes a token, and answers it with its secret.
    ///
    /// # Errors
    ///
    /// Nothing happened.
    pub(crate) fn create(
        &self,
        request: CreateToken,
        created_by: &str,
    ) -> Result<(Token, String), CreateError> {
        check_name(&request.name)?;
        let now = epoch_ms(SystemTime::now());
        let expires_ms = match request.expires_in_ms {
            Some(0) => return Err(CreateError::Invalid("expires_in_ms: 0 is no time".into())),
            in_ms => in_ms.map(|ms| now.saturating_add(ms)),
        };
        let token = Token {
            id: format!("{:08x}", rand::random::<u32>()),
            name: request.name,
            role: request.role,
            backends: request.backends,
            created_ms: now,
            created_by: created_by.into(),
            expires_ms,
        };
        let secret = new_secret();
        let live = Arc::new(Live::new(token.clone(), hash(&secret)));
        self.change(|present| {
            // One whose time is over makes room for its successor.
            let others = present
                .iter()
                .filter(|other| other.token.name != token.name || !other.is_over(now));
            let mut tokens: Vec<_> = others.cloned().collect();
            if tokens.iter().any(|other| other.token.name == token.name) {
                return Err(CreateError::Exists(token.name.clone()));
            }
            if tokens.len() >= TOKENS_MAX {
                return Err(CreateError::Exhausted);
            }
            tokens.push(live);
            Ok(Some(tokens))
        })?;
        Ok((token, secret))
    }

    /// Makes a token no good any more; none if there is no such token.
    ///
    /// # Errors
    ///
    /// It could not be written, and the token is still good.
    pub(crate) fn revoke(&self, id_or_name: &str) -> Result<Option<Token>, CreateError> {
        if self.file.is_none() {
            return Ok(None);
        }
        let mut revoked = None;
        self.change(|present| {
            let by_id = present.iter().find(|live| live.token.id == id_or_name);
            let by_name = || present.iter().find(|live| live.token.name == id_or_name);
            let Some(live) = by_id.or_else(by_name) else { return Ok(None) };
            revoked = Some(live.token.clone());
            let others = present.iter().filter(|other| !Arc::ptr_eq(other, live));
            Ok(Some(others.cloned().collect()))
        })?;
        Ok(revoked)
    }

    /// Changes the tokens, unless there is nothing to change. On the disk first: what was promised
    /// has to outlive the process.
    fn change(
        &self,
        work: impl FnOnce(&[Arc<Live>]) -> Result<Option<Vec<Arc<Live>>>, CreateError>,
    ) -> Result<(), CreateError> {
        let file = self.file.as_ref().ok_or(CreateError::NotKept)?;
        let unwritten = |error: std::io::Error| file.failed(error.to_string());
        let mut seen = self.seen();
        let _alone = file.lock().map_err(unwritten)?;
        self.read(file, &mut seen)?;
        let present = self.table.load_full().unwrap_or_default();
        if let Some(tokens) = work(&present.tokens)? {
            let stored = tokens.iter().map(|live| (&live.token, &live.hash));
            file.write(stored).map_err(unwritten)?;
            *seen = file.stamp();
            self.adopt(tokens);
        }
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Option<Stamp>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn new(token: Token, hash: Hash) -> Self {
        Self { token, hash, revoked: watch::Sender::new(false) }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        self.token.expires_ms.is_some_and(|end| end <= now_ms)
    }

    /// Completes when the token is no good any more.
    pub(crate) async fn ended(&self) {
        let mut revoked = self.revoked.subscribe();
        let over = async {
            loop {
                let now = epoch_ms(SystemTime::now());
                let Some(end) = self.token.expires_ms else { return std::future::pending().await };
                if end <= now {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(end - now).min(CLOCK_PERIOD)).await;
            }
        };
        tokio::select! {
            // Fails only when the sender is gone, which `self` has.
            _ = revoked.wait_for(|revoked| *revoked) => {}
            () = over => {}
        }
    }
}

impl Table {
    fn of(tokens: Vec<Arc<Live>>) -> Self {
        let by_hash = tokens.iter().map(|live| (live.hash, Arc::clone(live))).collect();
        Self { tokens, by_hash }
    }
}

fn new_secret() -> String {
    let random: [u8; 32] = rand::random();
    format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random))
}

fn hash(secret: &str) -> Hash {
    Sha256::digest(secret.as_bytes()).into()
}

fn check_name(name: &str) -> Result<(), CreateError> {
    let fits = |c: char| c.is_alphanumeric() || "-_.@/ ".contains(c);
    let length = name.chars().count();
    if !(1..=NAME_CHARS_MAX).contains(&length) || !name.chars().all(fits) || name.trim() != name {
        return Err(CreateError::Invalid(format!(
            "name {name:?}: expected 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_`, `.`, `@`, `/` \
             or spaces between them"
        )));
    }
    if RESERVED.contains(&name) {
        return Err(CreateError::Invalid(format!("name {name:?} is taken by the server itself")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::access::Role;
    use pintle_otlp::text::hex;
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        path::Path,
    };

    fn asked(name: &str) -> CreateToken {
        let (name, backends) = (name.into(), vec!["main".into()]);
        CreateToken { name, role: Role::Operator, backends, expires_in_ms: None }
    }

    fn open(folder: &Path) -> Tokens {
        Tokens::open(folder.join("access/tokens.json")).unwrap()
    }

    #[test]
    fn a_token_is_good_until_it_is_revoked_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(folder.path());
        assert!(!tokens.are_required());
        let (token, secret) = tokens.create(asked("ci"), "owner").unwrap();
        assert!(secret.starts_with(PREFIX) && secret.len() == PREFIX.len() + 43, "{secret}");
        let again = open(folder.path());
        assert!(again.are_required() && again.exist());
        assert_eq!(again.list(), std::slice::from_ref(&token));
        let Some(Found::Holder(live)) = again.find(&secret) else { panic!("not found") };
        assert_eq!(live.token, token);
        assert!(again.find("pintle_").is_none() && again.find("").is_none());
        assert_eq!(again.revoke(&token.id).unwrap(), Some(token));
        assert!(again.find(&secret).is_none());
        // Without any token the door does not open by itself.
        let last = open(folder.path());
        assert!(last.are_required() && !last.exist() && last.find(&secret).is_none());
    }

    #[test]
    fn neither_the_file_nor_its_readers_learn_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(folder.path());
        let (_, secret) = tokens.create(asked("ci"), "owner").unwrap();
        let path = folder.path().join("access/tokens.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&secret) && text.contains(&hex(&hash(&secret))), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_may_write_or_that_is_broken_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).create(asked("ci"), "owner").unwrap();
        let path = folder.path().join("access/tokens.json");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Tokens::open(path.clone()).unwrap_err().to_string().contains("chmod"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "{}", r#"{"format":2,"tokens":[]}"#] {
            fs::write(&path, text).unwrap();
            assert!(Tokens::open(path.clone()).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(folder.path());
        tokens.create(asked("ci"), "owner").unwrap();
        assert!(matches!(tokens.create(asked("ci"), "owner"), Err(CreateError::Exists(_))));
        for name in ["", " a", "a\n", "owner", &"x".repeat(65)] {
            let refused = tokens.create(asked(name), "owner");
            assert!(matches!(refused, Err(CreateError::Invalid(_))), "{name:?}");
        }
        assert_eq!(tokens.revoke("nobody").unwrap(), None);
        assert!(tokens.revoke("ci").unwrap().is_some());
    }

    #[tokio::test]
    async fn a_token_ends_with_its_time_and_makes_room_for_its_successor() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(folder.path());
        let short = CreateToken { expires_in_ms: Some(20), ..asked("ci") };
        let (_, secret) = tokens.create(short, "owner").unwrap();
        if let Some(Found::Holder(live)) = tokens.find(&secret) {
            live.ended().await;
        }
        assert!(tokens.find(&secret).is_none() && tokens.are_required() && !tokens.exist());
        assert!(tokens.create(asked("ci"), "owner").is_ok());
        assert_eq!(tokens.list().len(), 1);
    }

    #[test]
    fn what_another_process_writes_is_neither_lost_nor_undone() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (open(folder.path()), open(folder.path()));
        let (_, first) = one.create(asked("first"), "owner").unwrap();
        let (_, second) = other.create(asked("second"), "owner").unwrap();
        assert!(other.find(&first).is_some(), "it was there when the second was made");
        other.revoke("first").unwrap();
        one.create(asked("third"), "owner").unwrap();
        let last = open(folder.path());
        let names: Vec<_> = last.list().into_iter().map(|token| token.name).collect();
        assert_eq!(names, ["second", "third"]);
        assert!(one.find(&first).is_none() && one.find(&second).is_some());
    }

    #[test]
    fn tokens_that_are_made_at_once_by_several_processes_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let tokens = open(folder.path());
                scope.spawn(move || tokens.create(asked(&format!("t{number}")), "owner").unwrap());
            }
        });
        assert_eq!(open(folder.path()).list().len(), 8);
    }

    #[tokio::test]
    async fn a_token_that_another_process_revoked_ends_when_the_file_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let (server, command) = (open(folder.path()), open(folder.path()));
        let mut required = server.required();
        command.create(asked("stays"), "owner").unwrap();
        let (_, secret) = command.create(asked("goes"), "owner").unwrap();
        server.look();
        assert!(*required.borrow_and_update(), "nobody was told that tokens are asked for");
        let Some(Found::Holder(live)) = server.find(&secret) else { panic!("not found") };
        let stays = server.list().remove(0);
        command.revoke("goes").unwrap();
        server.look();
        assert!(server.find(&secret).is_none());
        live.ended().await;
        assert_eq!(server.list(), [stays]);

        // A file that is gone or broken lets nobody in, and keeps nobody out.
        let path = folder.path().join("access/tokens.json");
        fs::write(&path, "{").unwrap();
        server.look();
        fs::remove_file(&path).unwrap();
        server.look();
        assert!(server.are_required() && server.exist());
    }

    #[test]
    fn only_the_last_secret_of_the_owner_is_good() {
        let tokens = Tokens::none();
        let first = tokens.issue_owner_secret();
        assert!(matches!(tokens.find(&first), Some(Found::Owner)));
        let second = tokens.issue_owner_secret();
        assert!(tokens.find(&first).is_none() && tokens.find(&second).is_some());
    }
}
