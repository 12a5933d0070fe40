//! The DNS half against a real PowerDNS, and against parties that misbehave.
#![allow(missing_docs)]

mod foreign;
mod front;
mod provider;
mod publishing;
mod resolving;
mod rows;
mod secondary;
mod server;
mod signed;
mod withdrawing;
mod zones;

use vmail_operator::dns::{ApiKey, DnsError, Mx, MxSet, PowerDns, PublishRequest, WithdrawRequest};

const OWNER: &str = "mail.us.test";

fn mx(ttl: u32, hosts: &[&str]) -> MxSet {
    MxSet { ttl, records: hosts.iter().map(|host| Mx::new(10, host)).collect() }
}

fn wish(domain: &str) -> PublishRequest {
    PublishRequest {
        domain: domain.to_owned(),
        zone: None,
        mx: mx(3600, &["mail.us.test"]),
        owner_id: OWNER.to_owned(),
        instance: "uid-1".to_owned(),
        previously_published: false,
        adopt: false,
    }
}

fn farewell(domain: &str) -> WithdrawRequest {
    WithdrawRequest {
        domain: domain.to_owned(),
        zone: None,
        owner_id: OWNER.to_owned(),
        instance: "uid-1".to_owned(),
    }
}

/// Whether all is to be tried, as `make faults` does.
fn all_faults() -> bool {
    std::env::var("VMAIL_FAULTS").is_ok_and(|faults| faults == "all")
}

fn go() -> Result<(), DnsError> {
    Ok(())
}

fn client(url: &str, key: &str) -> PowerDns {
    // Every test of this process wants it; only the first can have it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    PowerDns::new(url, ApiKey::new(key), "localhost").expect("client")
}
