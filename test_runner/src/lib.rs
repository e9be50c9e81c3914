//! Brings up the programs of this repository with a real PostgreSQL, as processes: for a developer to play with
//! (`./dev up`, the binary `local_cluster`), and for the tests in `tests/`.
//!
//! ```text
//!   env        where tools and state are; a directory per test     account  the user that PostgreSQL runs as
//!   process    start, watch and end one program          wait    for a condition, with a deadline
//!   postgres, safekeeper, walproposer , proxy            each: one program's arguments, addresses and answers
//!   cluster    all of them, in the right order           clients psql and an SQL connection (over TLS: tls_client)
//!   workload   a writer that knows what was acknowledged oracle  what the safekeepers' disks hold
//!   faulty_network, certs, unsynced                      relays that fail, certificates, disks that forget
//!   front                                                PostgreSQL with nothing but the proxy before it
//!   bulk                                                 many bytes into a table and out of it again
//!   wire                                                 what safekeepers told the walproposer, and so owe
//! ```
//!
//! Nothing of the product is linked in except value types and the codecs of the wire: what is tested is tested from
//! outside.

pub mod account;
pub mod bulk;
pub mod certs;
pub mod clients;
pub mod cluster;
pub mod cluster_under_test;
pub mod env;
pub mod faulty_network;
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
