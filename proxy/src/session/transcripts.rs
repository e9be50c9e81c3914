//! Conversations, byte for byte.
