//! WAL files of `pg_receivewal`: reads the bytes of all segments in a directory.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use wal_types::Lsn;

/// All WAL up to `upto` in a directory of `pg_receivewal`.
pub(super) fn read_wal(directory: &Path, upto: Lsn) -> Result<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let bytes = fs::read(&file)?;
        let start = segment_start(&file, bytes.len() as u64)?;
        let wanted = usize::try_from(upto.bytes_since(start))?.min(bytes.len());
        all.extend_from_slice(&bytes[..wanted]);
    }
    Ok(all)
}

/// LSN of the first byte of a segment, from its file name: timeline, then high and low part of the segment number
/// (PostgreSQL documentation, "WAL Internals").
fn segment_start(file: &Path, segment_bytes: u64) -> Result<Lsn> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let part = |range: std::ops::Range<usize>| {
        let digits = name.get(range).with_context(|| format!("{name} is not a segment"))?;
        Ok::<_, anyhow::Error>(u64::from_str_radix(digits, 16)?)
    };
    Ok(Lsn((part(8..16)? << 32) + part(16..24)? * segment_bytes))
}
