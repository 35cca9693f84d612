//! The log of what turns changed, written ahead of the database.
//!
//! A commit of the database writes a page for every level of every tree that it touches. Rows that
//! follow those of the turn before in a file of their own take one page, so that is where a turn
//! becomes durable. The database becomes durable at *checkpoints*: when the log has no room for a
//! turn, and when the store is closed. Whoever opens a store repeats in the database what the log
//! holds. `docs/layout.md` describes the file.
//!
//! A checkpoint begins a new generation of records, and the database says which one is current:
//! records of another are of no use any more, or of another life of the store. A generation is a
//! number that nobody can foresee, since values that users wrote lie between the records.

use super::error::StoreError;
use super::record::Row;
use super::{Result, Storage};
use prost::Message;
use redb::StorageBackend;

/// What a log begins with; then its length as eight bytes, most significant first.
const MAGIC: &[u8; 16] = b"pintle log 1\r\n\x1A\n";
/// A record begins on a sector of its own: no write changes a sector that holds what is durable.
/// What is around it on the same page the system may write again, with the bytes that are there.
const SECTOR_BYTES: usize = 512;
/// Generation, sequence, length of the rows, and the checksum of all of these and the rows.
const HEAD_BYTES: usize = 32;
/// Where the checksum stands in the head.
const CHECKSUM_AT: usize = HEAD_BYTES - 4;

/// The log, at its end.
#[derive(Debug)]
pub(crate) struct Wal {
    file: Box<dyn StorageBackend>,
    /// Length of the file.
    length: usize,
    generation: u128,
    /// Number of the next record of this generation.
    sequence: u64,
    /// Where the next record goes.
    end: usize,
    /// The record that is being written; kept for its room.
    record: Vec<u8>,
}

impl Wal {
    /// Opens the log, and answers with it the rows that a database of generation `current` may
    /// lack, in order. Once the database has them and names `next`, the log goes on from its start.
    ///
    /// A database that was `closed` in good order lacks nothing: its log may be missing.
    pub(crate) fn open(
        storage: &dyn Storage,
        length: usize,
        closed: bool,
        current: u128,
        next: u128,
    ) -> Result<(Self, Vec<Row>)> {
        let found = match storage.open_log()? {
            Some(file) => check(storage, file.as_ref(), closed)?.map(|length| (file, length)),
            None if closed => None,
            None => return Err(unusable(storage, "the log of the store is missing".into())),
        };
        let (file, length, rows) = match found {
            Some((file, found)) if !closed => {
                let mut bytes = vec![0; found];
                file.read(0, &mut bytes).map_err(failed_to_read)?;
                (file, found, rows(storage, &bytes, current)?)
            }
            Some((file, found)) if found == length => (file, length, vec![]),
            _ => (storage.create_log(&empty(length))?, length, vec![]),
        };
        let record = Vec::new();
        let wal = Self { file, length, generation: next, sequence: 0, end: SECTOR_BYTES, record };
        Ok((wal, rows))
    }

    /// Most bytes of rows that the next record can hold.
    pub(crate) fn room(&self) -> usize {
        self.length.saturating_sub(self.end + HEAD_BYTES)
    }

    /// Makes rows durable that fit into [`Self::room`].
    ///
    /// # Errors
    ///
    /// When it fails nobody knows whether they are; the log has to be opened again then.
    pub(crate) fn append(&mut self, rows: &[u8]) -> Result<()> {
        debug_assert!(rows.len() <= self.room());
        let length = rows.len() as u32;
        let record = &mut self.record;
        record.clear();
        record.extend_from_slice(&self.generation.to_be_bytes());
        record.extend_from_slice(&self.sequence.to_be_bytes());
        record.extend_from_slice(&length.to_be_bytes());
        let checksum = checksum(record, rows);
        record.extend_from_slice(&checksum.to_be_bytes());
        record.extend_from_slice(rows);
        record.resize(record.len().next_multiple_of(SECTOR_BYTES).min(self.length - self.end), 0);
        let written = self.file.write(self.end as u64, record);
        written.and_then(|()| self.file.sync_data()).map_err(|error| StoreError::Storage {
            doing: "writing to the log of the store",
            maybe_durable: true,
            source: Box::new(redb::Error::Io(error)),
        })?;
        self.sequence += 1;
        self.end += record.len();
        Ok(())
    }

    /// Takes no more records until the next checkpoint.
    pub(crate) fn close_until_checkpoint(&mut self) {
        self.end = self.length;
    }

