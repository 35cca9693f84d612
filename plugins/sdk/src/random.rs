//! Random numbers for jitter, for the order of endpoints, and for names that must not clash.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A random number; never for secrets. Native tests get the same numbers in every run.
pub fn random_u64() -> u64 {
    // SplitMix64: one seed from the host, then no further calls.
    let state = STATE.get().unwrap_or_else(seed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A random number below `bound`; 0 if that is 0.
pub fn random_below(bound: u64) -> u64 {
    let wide = u128::from(random_u64()) * u128::from(bound);
    u64::try_from(wide >> 64).unwrap_or_default()
}

/// Brings `items` into a random order.
pub fn shuffle<T>(items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let bound = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
        let other = usize::try_from(random_below(bound)).unwrap_or_default();
        items.swap(last, other);
    }
}

#[cfg(target_family = "wasm")]
fn seed() -> u64 {
    wasip3::random::random::get_random_u64()
}

#[cfg(not(target_family = "wasm"))]
fn seed() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_kept_and_every_number_below_it_comes() {
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            seen[usize::try_from(random_below(5)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(random_below(0), 0);
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..50).collect();
        shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
