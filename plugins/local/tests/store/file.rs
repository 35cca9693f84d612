//! Files that are damaged, somebody else's, or being made.

use crate::support::{ManualClock, put};
use pintle_plugin_local::store::{
    Directory, Expectation, FILE_NAME, LOG_FILE_NAME, Options, Result, Seeds, Store, StoreError,
};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn open(directory: &Path) -> Result<Store> {
    let storage = Box::new(Directory::new(directory));
    Store::open(storage, Options::default(), Arc::new(ManualClock::default()), seeds(7))
}

fn seeds(number: u64) -> Seeds {
    Seeds { identity: u128::from(number), generation: number }
}

fn write(store: &mut Store, value: &str) {
    store.turn(|turn| turn.put(&put("a", value, Expectation::Anything))).unwrap();
}

/// The refusal's text; the file must be as it was.
fn refusal(directory: &Path) -> String {
    let file = directory.join(FILE_NAME);
    let before = fs::read(&file).unwrap();
    let Err(error) = open(directory) else { panic!("the file was accepted") };
    assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
    assert_eq!(fs::read(&file).unwrap(), before, "the file was changed");
    let text = error.to_string();
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    text
}

#[test]
fn a_store_in_a_directory_is_there_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    write(&mut store, "1");
    let epoch = store.epoch();
    store.close().unwrap();
    drop(store);
    let store = open(directory.path()).unwrap();
    assert_eq!(store.entry("a", None).unwrap().unwrap().value, b"1");
    assert_eq!(store.epoch(), epoch);
    assert_eq!(store.incarnation(), 2);
}

#[test]
fn an_operator_can_begin_a_new_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let epoch = open(directory.path()).unwrap().epoch();
    let options = Options { epoch_generation: 2, ..Options::default() };
    let storage = Box::new(Directory::new(directory.path()));
    let store = Store::open(storage, options, Arc::new(ManualClock::default()), seeds(8)).unwrap();
    assert_eq!(store.epoch(), format!("{epoch}-2"));
}

#[test]
fn a_file_of_somebody_else_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE_NAME), "some notes of mine").unwrap();
    assert!(refusal(directory.path()).contains("move the file away"));
}

#[test]
fn an_empty_file_is_not_mistaken_for_a_new_store() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE_NAME), "").unwrap();
    assert!(refusal(directory.path()).contains("the file is empty"));
}

#[test]
fn a_database_of_somebody_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let database = redb::Database::create(directory.path().join(FILE_NAME)).unwrap();
    let table = redb::TableDefinition::<u64, u64>::new("theirs");
    let txn = database.begin_write().unwrap();
    txn.open_table(table).unwrap().insert(1, 2).unwrap();
    txn.commit().unwrap();
    database.close().unwrap();
    let Err(error) = open(directory.path()) else { panic!("the file was accepted") };
    assert!(error.to_string().contains("not one of Pintle"), "{error}");
}

#[test]
fn a_store_of_a_later_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let database = redb::Database::create(directory.path().join(FILE_NAME)).unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let txn = database.begin_write().unwrap();
    txn.open_table(table).unwrap().insert("format", 9u64.to_be_bytes().as_slice()).unwrap();
    txn.commit().unwrap();
    database.close().unwrap();
    let Err(error) = open(directory.path()) else { panic!("the file was accepted") };
    assert!(error.to_string().contains("layout 9"), "{error}");
}

#[test]
fn a_damaged_file_is_refused_wherever_the_damage_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    for round in 0..50 {
        write(&mut store, &format!("{round}").repeat(200));
    }
    store.close().unwrap();
    drop(store);
    let file = directory.path().join(FILE_NAME);
    let sound = fs::read(&file).unwrap();
    let mut refused = 0;
    for offset in (0..sound.len()).step_by(997) {
        let mut damaged = sound.clone();
        damaged[offset] ^= 0x5A;
        fs::write(&file, &damaged).unwrap();
        // Damage to a page that nothing uses is none; all other must be noticed.
        match open(directory.path()) {
            Ok(store) => {
                let entry = store.entry("a", None).unwrap().unwrap();
                assert_eq!(entry.value, "49".repeat(200).as_bytes(), "damage at {offset}");
            }
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(text.contains(file.to_str().unwrap()), "damage at {offset}: {text}");
                assert!(fs::read(&file).unwrap() == damaged, "damage at {offset}: overwritten");
            }
        }
    }
    assert!(refused > 0, "no damage was noticed: the test is too weak");
}

#[test]
fn a_file_cut_short_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    for round in 0..50 {
        write(&mut store, &format!("{round}").repeat(200));
    }
    store.close().unwrap();
    drop(store);
    let file = directory.path().join(FILE_NAME);
    let sound = fs::read(&file).unwrap();
    for length in [9, 320, 4_096, sound.len() / 2, sound.len() - 1] {
        fs::write(&file, &sound[..length]).unwrap();
        let Err(error) = open(directory.path()) else { panic!("{length} bytes were accepted") };
        assert!(error.to_string().contains(file.to_str().unwrap()), "{length}: {error}");
    }
}

#[test]
fn a_store_whose_making_was_interrupted_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("pintle.new"), "half a database").unwrap();
    let mut store = open(directory.path()).unwrap();
    write(&mut store, "1");
    assert!(!directory.path().join("pintle.new").exists());
}

#[test]
fn an_empty_file_in_the_place_of_a_lost_log_gives_it_up() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join(LOG_FILE_NAME);
    let mut store = open(directory.path()).unwrap();
    write(&mut store, "1");
    drop(store);
    fs::remove_file(&log).unwrap();
    let Err(error) = open(directory.path()) else { panic!("it was opened without its log") };
    assert!(error.to_string().contains(log.to_str().unwrap()), "{error}");
    fs::write(&log, "").unwrap();
    let mut store = open(directory.path()).unwrap();
    write(&mut store, "2");
    drop(store);
    let store = open(directory.path()).unwrap();
    assert_eq!(store.entry("a", None).unwrap().unwrap().value, b"2");
}

#[test]
fn a_log_whose_making_was_interrupted_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join("pintle.wal.new");
    fs::write(&unfinished, "half a log").unwrap();
    let mut store = open(directory.path()).unwrap();
    write(&mut store, "1");
    assert!(!unfinished.exists());
}

/// Turns what a store left behind into what the release before would have.
fn downgrade(directory: &Path) {
    fs::remove_file(directory.join(LOG_FILE_NAME)).unwrap();
    let database = redb::Database::create(directory.join(FILE_NAME)).unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let txn = database.begin_write().unwrap();
    {
        let mut meta = txn.open_table(table).unwrap();
        meta.insert("format", 1u64.to_be_bytes().as_slice()).unwrap();
        meta.remove("generation").unwrap();
        meta.remove("closed").unwrap();
    }
    txn.commit().unwrap();
    database.close().unwrap();
}

#[test]
fn a_store_of_the_layout_without_a_log_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    write(&mut store, "1");
    store.close().unwrap();
    drop(store);
    downgrade(directory.path());
    let mut store = open(directory.path()).unwrap();
    assert_eq!(store.entry("a", None).unwrap().unwrap().value, b"1");
    write(&mut store, "2");
    drop(store);
    // From now on it cannot do without its log.
    fs::remove_file(directory.path().join(LOG_FILE_NAME)).unwrap();
    assert!(open(directory.path()).is_err());
}
