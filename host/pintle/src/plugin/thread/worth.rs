//! Whether looking out pays.

/// Whether to look out in moments of one kind: as long as two of three bring something, and now and then to
/// see whether they do again.
#[derive(Debug)]
pub(super) struct Worth {
    credit: u32,
    /// Turns since it was given up.
    passed: u32,
}

impl Default for Worth {
    fn default() -> Self {
        Self { credit: Self::CREDIT_MAX, passed: 0 }
    }
}

impl Worth {
    const CREDIT_MAX: u32 = 8;
    const PRICE: u32 = 2;
    /// So many turns pass before it is tried again, with the price of two.
    const PASSED_MAX: u32 = 256;

    /// Whether the next moment is one to look out in.
    pub(super) fn is_tried(&mut self) -> bool {
        if self.credit == 0 {
            self.passed += 1;
            if self.passed < Self::PASSED_MAX {
                return false;
            }
            (self.passed, self.credit) = (0, 2 * Self::PRICE);
        }
        true
    }

    /// It brought something.
    pub(super) fn paid(&mut self) {
        self.credit = (self.credit + 1).min(Self::CREDIT_MAX);
    }

    /// It did not.
    pub(super) fn was_in_vain(&mut self) {
        self.credit = self.credit.saturating_sub(Self::PRICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many moments are looked out in, where each of `brings` says whether one brings
    /// something.
    fn tried(moments: u32, brings: &[bool]) -> u32 {
        let mut worth = Worth::default();
        let mut tried = 0;
        for brings in brings.iter().cycle().take(moments as usize) {
            if worth.is_tried() {
                tried += 1;
                if *brings { worth.paid() } else { worth.was_in_vain() }
            }
        }
        tried
    }

    #[test]
    fn where_all_moments_bring_something_each_is_looked_out_in() {
        assert_eq!(tried(1_000, &[true]), 1_000);
        assert_eq!(tried(999, &[true, true, false]), 999);
    }

    #[test]
    fn where_few_do_it_is_tried_now_and_then() {
        assert!(tried(3_200, &[false]) <= 4 + 2 * 100);
        assert!(tried(3_200, &[true, false]) <= 20 + 10 * 100);
    }

    #[test]
    fn what_did_not_pay_is_found_out_when_it_does() {
        let mut worth = Worth::default();
        while worth.is_tried() {
            worth.was_in_vain();
        }
        let mut turns = 1;
        while !worth.is_tried() {
            turns += 1;
        }
        assert!(turns < Worth::PASSED_MAX, "{turns}");
        for _ in 0..100 {
            worth.paid();
            assert!(worth.is_tried());
        }
    }
}
