#![allow(missing_docs)]
//! Crash at every write: the operator dies before each write is sent, and after each took effect but before the answer
//! came, and is started again with nothing but what is stored. The end must be the same as without (after Sieve and
//! Anvil), nothing may be created or deleted twice, and at no moment may an MX stand for a domain that Postfix refuses.
//! Bad answers and bad views (`answers.rs`): the same, while one thing goes wrong.
//!
//! Needs root, like the layer `postfix`.

#[path = "../api/apiserver.rs"]
#[allow(dead_code)]
mod apiserver;
#[path = "../postfix/pod.rs"]
#[allow(dead_code)]
mod pod;
#[path = "../postfix/revision.rs"]
#[allow(dead_code)]
mod revision;
#[path = "../dns/server.rs"]
#[allow(dead_code)]
mod server;

mod answers;
mod brake;
mod cells;
mod deadlines;
mod draining;
mod events;
mod fault;
mod forward;
mod kubelet;
mod lanes;
mod lists;
mod proxy;
mod restores;
mod scenarios;
mod traffic;
mod watch;
mod ways;
mod withdrawing;
mod world;

use vmail_operator::dns::{ApiKey, PowerDns};

/// For `server.rs`.
fn client(url: &str, key: &str) -> PowerDns {
    PowerDns::new(url, ApiKey::new(key), "localhost").expect("client")
}
