//! The access tokens: 256 random bits each, of which only the SHA-256 is kept.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use pintle_api::access::{CreateToken, Token};
use pintle_otlp::text::{from_hex, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::convert::epoch_ms;

/// Begins every secret, so that a leaked one is recognised.
const PREFIX: &str = "pintle_";
/// Form of the file.
const FORMAT: u32 = 1;
/// Tokens that may exist.
const TOKENS_MAX: usize = 1_000;
const NAME_CHARS_MAX: usize = 64;
/// Names of callers without a token.
const RESERVED: [&str; 3] = ["owner", "anyone", "unknown"];
/// How often the clock is looked at for the end of a token, because it can be set.
const CLOCK_PERIOD: Duration = Duration::from_secs(30);

type Hash = [u8; 32];

/// The tokens of one server.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// Without one no token can be made.
    path: Option<PathBuf>,
    /// None until the first token was ever made: then nobody is asked for one.
    table: ArcSwapOption<Table>,
    /// What who may read the data folder shows.
    owner: ArcSwapOption<Hash>,
    writing: Mutex<()>,
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
    #[error("{0}")]
    Unwritten(TokensError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    tokens: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    token: Token,
    /// Of the secret, in hexadecimal digits.
    sha256: String,
}

impl Tokens {
    /// For an API that asks nobody for a token, and makes none.
    pub(crate) fn none() -> Self {
        Self {
            path: None,
            table: ArcSwapOption::empty(),
            owner: ArcSwapOption::empty(),
            writing: Mutex::default(),
        }
    }

    /// Reads the tokens, if any were ever made.
    pub(crate) fn open(path: PathBuf) -> Result<Self, TokensError> {
        let failed = |reason: String| TokensError { path: path.clone(), reason };
        let table = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error.to_string())),
            Ok(text) => {
                let mode = fs::metadata(&path).map_err(|error| failed(error.to_string()))?.mode();
                if mode & 0o022 != 0 {
                    let text = "others may write this file, and so let themselves in: chmod 600 it";
                    return Err(failed(text.into()));
                }
                Some(Arc::new(Table::parse(&text).map_err(failed)?))
            }
        };
        Ok(Self { path: Some(path), table: ArcSwapOption::new(table), ..Self::none() })
    }

    /// Whether callers are asked for a token.
    pub(crate) fn are_required(&self) -> bool {
        self.table.load().is_some()
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
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.table.load_full().unwrap_or_default();
        // One whose time is over makes room for its successor.
        let mut tokens: Vec<_> = present
            .tokens
            .iter()
            .filter(|live| live.token.name != request.name || !live.is_over(now))
            .cloned()
            .collect();
        if tokens.iter().any(|live| live.token.name == request.name) {
            return Err(CreateError::Exists(request.name));
        }
        if tokens.len() >= TOKENS_MAX {
            return Err(CreateError::Exhausted);
        }
        let secret = new_secret();
        let token = Token {
            id: format!("{:08x}", rand::random::<u32>()),
            name: request.name,
            role: request.role,
            backends: request.backends,
            created_ms: now,
            created_by: created_by.into(),
            expires_ms,
        };
        tokens.push(Arc::new(Live::new(token.clone(), hash(&secret))));
        self.store(tokens)?;
        Ok((token, secret))
    }

    /// Makes a token no good any more; none if there is no such token.
    ///
    /// # Errors
    ///
    /// It could not be written, and the token is still good.
    pub(crate) fn revoke(&self, id_or_name: &str) -> Result<Option<Token>, CreateError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(present) = self.table.load_full() else { return Ok(None) };
        let is_meant = |live: &&Arc<Live>| live.token.id == id_or_name;
        let by_name = |live: &&Arc<Live>| live.token.name == id_or_name;
        let found = present.tokens.iter().find(is_meant);
        let Some(live) = found.or_else(|| present.tokens.iter().find(by_name)) else {
            return Ok(None);
        };
        let others = present.tokens.iter().filter(|other| !Arc::ptr_eq(other, live));
        self.store(others.cloned().collect())?;
        live.revoked.send_replace(true);
        Ok(Some(live.token.clone()))
    }

    /// On the disk first: what was promised has to outlive the process.
    fn store(&self, tokens: Vec<Arc<Live>>) -> Result<(), CreateError> {
        let path = self.path.as_ref().ok_or(CreateError::NotKept)?;
        write(path, &tokens).map_err(|error| {
            let reason = error.to_string();
            CreateError::Unwritten(TokensError { path: path.clone(), reason })
        })?;
        self.table.store(Some(Arc::new(Table::of(tokens))));
        Ok(())
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

    fn parse(text: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if file.format != FORMAT {
            return Err(format!("form {} is not known to this version", file.format));
        }
        let live = |stored: Stored| {
            let hash = from_hex(&stored.sha256).ok_or("`sha256` has to be 64 digits")?;
            Ok(Arc::new(Live::new(stored.token, hash)))
        };
        let tokens = file.tokens.into_iter().map(live).collect::<Result<_, &str>>()?;
        Ok(Self::of(tokens))
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

/// As a whole or not at all, readable by its owner only.
fn write(path: &Path, tokens: &[Arc<Live>]) -> io::Result<()> {
    let stored =
        tokens.iter().map(|live| Stored { token: live.token.clone(), sha256: hex(&live.hash) });
    let file = File { format: FORMAT, tokens: stored.collect() };
    let text = serde_json::to_vec_pretty(&file)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("json.new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = fs::File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(&text)?;
    out.sync_all()?;
    fs::rename(&draft, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::access::Role;
    use std::os::unix::fs::PermissionsExt;

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
    fn only_the_last_secret_of_the_owner_is_good() {
        let tokens = Tokens::none();
        let first = tokens.issue_owner_secret();
        assert!(matches!(tokens.find(&first), Some(Found::Owner)));
        let second = tokens.issue_owner_secret();
        assert!(tokens.find(&first).is_none() && tokens.find(&second).is_some());
    }
}
