//! What is left of a group of processes.

use std::{fs, time::Duration};

use nix::unistd::Pid;

/// How often somebody looks whether a group has ended.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Whether `group` has processes that run, besides its guard. Where the system does not tell, it has.
pub(crate) fn runs_besides(group: Pid, guard: Option<Pid>) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok().map(Pid::from_raw)) else {
            return false;
        };
        // It may end while one looks.
        let stat = || fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        Some(pid) != guard && is_running_in(&stat(), group)
    })
}

/// Reads `/proc/PID/stat`: `PID (NAME) STATE PARENT GROUP …`. A name may hold anything.
fn is_running_in(stat: &str, group: Pid) -> bool {
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let mut fields = fields.split_whitespace();
    let is_alive = fields.next().is_some_and(|state| !matches!(state, "Z" | "X" | "x"));
    is_alive && fields.nth(1).and_then(|field| field.parse().ok()) == Some(group.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_while_it_runs_in_the_group() {
        let group = Pid::from_raw(7);
        assert!(is_running_in("9 (a) Z 1) S 1 7 7 0", group));
        assert!(is_running_in("9 (sh) T 1 7 7 0", group));
        assert!(!is_running_in("9 (sh) Z 1 7 7 0", group));
        assert!(!is_running_in("9 (sh) S 7 8 7 0", group));
        assert!(!is_running_in("", group));
    }

    #[test]
    fn this_process_is_seen_in_its_own_group() {
        assert!(runs_besides(nix::unistd::getpgrp(), None));
    }
}
