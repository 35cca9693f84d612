//! Answers of etcd, and names of what is stored there.

use crate::in_proportion;
use bytes::Bytes;
use pintle_plugin_etcd::wire::layout::{Layout, Named};
use pintle_plugin_etcd::wire::messages::{
    AuthenticateResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseRevokeResponse, PutResponse, RangeResponse, StatusResponse, TxnResponse, WatchResponse,
};
use pintle_plugin_etcd::wire::version;
use prost::Message;

/// An empty response of a transaction takes 2 bytes on the wire, and the first of a list brings a place
/// for four.
const BYTES_PER_BYTE: u64 = 320;

pub(crate) fn read(input: &[u8]) {
    read_name(input);
    read_as::<AuthenticateResponse>(input);
    read_as::<DeleteRangeResponse>(input);
    read_as::<LeaseGrantResponse>(input);
    read_as::<LeaseKeepAliveResponse>(input);
    read_as::<LeaseRevokeResponse>(input);
    read_as::<PutResponse>(input);
    read_as::<RangeResponse>(input);
    read_as::<StatusResponse>(input);
    read_as::<TxnResponse>(input);
    read_as::<WatchResponse>(input);
}

fn read_as<M: Message + Default + PartialEq>(input: &[u8]) {
    let decode = |input: &[u8]| M::decode(Bytes::copy_from_slice(input));
    let Ok(message) = in_proportion(BYTES_PER_BYTE, input, decode) else { return };
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(again.is_ok_and(|again| again == message), "written and read again");
}

/// Whatever a key of etcd is the name of, that has this key and no other.
fn read_name(key: &[u8]) {
    let layout = Layout::new("/p/");
    if let Named::Key(name) = layout.named(key) {
        assert_eq!(layout.config_key(&name).as_deref(), Some(key), "{name}");
    }
    if let Some((service, id)) = layout.instance_named(key) {
        assert_eq!(layout.instance(&service, &id), key, "{service} {id}");
    }
    if let Some((service, id)) = layout.operator_named(key) {
        assert_eq!(layout.operator(&service, &id), key, "{service} {id}");
    }
    if let Some((lock, claim)) = layout.claim_named(key) {
        assert_eq!(layout.claim(&lock, &claim), key, "{lock} {claim}");
    }
    if let Some(revision) = str::from_utf8(key).ok().and_then(version::from_text) {
        assert_eq!(version::to_text(revision).as_bytes(), key);
    }
}
