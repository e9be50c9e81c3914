//! Directories of timelines: where they are, which exist, and the markers beside them.
//!
//! Each timeline has an empty file `<timeline>.promised` beside its directory, made before the timeline is served the
//! first time. A marker without a directory means that the safekeeper promised something and no longer knows what, so the
//! timeline must not be created anew. Called by the registry.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use wal_types::{TenantId, TenantTimelineId, TimelineId};

const MARKER_SUFFIX: &str = ".promised";

/// `<tenant>/<timeline>` in the data directory.
pub(super) fn path_of(data_dir: &Path, id: TenantTimelineId) -> PathBuf {
    data_dir.join(id.tenant.to_string()).join(id.timeline.to_string())
}

/// The timelines that have a directory or a marker, in order. Entries with other names are ignored.
pub(super) fn scan(data_dir: &Path) -> io::Result<Vec<TenantTimelineId>> {
    let mut found = BTreeSet::new();
    for tenant in names(data_dir)? {
        let Ok(tenant_id) = tenant.parse::<TenantId>() else { continue };
        if !data_dir.join(&tenant).is_dir() {
            continue;
        }
        for name in names(&data_dir.join(&tenant))? {
            if let Ok(timeline) = name.strip_suffix(MARKER_SUFFIX).unwrap_or(&name).parse::<TimelineId>() {
                found.insert(TenantTimelineId { tenant: tenant_id, timeline });
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// Writes the marker beside a timeline's directory, durably. Does nothing when the marker is there.
pub(super) fn write_marker(directory: &Path) -> io::Result<()> {
    let mut marker = directory.as_os_str().to_owned();
    marker.push(MARKER_SUFFIX);
    if Path::new(&marker).try_exists()? {
        return Ok(());
    }

    File::create(&marker)?.sync_all()?;
    let parent = directory.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(parent)?.sync_all()
}
