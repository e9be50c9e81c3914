//! safekeeper
