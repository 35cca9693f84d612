//! Who of those that claim a lock hold it: the rule that all backends with a queue share.

use crate::lock::Mode;

/// How many claims at the front of a queue hold the lock together. Claims stand in the order in which
/// they came; nobody overtakes.
///
/// An exclusive claim holds alone, shared ones hold together, and of permits as many as the smallest
/// number that one of them names.
///
/// ```
/// use pintle_plugin_sdk::lock::Mode::{Exclusive, Permit, Shared};
/// use pintle_plugin_sdk::queue::holders;
///
/// assert_eq!(holders(&[Shared, Shared, Exclusive, Shared]), 2);
/// assert_eq!(holders(&[Permit(2), Permit(2), Permit(2)]), 2);
/// ```
pub fn holders(queue: &[Mode]) -> usize {
    match queue.first() {
        None => 0,
        Some(Mode::Exclusive) => 1,
        Some(Mode::Shared) => queue.iter().take_while(|mode| **mode == Mode::Shared).count(),
        Some(Mode::Permit(_)) => {
            let mut least = u32::MAX;
            let fits = |(position, mode): (u32, &Mode)| {
                let Mode::Permit(permits) = mode else { return None };
                least = least.min(*permits);
                (position < least).then_some(())
            };
            (0..).zip(queue).map_while(fits).count()
        }
    }
}

/// Whether a further claim would hold at once.
pub fn would_hold(queue: &[Mode], mode: Mode) -> bool {
    let mut queue = queue.to_vec();
    queue.push(mode);
    holders(&queue) == queue.len()
}

#[cfg(test)]
mod tests {
    use super::Mode::{Exclusive, Permit, Shared};
    use super::*;

    #[test]
    fn claims_of_different_kinds_exclude_each_other() {
        for (queue, holding) in [
            (&[][..], 0),
            (&[Exclusive, Exclusive], 1),
            (&[Exclusive, Shared], 1),
            (&[Shared, Exclusive, Shared], 1),
            (&[Shared, Permit(9)], 1),
            (&[Permit(9), Shared], 1),
            (&[Permit(9), Exclusive], 1),
        ] {
            assert_eq!(holders(queue), holding, "{queue:?}");
        }
    }

    #[test]
    fn the_smallest_number_of_permits_counts() {
        assert_eq!(holders(&[Permit(3), Permit(3), Permit(2), Permit(3)]), 2);
        assert_eq!(holders(&[Permit(1), Permit(3)]), 1);
    }

    #[test]
    fn nobody_overtakes() {
        assert!(would_hold(&[Shared], Shared));
        assert!(!would_hold(&[Shared, Exclusive], Shared));
        assert!(would_hold(&[], Exclusive));
        assert!(!would_hold(&[Permit(1)], Permit(1)));
    }
}
