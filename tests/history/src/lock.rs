//! Do locks exclude, and do their tokens rise?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Report;

/// What a holder may share the lock with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody.
    Exclusive,
    /// Other shared holders.
    Shared,
    /// One less than this many other holders of a permit.
    Permit(u32),
}

/// A fencing token. Values of different epochs do not compare.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// Identity of the cluster that counts.
    pub epoch: String,
    /// Rises with each exclusive holder.
    pub value: u64,
}

/// One time that somebody held a lock, as the holder itself saw it. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Name of the lock.
    pub lock: String,
    /// Who held it.
    pub holder: String,
    /// In which mode.
    pub mode: LockMode,
    /// The token that came with it.
    pub token: Option<Token>,
    /// When the request was sent.
    pub asked: u64,
    /// When the answer "held" arrived.
    pub acquired: u64,
    /// When the lease's validity ends by the holder's own clock, after each renewal: the time at
    /// which it learned of it, and the new end. The first is that of the acquisition itself.
    pub valid_until: Vec<(u64, u64)>,
    /// When the holder asked to release it or was told that it was lost.
    pub ended: Option<u64>,
}

impl Holding {
    /// The spans in which the holder may believe that it holds the lock.
    fn beliefs(&self) -> Vec<(u64, u64)> {
        let ended = self.ended.unwrap_or(u64::MAX);
        let mut beliefs: Vec<(u64, u64)> = Vec::new();
        for (learned, until) in &self.valid_until {
            let (from, to) = ((*learned).max(self.acquired), (*until).min(ended));
            match beliefs.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ if from < to => beliefs.push((from, to)),
                _ => {}
            }
        }
        beliefs
    }
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.holder, self.mode)?;
        match &self.token {
            Some(token) => write!(f, " token {}/{}", token.epoch, token.value)?,
            None => write!(f, " without token")?,
        }
        write!(f, ", asked {}, acquired {}, valid", self.asked, self.acquired)?;
        self.beliefs().iter().try_for_each(|(from, to)| write!(f, " [{from}..{to})"))
    }
}

/// Records holdings from any number of tasks and threads. Clones share the record.
#[derive(Debug, Clone)]
pub struct LockHistory {
    start: Instant,
    holdings: Arc<Mutex<Vec<Holding>>>,
}

impl Default for LockHistory {
    fn default() -> LockHistory {
        LockHistory { start: Instant::now(), holdings: Arc::default() }
    }
}

impl LockHistory {
    /// An empty record.
    pub fn new() -> LockHistory {
        LockHistory::default()
    }

    /// Now, on this record's clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The lock was answered as held: `asked` is [`LockHistory::now`] from just before the request
    /// was sent, `valid_for` counts from then. Answers the number of the holding.
    pub fn acquired(
        &self,
        lock: &str,
        holder: &str,
        mode: LockMode,
        token: Option<Token>,
        asked: u64,
        valid_for: Duration,
    ) -> usize {
        let acquired = self.now();
        let (lock, holder) = (lock.to_owned(), holder.to_owned());
        let valid_until = vec![(acquired, end_of(asked, valid_for))];
        let ended = None;
        let holding = Holding { lock, holder, mode, token, asked, acquired, valid_until, ended };
        let mut holdings = self.lock();
        holdings.push(holding);
        holdings.len() - 1
    }

    /// The lease was renewed by a request that was sent at `sent`.
    pub fn renewed(&self, holding: usize, sent: u64, valid_for: Duration) {
        let now = self.now();
        if let Some(holding) = self.lock().get_mut(holding) {
            holding.valid_until.push((now, end_of(sent, valid_for)));
        }
    }

    /// To be called just before the release is sent, or just after the loss is learned.
    pub fn ended(&self, holding: usize) {
        let now = self.now();
        if let Some(holding) = self.lock().get_mut(holding) {
            holding.ended.get_or_insert(now);
        }
    }

