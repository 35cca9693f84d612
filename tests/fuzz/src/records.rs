//! What the SDK stores in backends, which others can write to as well.

use crate::in_proportion;
use pintle_plugin_sdk::record::{ClaimRecord, InstanceRecord, decode_override, encode_override};

/// A label takes 8 bytes in JSON, and a node of a map that is not full some 500.
const BYTES_PER_BYTE: u64 = 64;

pub(crate) fn read(input: &[u8]) {
    if let Ok(instance) = in_proportion(BYTES_PER_BYTE, input, InstanceRecord::decode) {
        let written = instance.clone().encode().expect("it was read");
        assert_eq!(InstanceRecord::decode(&written).ok(), Some(instance));
    }
    if let Ok(claim) = in_proportion(BYTES_PER_BYTE, input, ClaimRecord::decode) {
        let written = claim.encode().expect("it was read");
        assert_eq!(ClaimRecord::decode(&written).ok(), Some(claim));
    }
    if let Ok(operator) = in_proportion(BYTES_PER_BYTE, input, decode_override) {
        let written = encode_override(&operator).expect("it was read");
        assert_eq!(decode_override(&written).ok(), Some(operator));
    }
}
