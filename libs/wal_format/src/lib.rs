//! wal_format
