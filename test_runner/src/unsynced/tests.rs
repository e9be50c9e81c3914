//! Tests of forgetting disks: small Python scripts write to a disk, and the files that are left are compared.

use super::*;

/// Runs a script on a forgetting disk and loses its unsynced changes. Returns `name=contents` of each remaining file.
async fn left_by(script: &str, switch: fn(&ForgettingDisk)) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("old"), "old").unwrap();
    let disk = ForgettingDisk::new(&library().await.unwrap(), &root);
    switch(&disk);
    let environment = disk.environment().unwrap();
    let pairs: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let script = format!("import os\nroot = {:?}\nfail = root + '.fail'\n{script}", root.to_str().unwrap());
    clients::run(Path::new("python3"), &["-c", &script], &pairs).await.unwrap();
    disk.lose_unsynced().unwrap();
    let mut left: Vec<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let contents = fs::read_to_string(entry.path()).unwrap_or_default();
            format!("{}={contents}", entry.file_name().to_string_lossy())
        })
        .collect();
    left.sort();
    left
}

fn python_is_missing() -> bool {
    let missing = std::process::Command::new("python3").arg("--version").output().is_err();
    if missing {
        eprintln!("skipped: python3 is not installed");
    }
    missing
}

/// Python statements that sync the directory.
const SYNC_DIRECTORY: &str = "d = os.open(root, os.O_RDONLY); os.fsync(d)\n";

#[tokio::test]
async fn only_what_was_synced_is_left() {
    if python_is_missing() {
        return;
    }

    let open = "f = os.open(root + '/old', os.O_RDWR)\n";
    let create = "f = os.open(root + '/new', os.O_RDWR | os.O_CREAT)\n";
    let rename = "os.rename(root + '/new', root + '/old')\n";
    let cases = [
        (format!("{open}os.pwrite(f, b'NEW!', 1)"), vec!["old=old"]),
        (format!("{open}os.pwrite(f, b'NEW!', 1); os.fdatasync(f)"), vec!["old=oNEW!"]),
        (format!("{open}os.write(f, b'1'); os.fsync(f); os.write(f, b'2')"), vec!["old=1ld"]),
        (format!("{open}os.ftruncate(f, 1)"), vec!["old=old"]),
        (format!("{create}os.write(f, b'x'); os.fsync(f)"), vec!["old=old"]),
        (format!("{create}os.write(f, b'x'); os.fsync(f)\n{SYNC_DIRECTORY}"), vec!["new=x", "old=old"]),
        (format!("{create}os.write(f, b'x')\n{SYNC_DIRECTORY}"), vec!["new=", "old=old"]),
        (
            format!("{create}os.write(f, b'x'); os.fsync(f)\n{SYNC_DIRECTORY}{rename}"),
            vec!["new=x", "old=old"],
        ),
        (format!("{create}os.write(f, b'x'); os.fsync(f)\n{rename}{SYNC_DIRECTORY}"), vec!["old=x"]),
        ("os.unlink(root + '/old')".into(), vec!["old=old"]),
        (format!("os.unlink(root + '/old')\n{SYNC_DIRECTORY}"), vec![]),
        ("open(root + '/old', 'w').write('overwritten')".into(), vec!["old=old"]),
        ("os.mkdir(root + '/directory')".into(), vec!["old=old"]),
    ];

    for (script, expected) in cases {
        assert_eq!(left_by(&script, |_| {}).await, expected, "{script}");
    }
}

#[tokio::test]
async fn a_lying_sync_keeps_nothing() {
    if python_is_missing() {
        return;
    }
    let script = "f = os.open(root + '/old', os.O_RDWR); os.pwrite(f, b'NEW', 0); os.fsync(f)";
    let lie = |disk: &ForgettingDisk| fs::write(&disk.lie, "").unwrap();
    assert_eq!(left_by(script, lie).await, ["old=old"]);
}

/// A write before a failed sync is lost even when the next sync succeeds.
#[tokio::test]
async fn unsynced_disk_forgets_after_a_failed_sync() {
    if python_is_missing() {
        return;
    }
    let script = "f = os.open(root + '/old', os.O_RDWR); os.pwrite(f, b'1', 0)\n\
                  try: os.fdatasync(f)\n\
                  except OSError: os.unlink(fail)\n\
                  os.pwrite(f, b'2', 1); os.fdatasync(f)";
    let fail = |disk: &ForgettingDisk| fs::write(&disk.fail, "").unwrap();
    assert_eq!(left_by(script, fail).await, ["old=o2d"]);
}
