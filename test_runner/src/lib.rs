//! Test harness: starts the programs of this repository with a real PostgreSQL, as processes. Used by developers
//! (`./dev up`, the binary `local_cluster`), by the crash and load programs in `bin/`, and by the tests in `tests/`.
//!
//! ```text
//!   env          recorded tools, a directory per test    account      operating system user of PostgreSQL
//!   process      start, watch and end one program        wait         wait for a condition, with a deadline
//!   ports, logs, http                                    free ports, ends of log files, admin HTTP client
//!   postgres, safekeeper, walproposer, proxy             each: one program's arguments, addresses and status
//!   cluster      all of them, in the right order         clients      psql and an SQL connection (TLS: tls_client)
//!   workload     writes rows, knows the acknowledged     oracle       searches the safekeepers' disks for lost rows
//!   faulty_network, certs, unsynced                      failing relays, certificates, disks that lose unsynced data
//!   proxied_postgres                                     one PostgreSQL behind the proxy, without safekeepers
//!   holdfast     runs the program that operators type
//!   bulk         copies many bytes through the proxy     wire         records what safekeepers acknowledged
//!   cluster_under_test                                   a cluster that ends with its test
//! ```
//!
//! The only product code linked in is value types and the codecs of the wire: the product is tested from outside.

pub mod account;
pub mod bulk;
pub mod certs;
pub mod clients;
pub mod cluster;
pub mod cluster_under_test;
pub mod env;
pub mod faulty_network;
pub mod holdfast;
pub mod http;
pub mod logs;
pub mod oracle;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxied_postgres;
pub mod proxy;
pub mod safekeeper;
pub mod tls_client;
pub mod unsynced;
pub mod wait;
pub mod walproposer;
pub mod wire;
pub mod workload;
