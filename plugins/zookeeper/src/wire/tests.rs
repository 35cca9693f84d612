use super::*;
use proptest::prelude::*;

fn written(write: impl FnOnce(&mut Encoder<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut Encoder::new(&mut out));
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Golden bytes, put together by hand from `zookeeper.jute`.
#[test]
fn requests_are_written_as_servers_read_them() {
    let connect = ConnectRequest {
        last_zxid: 5,
        timeout_ms: 10_000,
        session_id: 0x0102_0304_0506_0708,
        password: vec![0xaa; 2],
    };
    assert_eq!(
        hex(&written(|out| connect.encode(out))),
        "00000000\
         0000000000000005\
         00002710\
         0102030405060708\
         00000002aaaa\
         00"
    );
    let acl = [Acl { permissions: Acl::ALL, scheme: "world".into(), id: "anyone".into() }];
    let create =
        Create { path: "/a", data: None, acl: &acl, mode: CreateMode::EphemeralSequential };
    assert_eq!(
        hex(&written(|out| create.encode(out))),
        "000000022f61\
         ffffffff\
         00000001\
         0000001f\
         00000005776f726c64\
         00000006616e796f6e65\
         00000003"
    );
    let watches = SetWatches2 { since_zxid: 7, nodes: &["/a"], trees: &[] };
    assert_eq!(
        hex(&written(|out| watches.encode(out))),
        "0000000000000007000000000000000000000000\
         00000001000000022f61\
         00000000"
    );
    let multi = Multi {
        ops: vec![
            Op::Check { path: "/a", version: -1 },
            Op::SetData(SetData { path: "/b", data: Some(b"x"), version: 3 }),
        ],
    };
    assert_eq!(
        hex(&written(|out| multi.encode(out))),
        "0000000d00ffffffff\
         000000022f61ffffffff\
         0000000500ffffffff\
         000000022f620000000178\
         00000003\
         ffffffff01ffffffff"
    );
    let reads = MultiRead { paths: vec!["/a", "/b"] };
    assert_eq!(
        hex(&written(|out| reads.encode(out))),
        "0000000400ffffffff\
         000000022f6100\
         0000000400ffffffff\
         000000022f6200\
         ffffffff01ffffffff"
    );
    let auth = Auth { scheme: "digest", credentials: b"u:p" };
    assert_eq!(
        hex(&written(|out| auth.encode(out))),
        "0000000000000006646967657374\
         00000003753a70"
    );
}

#[test]
fn a_session_that_has_expired_is_told_by_its_timeout() {
    let bytes = written(|out| {
        out.int(0);
        out.int(0);
        out.long(0);
        out.buffer(Some(&[0; 16]));
        out.bool(false);
    });
    let response = ConnectResponse::decode(&mut Decoder::new(&bytes)).unwrap();
    assert!(response.is_expired());
    let old = ConnectResponse::decode(&mut Decoder::new(&bytes[..bytes.len() - 1])).unwrap();
    assert_eq!(old, response, "servers before 3.4 leave the last byte out");
}

#[test]
fn passwords_do_not_show() {
    let secret = vec![0x73; 16];
    let request = ConnectRequest { last_zxid: 0, timeout_ms: 1, session_id: 1, password: secret };
    assert!(!format!("{request:?}").contains("115"), "{request:?}");
    let auth = Auth { scheme: "digest", credentials: b"sesame" };
    assert!(!format!("{auth:?}").contains("115"), "{auth:?}");
}

#[test]
fn a_failed_transaction_names_the_operation_that_failed() {
    let bytes = written(|out| {
        for code in [0, -103, -2] {
            out.int(-1);
            out.bool(false);
            out.int(code);
            out.int(code);
        }
        out.int(-1);
        out.bool(true);
        out.int(-1);
    });
    let outcome = Multi::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!(outcome, MultiOutcome::Failed { index: 1, code: ErrorCode::BAD_VERSION });
}

#[test]
fn a_node_that_an_older_server_created_is_as_the_answers_header_says() {
    let bytes = written(|out| {
        out.int(1);
        out.bool(false);
        out.int(0);
        out.string("/a");
        out.int(-1);
        out.bool(true);
        out.int(-1);
    });
    let outcome = Multi::decode(&mut Decoder::new(&bytes)).unwrap().at(7);
    let stat = Stat { czxid: 7, mzxid: 7, pzxid: 7, ..Stat::default() };
    assert_eq!(outcome, MultiOutcome::Done(vec![OpResult::Created("/a".into(), Some(stat))]));
}

#[test]
fn lengths_are_believed_only_as_far_as_there_is_input() {
    let huge = written(|out| out.int(i32::MAX));
    assert!(Decoder::new(&huge).strings().is_err());
    assert!(Decoder::new(&huge).buffer().is_err());
    let negative = written(|out| out.int(-2));
    assert!(Decoder::new(&negative).buffer().is_err());
    assert!(split_frame(&huge, 1 << 20).is_err(), "before any memory is taken for it");
    assert!(split_frame(&negative, 1 << 20).is_err());
    assert_eq!(oversized_frame(&huge, 1 << 20), Some(i32::MAX as usize));
    assert_eq!(oversized_frame(&negative, 1 << 20), None, "no length at all");
}

#[test]
fn a_frame_is_complete_with_its_last_byte() {
    let mut out = vec![9];
    let at = begin_frame(&mut out);
    out.extend_from_slice(b"abc");
    assert_eq!(end_frame(&mut out, at), 3);
    assert_eq!(out, b"\x09\0\0\0\x03abc");
    assert_eq!(split_frame(&out[1..], 3), Ok(Some(&b"abc"[..])));
    for end in 1..out.len() {
        assert_eq!(split_frame(&out[1..end], 3), Ok(None), "{end} bytes");
    }
}

#[test]
fn every_code_is_known_once_and_has_a_text() {
    for (position, code) in ErrorCode::KNOWN.iter().enumerate() {
        assert!(!ErrorCode::KNOWN[..position].contains(code), "{code:?} twice");
        assert_ne!(code.text(), ErrorCode(7).text(), "{code:?}");
    }
    assert_eq!(
        format!("{:?} {:?}", ErrorCode::NO_NODE, ErrorCode(-999)),
        "NO_NODE ErrorCode(-999)"
    );
}

fn stat() -> impl Strategy<Value = Stat> {
    (any::<[i64; 6]>(), any::<[i32; 5]>()).prop_map(|(long, int)| Stat {
        czxid: long[0],
        mzxid: long[1],
        ctime_ms: long[2],
        mtime_ms: long[3],
        version: int[0],
        cversion: int[1],
        aversion: int[2],
        ephemeral_owner: long[4],
        data_length: int[3],
        num_children: int[4],
        pzxid: long[5],
    })
}

fn write_stat(out: &mut Encoder<'_>, stat: &Stat) {
    out.long(stat.czxid);
    out.long(stat.mzxid);
    out.long(stat.ctime_ms);
    out.long(stat.mtime_ms);
    out.int(stat.version);
    out.int(stat.cversion);
    out.int(stat.aversion);
    out.long(stat.ephemeral_owner);
    out.int(stat.data_length);
    out.int(stat.num_children);
    out.long(stat.pzxid);
}

/// Reads any bytes as every record there is.
fn read_as_everything(bytes: &[u8]) {
    let decoder = || Decoder::new(bytes);
    let _ = ConnectResponse::decode(&mut decoder());
    let _ = ReplyHeader::decode(&mut decoder());
    let _ = Event::decode(&mut decoder());
    let _ = Create::decode(&mut decoder());
    let _ = GetData::decode(&mut decoder());
    let _ = Children::decode(&mut decoder());
    let _ = Multi::decode(&mut decoder());
    let _ = MultiRead::decode(&mut decoder());
    let _ = Ephemerals::decode(&mut decoder());
    let _ = Sync::decode(&mut decoder());
    let _ = split_frame(bytes, bytes.len());
}

proptest! {
    #[test]
    fn values_survive_the_way(
        flag: bool,
        int: i32,
        long: i64,
        data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
        texts in proptest::collection::vec(".{0,16}", 0..16),
    ) {
        let bytes = written(|out| {
            out.bool(flag);
            out.int(int);
            out.long(long);
            out.buffer(data.as_deref());
            out.strings(&texts);
        });
        let mut input = Decoder::new(&bytes);
        prop_assert_eq!(input.bool()?, flag);
        prop_assert_eq!(input.int()?, int);
        prop_assert_eq!(input.long()?, long);
        prop_assert_eq!(input.buffer()?, data.as_deref());
        prop_assert_eq!(input.strings()?, texts);
        input.finish()?;
    }

    #[test]
    fn answers_are_read_in_full_or_refused(stat in stat(), children in proptest::collection::vec("[a-z]{1,8}", 0..8)) {
        let bytes = written(|out| {
            out.strings(&children);
            write_stat(out, &stat);
        });
        prop_assert_eq!(Children::decode(&mut Decoder::new(&bytes))?, (children, stat));
        for end in 0..bytes.len() {
            prop_assert!(Children::decode(&mut Decoder::new(&bytes[..end])).is_err());
        }
    }

    #[test]
    fn transactions_survive_the_way(stats in proptest::collection::vec(stat(), 0..8)) {
        let bytes = written(|out| {
            for stat in &stats {
                out.int(5);
                out.bool(false);
                out.int(0);
                write_stat(out, stat);
            }
            out.int(-1);
            out.bool(true);
            out.int(-1);
        });
        let done = stats.into_iter().map(OpResult::Set).collect();
        prop_assert_eq!(Multi::decode(&mut Decoder::new(&bytes))?, MultiOutcome::Done(done));
    }

    #[test]
    fn reads_survive_the_way_each_with_its_own_failure(
        reads in proptest::collection::vec((stat(), proptest::option::of(any::<[u8; 3]>()), any::<bool>()), 0..8),
    ) {
        let mut expected = Vec::new();
        let bytes = written(|out| {
            for (stat, data, fails) in &reads {
                out.int(if *fails { -1 } else { 4 });
                out.bool(false);
                out.int(if *fails { -101 } else { 0 });
                if *fails {
                    out.int(-101);
                    expected.push(Err(ErrorCode::NO_NODE));
                } else {
                    out.buffer(data.as_ref().map(|data| data.as_slice()));
                    write_stat(out, stat);
                    expected.push(Ok((data.map(|data| data.to_vec()), *stat)));
                }
            }
            out.int(-1);
            out.bool(true);
            out.int(-1);
        });
        prop_assert_eq!(MultiRead::decode(&mut Decoder::new(&bytes))?, expected);
        for end in 0..bytes.len() {
            prop_assert!(MultiRead::decode(&mut Decoder::new(&bytes[..end])).is_err());
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        read_as_everything(&bytes);
    }

    /// Bytes that look right for a while: small numbers, as lengths are.
    #[test]
    fn no_plausible_bytes_make_a_decoder_panic(
        words in proptest::collection::vec(prop_oneof![-3i32..40, Just(i32::MAX), any::<i32>()], 0..128),
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        read_as_everything(&bytes);
    }
}
