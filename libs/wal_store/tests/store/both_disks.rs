//! The macro `on_both_disks`: runs one check on the model disk and on a real one.

/// For each `name => check`: a test `name` that calls `check` with a [`wal_store::ModelDisk`] and a
/// [`wal_store::RealDisk`].
macro_rules! on_both_disks {
    ($($name:ident => $check:ident;)*) => {$(
        #[test]
        fn $name() {
            $check(wal_store::ModelDisk::new());
            let directory = tempfile::tempdir().unwrap();
            $check(wal_store::RealDisk::open(directory.path()).unwrap());
        }
    )*};
}
pub(crate) use on_both_disks;
