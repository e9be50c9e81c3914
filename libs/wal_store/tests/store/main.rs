//! The store from outside: a replica on a real disk, and on one that fails.

mod basics;
mod common;
mod crash;
mod world;
