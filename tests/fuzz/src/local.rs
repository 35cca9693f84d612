//! Batches of spans that the embedded backend keeps.

use crate::in_proportion;
use bytes::Bytes;
use pintle_plugin_local::wire::{TraceWriter, decode};

/// A scope without spans takes 2 bytes on the wire.
const BYTES_PER_BYTE: u64 = 384;

pub(crate) fn read(input: &[u8]) {
    let decode = |input: &[u8]| decode(Bytes::copy_from_slice(input));
    let Ok(batch) = in_proportion(BYTES_PER_BYTE, input, decode) else { return };
    let mut writer = TraceWriter::default();
    batch.groups.iter().cloned().for_each(|group| writer.add(group));
    assert_eq!(decode(&writer.finish()), Ok(batch), "written and read again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{long, request};

    #[test]
    fn what_scopes_share_takes_memory_once() {
        read(&request("service.name", ""));
        read(&request("", &long()));
    }
}