    /// What has been recorded so far.
    pub fn holdings(&self) -> Vec<Holding> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Holding>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end_of(sent: u64, valid_for: Duration) -> u64 {
    sent.saturating_add(u64::try_from(valid_for.as_nanos()).unwrap_or(u64::MAX))
}

/// Checks for each lock that no two holders who exclude each other believe in it at one moment,
/// never more than the permits, that each exclusive holder has a token, and that tokens rise
/// strictly within an epoch and no epoch comes back.
pub fn check_locks(holdings: &[Holding]) -> Report {
    let mut by_lock: BTreeMap<&str, Vec<&Holding>> = BTreeMap::new();
    for holding in holdings {
        by_lock.entry(&holding.lock).or_default().push(holding);
    }
    let mut report = Report { checked: holdings.len() as u64, ..Report::default() };
    for (lock, mut holdings) in by_lock {
        holdings.sort_by_key(|holding| holding.acquired);
        let subject = format!("lock {lock}");
        check_exclusion(&subject, &holdings, &mut report);
        check_tokens(&subject, &holdings, &mut report);
    }
    report
}

fn check_exclusion(subject: &str, holdings: &[&Holding], report: &mut Report) {
    let mut starts: Vec<(u64, u64, &Holding)> = Vec::new();
    for holding in holdings {
        starts.extend(holding.beliefs().into_iter().map(|(from, to)| (from, to, *holding)));
    }
    starts.sort_by_key(|(from, ..)| *from);
    let mut active: Vec<(u64, &Holding)> = Vec::new();
    for (from, to, holding) in starts {
        active.retain(|(until, _)| *until > from);
        active.push((to, holding));
        let others = || active.iter().map(|(_, other)| *other);
        if let Some(rule) = broken_by(holding, others()) {
            let together: Vec<String> = others().map(|other| format!("  {other}")).collect();
            report.violation(rule, subject, together.join("\n"));
            // One report for one overlap: the newcomer does not count any more.
            active.pop();
        }
    }
}

/// The promise that this many at once break; `active` includes the newcomer.
fn broken_by<'a>(
    newcomer: &Holding,
    active: impl Iterator<Item = &'a Holding> + Clone,
) -> Option<&'static str> {
    let count = active.clone().count();
    match newcomer.mode {
        _ if count < 2 => None,
        LockMode::Permit(permits) if active.clone().all(|other| other.mode == newcomer.mode) => {
            (count > permits as usize).then_some("lock permits")
        }
        LockMode::Shared if active.clone().all(|other| other.mode == LockMode::Shared) => None,
        _ => Some("lock exclusion"),
    }
}

fn check_tokens(subject: &str, holdings: &[&Holding], report: &mut Report) {
    let exclusive = holdings.iter().filter(|holding| holding.mode == LockMode::Exclusive);
    let mut tokens: Vec<(&Token, &Holding)> = Vec::new();
    for holding in exclusive {
        match &holding.token {
            Some(token) => tokens.push((token, holding)),
            None => report.violation("lock token", subject, format!("  {holding}")),
        }
    }
    let mut seen: BTreeMap<&Token, &Holding> = BTreeMap::new();
    for (token, holding) in &tokens {
        if let Some(first) = seen.insert(token, holding) {
            report.violation("lock token unique", subject, format!("  {first}\n  {holding}"));
        }
    }
    check_order(subject, &tokens, report);
}

/// Who was answered before another asked has the lower token, or one of an epoch that is over.
fn check_order(subject: &str, tokens: &[(&Token, &Holding)], report: &mut Report) {
    let mut by_asking = tokens.to_vec();
    by_asking.sort_by_key(|(_, holding)| holding.asked);
    let mut answered = tokens.iter().peekable();
    // Of each epoch the highest token that was answered so far, and the epochs that are over.
    let mut highest: BTreeMap<&str, (&Token, &Holding)> = BTreeMap::new();
    let mut current: Option<&str> = None;
    let mut over: BTreeSet<&str> = BTreeSet::new();
    for (token, holding) in by_asking {
        while let Some((earlier, held)) =
            answered.next_if(|(_, other)| other.acquired < holding.asked)
        {
            if let Some(epoch) = current.filter(|epoch| *epoch != earlier.epoch) {
                over.insert(epoch);
            }
            current = Some(&earlier.epoch);
            let top = highest.entry(&earlier.epoch).or_insert((earlier, held));
            if top.0.value < earlier.value {
                *top = (earlier, held);
            }
        }
        if let Some((top, held)) = highest.get(token.epoch.as_str())
            && top.value > token.value
        {
            report.violation("lock token rises", subject, format!("  {held}\n  {holding}"));
        }
        if over.contains(token.epoch.as_str()) && current != Some(&token.epoch) {
            report.violation("lock epoch", subject, format!("  {holding}"));
        }
    }
}
