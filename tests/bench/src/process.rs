//! What this or another process has used.

use std::io;

use rustix::time::{ClockId, clock_gettime};

/// CPU time that all threads of this process have used, user and system.
pub fn cpu_seconds() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// CPU time that all threads of another process have used, user and system, in steps of 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds_of(process: u32) -> io::Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path)?;
    // The name, in brackets, may hold anything; user and system time are the 14th and 15th field.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let [user, system] = ticks.as_slice() else {
        return Err(io::Error::other(format!("{path} has no times")));
    };
    Ok((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// CPU time that the calling thread has used, user and system.
pub fn thread_cpu_seconds() -> f64 {
    seconds(ClockId::ThreadCPUTime)
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
        assert!(thread_cpu_seconds() > 0.0);
    }

    #[test]
    fn another_process_is_asked_for_as_this_one_is() {
        let before = cpu_seconds();
        while cpu_seconds() - before < 0.05 {}
        let told = cpu_seconds_of(std::process::id()).unwrap();
        assert!(told > 0.03 && told <= cpu_seconds() + 0.02, "{told}");
        assert!(cpu_seconds_of(u32::MAX).is_err());
    }

    #[test]
    fn own_memory_is_at_least_a_mebibyte() {
        assert!(resident_bytes(None).unwrap() > 1 << 20);
    }
}
