//! Memory in proportion to the input.

/// What a decoder may take beside what its input allows, in bytes: errors with their texts, and the
/// first allocation of each list.
pub const SPARE_BYTES: u64 = 4 << 10;

/// Runs a decoder on its input, and answers what it gave.
///
/// # Panics
///
/// When at any moment it held more than `bytes_per_byte` bytes of memory for each byte of the input
/// and [`SPARE_BYTES`].
pub fn in_proportion<T>(bytes_per_byte: u64, input: &[u8], decode: impl FnOnce(&[u8]) -> T) -> T {
    let mut decoded = None;
    let taken = allocation_counter::measure(|| decoded = Some(decode(input))).bytes_max;
    let allowed = bytes_per_byte * input.len() as u64 + SPARE_BYTES;
    assert!(taken <= allowed, "{} bytes took {taken} bytes of memory, not {allowed}", input.len());
    decoded.unwrap_or_else(|| unreachable!("it was run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn believe_a_length(input: &[u8]) -> Vec<u8> {
        let length = u32::from_be_bytes(input.try_into().unwrap());
        Vec::with_capacity(length.try_into().unwrap())
    }

    #[test]
    #[should_panic(expected = "4 bytes took 1000000 bytes of memory")]
    fn a_decoder_that_believes_a_length_is_found() {
        in_proportion(100, &1_000_000_u32.to_be_bytes(), believe_a_length);
    }

    #[test]
    fn a_decoder_that_takes_what_it_may_is_not() {
        let taken = in_proportion(100, &400_u32.to_be_bytes(), believe_a_length);
        assert_eq!(taken.capacity(), 400);
    }

    /// What is freed in between counts too.
    #[test]
    #[should_panic(expected = "bytes of memory")]
    fn memory_that_is_given_back_before_the_end_is_found() {
        in_proportion(100, &1_000_000_u32.to_be_bytes(), |input| believe_a_length(input).len());
    }
}
