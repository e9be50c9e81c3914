//! wal_store
