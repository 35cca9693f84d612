//! What a checker answers.

use std::fmt;

/// The result of a check.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Report {
    /// How many operations, holdings, writes or events were checked.
    pub checked: u64,
    /// What a correct system cannot have done.
    pub violations: Vec<Violation>,
    /// Subjects on which the checker gave up at its limit: neither right nor wrong.
    pub undecided: Vec<String>,
}

impl Report {
    /// Whether everything was decided and nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }

    /// Takes over what another check found.
    pub fn absorb(&mut self, other: Report) {
        self.checked += other.checked;
        self.violations.extend(other.violations);
        self.undecided.extend(other.undecided);
    }

    pub(crate) fn violation(&mut self, rule: &'static str, subject: &str, excerpt: String) {
        self.violations.push(Violation { rule, subject: subject.to_owned(), excerpt });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (violations, undecided) = (self.violations.len(), self.undecided.len());
        writeln!(f, "{} checked, {violations} violations, {undecided} undecided", self.checked)?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))?;
        self.undecided.iter().try_for_each(|subject| writeln!(f, "undecided: {subject}"))
    }
}

/// One thing that a correct system cannot have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise that is broken.
    pub rule: &'static str,
    /// The key, lock or watcher.
    pub subject: String,
    /// The few lines of the history that show it.
    pub excerpt: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken for {}:\n{}", self.rule, self.subject, self.excerpt)
    }
}
