//! The form of what is stored: a store that is written down, byte for byte. When this fails, either
//! put the old form back, or raise the layout's version, convert stores of the old one when they
//! are opened, and say so in `docs/layout.md`.

use crate::support::{Bench, put, register};
use pintle_plugin_local::store::{
    Adoption, Delete, Expectation, FORMAT, Instance, Mode, Override, Txn, TxnOp,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use std::collections::BTreeSet;
use std::fmt::Write;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("config.log");
const BYTES: [&str; 4] =
    ["config.versions", "lock.claims", "registry.instances", "registry.overrides"];

/// Bytes as text where they are letters, and as hexadecimal digits in `<>` where not.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'<' | b'>' => write!(text, "<{byte:02x}>").unwrap(),
            0x20..=0x7E => text.push(char::from(*byte)),
            _ => write!(text, "<{byte:02x}>").unwrap(),
        }
    }
    text.replace("><", "")
}

fn dump(database: &Database) -> String {
    let txn = database.begin_read().unwrap();
    let mut text = String::new();
    for row in txn.open_table(META).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        writeln!(text, "meta {} = {}", key.value(), shown(value.value())).unwrap();
    }
    for row in txn.open_table(LOG).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        writeln!(text, "config.log {:?} = {}", key.value(), shown(value.value())).unwrap();
    }
    for name in BYTES {
        let table = TableDefinition::<&[u8], &[u8]>::new(name);
        for row in txn.open_table(table).unwrap().iter().unwrap() {
            let (key, value) = row.unwrap();
            let (key, value) = (shown(key.value()), shown(value.value()));
            writeln!(text, "{name} {key} = {value}").unwrap();
        }
    }
    text
}

/// One of everything.
fn sample() -> Database {
    let mut bench = Bench::new();
    let mut typed = put("app/name", "pintle", Expectation::Anything);
    typed.content_type = Some("text/plain".into());
    bench.turn(|turn| turn.put(&typed));
    bench.clock.advance_ms(1_000);
    let ops = vec![
        TxnOp::Put { key: "app/name".into(), value: b"oar".to_vec(), content_type: None },
        TxnOp::Put { key: "app/%2E".into(), value: vec![], content_type: None },
    ];
    bench.turn(|turn| turn.txn(&Txn { conditions: vec![], held: vec![], ops }));
    let delete =
        Delete { key: "app/%2E".into(), expect: Expectation::Anything, held: None, previous: true };
    bench.turn(|turn| turn.delete(&delete));
    bench.hold("job/nightly", Mode::Exclusive);
    bench.hold("pool", Mode::Permit(3));
    bench.hold("read", Mode::Shared);
    let request = register("shop", "1");
    bench.turn(|turn| turn.register(&request, Adoption::NamedOnly));
    let fixed = Instance { zone: None, labels: vec![], ..request.instance };
    let fixed = Instance { id: "fixed".into(), enabled: false, ..fixed };
    bench.turn(|turn| turn.add(&fixed, false, "ops"));
    let word = Override { enabled: Some(true), weight: Some(0), note: "drain".into() };
    bench.turn(|turn| turn.set_override("shop", "2", Some(word)));
    bench.store.close().unwrap();
    Database::builder().create_with_backend(bench.disk.database()).unwrap()
}

#[test]
fn the_layout_is_the_one_that_is_written_down() {
    let found = dump(&sample());
    let written = include_str!("layout.golden");
    assert!(found == written, "the store holds now:\n{found}");
}

#[test]
fn the_log_is_the_one_that_is_written_down() {
    let mut bench = Bench::new();
    bench.disk.opening();
    bench.restart();
    bench.put("a", "1");
    let log = bench.disk.log().bytes();
    assert_eq!(shown(&log[..24]), "pintle log 1<0d0a1a0a0000000000040000>");
    let end = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let record = "<000000000000000200000000000000000000000000000000000000>=O<878c8d1d0802120a>a\
                  <00fffffffffffffffe1a0d0b10011801> <80d095ffbc>11<1e0803120c0000000000000001000000001a0c0a01>a\
                  <1080d095ffbc>1<1817>";
    assert_eq!(shown(&log[512..end]), record);
}

#[test]
fn every_table_is_described() {
    let description = include_str!("../../../../docs/layout.md");
    assert!(description.contains(&format!("layout version {FORMAT}")));
    let database = sample();
    let txn = database.begin_read().unwrap();
    let tables: BTreeSet<_> =
        txn.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    assert_eq!(tables.len(), BYTES.len() + 2);
    for table in tables {
        assert!(description.contains(&format!("`{table}`")), "{table} is not described");
    }
}
