//! Frames and records of ZooKeeper.

use crate::in_proportion;
use pintle_plugin_zookeeper::wire::{
    AddWatch, Children, ConnectResponse, Create, Decoder, Ephemerals, Event, Exists, GetData,
    Multi, MultiRead, ReplyHeader, Request, SetData, Sync, split_frame,
};

/// An operation that was done takes 9 bytes on the wire, and a list that grows holds its old and its
/// new place while it moves.
const BYTES_PER_BYTE: u64 = 48;

/// Longest frame that is believed.
const FRAME_BYTES_MAX: usize = 1 << 20;

pub(crate) fn read(input: &[u8]) {
    in_proportion(BYTES_PER_BYTE, input, |input| {
        read_record(input);
        let mut rest = input;
        while let Ok(Some(frame)) = split_frame(rest, FRAME_BYTES_MAX) {
            let mut decoder = Decoder::new(frame);
            if ReplyHeader::decode(&mut decoder).is_ok() {
                let _ = Multi::decode(&mut decoder);
            }
            rest = &rest[4 + frame.len()..];
        }
    });
}

fn read_record(input: &[u8]) {
    let decoder = || Decoder::new(input);
    let _ = ConnectResponse::decode(&mut decoder());
    let _ = Event::decode(&mut decoder());
    let _ = AddWatch::decode(&mut decoder());
    let _ = Children::decode(&mut decoder());
    let _ = Create::decode(&mut decoder());
    let _ = Ephemerals::decode(&mut decoder());
    let _ = Exists::decode(&mut decoder());
    let _ = GetData::decode(&mut decoder());
    let _ = Multi::decode(&mut decoder());
    let _ = MultiRead::decode(&mut decoder());
    let _ = SetData::decode(&mut decoder());
    let _ = Sync::decode(&mut decoder());
}
