//! Data directories: new, in use, foreign, damaged.

use super::id_file::render;
use super::*;

fn open(path: &Path, node: u64) -> Result<DataDir, String> {
    DataDir::open(path, NodeId(node)).map_err(|error| error.to_string())
}

fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read(file).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn open_creates_identity_that_stays() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b");
    let first = open(&path, 3).unwrap().identity();
    assert_eq!(first.node, NodeId(3));
    assert_eq!(open(&path, 3).unwrap().identity(), first);
    let other = open(&root.path().join("c"), 3).unwrap().identity();
    assert_ne!(other.disk, first.disk);
}

#[test]
fn open_refuses_second_process() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path(), 1).unwrap();
    let error = open(root.path(), 1).unwrap_err();
    assert!(error.contains("in use by another running safekeeper"), "{error}");
    drop(first);
    open(root.path(), 1).unwrap();
}

/// A start that was killed before the id file had its name leaves a directory that counts as unused.
#[test]
fn open_ignores_incomplete_id_file() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(ID_FILE_TEMPORARY), "format 1\nno").unwrap();
    fs::write(root.path().join(LOCK_FILE), "").unwrap();
    assert_eq!(open(root.path(), 5).unwrap().identity().node, NodeId(5));
}

#[test]
fn open_leaves_misfitting_directory_unchanged() {
    let good = render(Identity { node: NodeId(1), disk: [7; 16] });
    for (content, part) in [
        (good.replace("node 1", "node 2").as_str(), "the checksum is wrong"),
        (&good[..good.len() - 1], "the checksum is wrong"),
        (&good[..20], "the file has no checksum"),
        ("", "the file does not begin with a format"),
        ("format 2\nwhatever", "has format 2, this safekeeper reads format 1"),
        (render(Identity { node: NodeId(2), disk: [7; 16] }).as_str(), "belongs to safekeeper 2, not 1"),
    ] {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(ID_FILE), content).unwrap();
        fs::write(root.path().join(LOCK_FILE), "").unwrap();
        let before = files(root.path());
        let error = open(root.path(), 1).unwrap_err();
        assert!(error.contains(part), "{content:?}: {error}");
        assert_eq!(files(root.path()), before);
    }
}

#[test]
fn open_refuses_foreign_directory() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("thesis.tex"), "x").unwrap();
    let error = open(root.path(), 1).unwrap_err();
    assert!(error.contains("not a safekeeper's data directory"), "{error}");
    assert_eq!(files(root.path()).len(), 1);
}
