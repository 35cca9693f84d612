//! What this or another process has used.

use std::io;

use rustix::time::{ClockId, clock_gettime};

/// CPU time that all threads of this process have used, user and system.
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Resident memory of a process; `None` for this one.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(process: Option<u32>) -> io::Result<u64> {
    let process = process.map_or("self".to_owned(), |id| id.to_string());
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path)?;
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse::<u64>().ok());
    kibibytes
        .map(|number| number * 1024)
        .ok_or_else(|| io::Error::other(format!("{path} has no VmRSS line in kB")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_passes_while_working() {
        let before = cpu_seconds();
        let mut sum = 0u64;
        while cpu_seconds() - before < 0.001 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(sum > 0);
    }

    #[test]
    fn own_memory_is_at_least_a_mebibyte() {
        assert!(resident_bytes(None).unwrap() > 1 << 20);
    }
}