    /// The generation that the database has to name at the next checkpoint.
    pub(crate) fn next_generation(&self) -> u128 {
        self.generation.wrapping_add(1)
    }

    /// Begins from the start of the file: the database has all rows, and names the next generation.
    pub(crate) fn begin_next(&mut self) {
        self.generation = self.next_generation();
        self.sequence = 0;
        self.end = SECTOR_BYTES;
    }
}

/// What a log without records holds.
fn empty(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(length as u64).to_be_bytes());
    bytes.resize(length, 0);
    bytes
}

/// The length of a file that says it is a log. None for one to be made anew: an empty one, with
/// which an operator says that whatever the log held is lost, and a damaged one that is not needed.
fn check(storage: &dyn Storage, file: &dyn StorageBackend, closed: bool) -> Result<Option<usize>> {
    let length = usize::try_from(file.len().map_err(failed_to_read)?).unwrap_or(usize::MAX);
    if length == 0 {
        return Ok(None);
    }
    let mut head = [0; MAGIC.len() + 8];
    if length >= head.len() {
        file.read(0, &mut head).map_err(failed_to_read)?;
    }
    let Some(claimed) = head.strip_prefix(MAGIC).and_then(|length| length.try_into().ok()) else {
        return Err(StoreError::Unusable {
            path: storage.log_path(),
            reason: "this is no log of Pintle".into(),
            remedy: "move the file away, and put back the log of the store unless it was stopped",
        });
    };
    let claimed = u64::from_be_bytes(claimed);
    if claimed != length as u64 || length < 2 * SECTOR_BYTES {
        if closed {
            return Ok(None);
        }
        let reason = format!("the log is damaged: it has {length} bytes and says {claimed}");
        return Err(unusable(storage, reason));
    }
    Ok(Some(length))
}

fn failed_to_read(error: std::io::Error) -> StoreError {
    StoreError::storage("reading the log of the store", redb::Error::Io(error))
}

/// The rows of a generation.
fn rows(storage: &dyn Storage, bytes: &[u8], generation: u128) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (mut at, mut sequence) = (SECTOR_BYTES, 0);
    while let Some(mut record) = record_at(bytes, at, generation, sequence) {
        at += (HEAD_BYTES + record.len()).next_multiple_of(SECTOR_BYTES);
        sequence += 1;
        while !record.is_empty() {
            rows.push(Row::decode_length_delimited(&mut record).map_err(|error| {
                unusable(storage, format!("the log is damaged: a row does not decode ({error})"))
            })?);
        }
    }
    // What ends here may be a write that was cut off, but only if it was the last.
    for later in (at..bytes.len()).step_by(SECTOR_BYTES) {
        let Some(head) = head_at(bytes, later) else { continue };
        if head.generation == generation && head.sequence > sequence {
            let reason = format!("the log is damaged at byte {at}: there are later records");
            return Err(unusable(storage, reason));
        }
        if head.generation > generation && head.generation >> 64 == generation >> 64 {
            let reason = "the log continues a later state of the database than this one";
            return Err(unusable(storage, reason.into()));
        }
    }
    Ok(rows)
}

struct Head {
    generation: u128,
    sequence: u64,
    length: usize,
    checksum: u32,
}

fn head_at(bytes: &[u8], at: usize) -> Option<Head> {
    let (generation, rest) = bytes.get(at..at + HEAD_BYTES)?.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (length, checksum) = rest.split_first_chunk()?;
    Some(Head {
        generation: u128::from_be_bytes(*generation),
        sequence: u64::from_be_bytes(*sequence),
        length: u32::from_be_bytes(*length) as usize,
        checksum: u32::from_be_bytes(checksum.try_into().ok()?),
    })
}

/// The rows of a record, if it stands here as a whole.
fn record_at(bytes: &[u8], at: usize, generation: u128, sequence: u64) -> Option<&[u8]> {
    let head = head_at(bytes, at)?;
    let checked = bytes.get(at..at + CHECKSUM_AT)?;
    let rows = bytes.get(at + HEAD_BYTES..)?.get(..head.length)?;
    let is_next = head.generation == generation && head.sequence == sequence;
    (is_next && head.checksum == checksum(checked, rows)).then_some(rows)
}

fn checksum(head: &[u8], rows: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(rows);
    hasher.finalize()
}

fn unusable(storage: &dyn Storage, reason: String) -> StoreError {
    StoreError::Unusable {
        path: storage.log_path(),
        reason,
        remedy: "put back both files of one copy, or put an empty file here to go on without the \
                 last changes",
    }
}
