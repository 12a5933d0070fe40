//! What the DNS answers: to senders, and to the check of an MX host.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use vmail_operator::api::conditions::Reason;
use vmail_operator::dns::{Mx, MxHostResolver, MxSet};

use super::server::server;

/// Somebody who asks this server, and remembers nothing.
fn resolver(server: SocketAddr) -> TokioResolver {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    config.connections.iter_mut().for_each(|connection| connection.port = server.port());
    let resolver = TokioResolver::builder_with_config(
        ResolverConfig::from_name_servers(vec![config]),
        TokioRuntimeProvider::default(),
    );
    resolver.build().expect("resolver")
}

/// The MX records that a sender gets.
pub async fn ask_mx(server: SocketAddr, domain: &str) -> Option<MxSet> {
    let lookup = match resolver(server).lookup(format!("{domain}."), RecordType::MX).await {
        Ok(lookup) => lookup,
        Err(error) if error.is_no_records_found() => return None,
        Err(error) => panic!("{domain}: {error}"),
    };
    let mut found = MxSet { ttl: lookup.answers()[0].ttl, records: [].into() };
    for record in lookup.answers() {
        if let RData::MX(mx) = &record.data {
            found.records.insert(Mx::new(mx.preference, &mx.exchange.to_string()));
        }
    }
    Some(found)
}

/// The address that a name has.
pub async fn ask_a(server: SocketAddr, name: &str) -> Option<String> {
    match resolver(server).lookup(format!("{name}."), RecordType::A).await {
        Ok(lookup) => lookup.answers().first().map(|record| record.data.to_string()),
        Err(error) if error.is_no_records_found() => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

#[tokio::test]
async fn a_host_with_an_address_is_fit() {
    let server = server();
    server.zone("fit.test", "Native").await;
    server.put("fit.test", "four.fit.test", "A", 60, &["192.0.2.1"]).await;
    server.put("fit.test", "six.fit.test", "AAAA", 60, &["2001:db8::1"]).await;
    let resolver = MxHostResolver::new(Some(server.dns)).expect("resolver");
    for host in ["four.fit.test", "six.fit.test", "four.fit.test."] {
        resolver.check(host).await.expect(host);
    }
}

#[tokio::test]
async fn a_host_that_senders_cannot_use_is_unfit() {
    let server = server();
    server.zone("unfit.test", "Native").await;
    server.put("unfit.test", "real.unfit.test", "A", 60, &["192.0.2.1"]).await;
    server.put("unfit.test", "alias.unfit.test", "CNAME", 60, &["real.unfit.test."]).await;
    server.put("unfit.test", "dangling.unfit.test", "CNAME", 60, &["missing.unfit.test."]).await;
    server.put("unfit.test", "text.unfit.test", "TXT", 60, &["\"no address\""]).await;
    let resolver = MxHostResolver::new(Some(server.dns)).expect("resolver");
    for (host, says) in [
        ("alias.unfit.test", "CNAME"),
        ("dangling.unfit.test", "CNAME"),
        ("missing.unfit.test", "NXDOMAIN"),
        ("text.unfit.test", "neither an A nor an AAAA"),
    ] {
        let error = resolver.check(host).await.expect_err(host);
        assert_eq!(error.reason(), Reason::MXHostUnresolvable, "{error}");
        assert!(error.to_string().contains(host) && error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn an_mx_of_somebody_else_is_seen() {
    let server = server();
    server.zone("elsewhere.test", "Native").await;
    let resolver = MxHostResolver::new(Some(server.dns)).expect("resolver");
    let names = async || resolver.names("elsewhere.test", "mail.us.test").await.expect("an answer");
    assert!(!names().await, "there is no MX");
    server.put("elsewhere.test", "elsewhere.test", "MX", 60, &["10 mx.them.test.", "20 MAIL.us.test."]).await;
    assert!(names().await);
    server.put("elsewhere.test", "elsewhere.test", "MX", 60, &["10 mx.them.test."]).await;
    assert!(!names().await);
    assert!(!resolver.names("missing.elsewhere.test", "mail.us.test").await.expect("an answer"));
    let error = resolver.names("host.nozone.example", "mail.us.test").await.expect_err("refused");
    assert_eq!(error.reason(), Reason::ResolverUnreachable, "{error}");
}

#[tokio::test]
async fn a_mended_host_is_seen_at_once() {
    let server = server();
    server.zone("mend.test", "Native").await;
    let resolver = MxHostResolver::new(Some(server.dns)).expect("resolver");
    resolver.check("host.mend.test").await.expect_err("missing");
    server.put("mend.test", "host.mend.test", "A", 60, &["192.0.2.1"]).await;
    resolver.check("host.mend.test").await.expect("mended");
    server.put("mend.test", "host.mend.test", "A", 60, &[]).await;
    resolver.check("host.mend.test").await.expect_err("gone again");
}

#[tokio::test]
async fn trouble_with_the_resolver_is_told_apart() {
    let server = server();
    // PowerDNS refuses to answer for names that it has no zone for.
    let refusing = MxHostResolver::new(Some(server.dns)).expect("resolver");
    let error = refusing.check("host.nozone.example").await.expect_err("refused");
    assert_eq!(error.reason(), Reason::ResolverUnreachable, "{error}");

    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("its address");
    let begun = Instant::now();
    let error = MxHostResolver::new(Some(address))
        .expect("resolver")
        .check("host.silent.test")
        .await
        .expect_err("silence");
    assert!(
        error.reason() == Reason::ResolverUnreachable && error.to_string().contains(&address.to_string()),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
