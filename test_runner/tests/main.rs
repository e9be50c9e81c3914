//! The cluster from outside: one file a story.

mod primary;
