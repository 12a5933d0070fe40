//! Whether a host is fit to stand in an MX record.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as WireError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};

use super::error::DnsError;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the DNS about MX hosts. Nothing is cached: a mended host is seen at the next check.
#[derive(Clone)]
pub struct MxHostResolver {
    resolver: TokioResolver,
    /// For messages.
    name: String,
}

impl MxHostResolver {
    /// Asks this name server, or those that the system is configured with.
    pub fn new(name_server: Option<SocketAddr>) -> Result<Self, DnsError> {
        let (name, builder) = match name_server {
            Some(address) => {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                let config = ResolverConfig::from_name_servers(vec![server]);
                let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
                (format!("name server {address}"), Ok(builder))
            }
            None => ("the system's name server".to_owned(), TokioResolver::builder_tokio()),
        };
        let resolver = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = TIMEOUT;
            options.attempts = 2;
            options.cache_size = 0;
            options.try_tcp_on_error = true;
            // Senders do not see our hosts file.
            options.use_hosts_file = ResolveHosts::Never;
            builder.build()
        });
        let resolver = resolver.map_err(|error| DnsError::ProviderMisconfigured {
            detail: format!("{name} cannot be used to check MX hosts: {error}"),
        })?;
        Ok(Self { resolver, name })
    }

    /// Whether the host has an address and is no alias (RFC 2181 10.3, RFC 5321 5.1).
    pub async fn check(&self, host: &str) -> Result<(), DnsError> {
        // With the dot, no search list is tried.
        let name = format!("{}.", host.trim_end_matches('.'));
        let (alias, v4, v6) = tokio::join!(
            self.ask(&name, RecordType::CNAME),
            self.ask(&name, RecordType::A),
            self.ask(&name, RecordType::AAAA),
        );
        let unfit =
            |detail: &str| DnsError::MxHostUnresolvable { host: host.to_owned(), detail: detail.to_owned() };
        let unknown = |error: NetError| DnsError::ResolverUnreachable {
            host: host.to_owned(),
            resolver: self.name.clone(),
            detail: describe(&error),
        };
        if alias.map_err(unknown)? == Answer::Records {
            return Err(unfit(
                "is an alias (CNAME), which an MX may not name (RFC 2181 10.3): name its target",
            ));
        }
        match (v4, v6) {
            (Ok(Answer::Records), _) | (_, Ok(Answer::Records)) => Ok(()),
            (Err(error), _) | (_, Err(error)) => Err(unknown(error)),
            (Ok(Answer::NoName), _) | (_, Ok(Answer::NoName)) => {
                Err(unfit("does not exist in DNS (NXDOMAIN): create its A or AAAA record"))
            }
            _ => Err(unfit("has neither an A nor an AAAA record: create one")),
        }
    }

    /// Whether an MX of the domain names this host, whoever published it.
    pub async fn names(&self, domain: &str, host: &str) -> Result<bool, DnsError> {
        match self.resolver.lookup(format!("{domain}."), RecordType::MX).await {
            Ok(lookup) => Ok(lookup.answers().iter().any(|record| match &record.data {
                RData::MX(mx) => mx.exchange.to_ascii().trim_end_matches('.').eq_ignore_ascii_case(host),
                _ => false,
            })),
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => Ok(false),
            Err(error) => Err(DnsError::ResolverUnreachable {
                host: host.to_owned(),
                resolver: self.name.clone(),
                detail: describe(&error),
            }),
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, NetError> {
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) if lookup.answers().iter().any(|record| record.record_type() == kind) => {
                Ok(Answer::Records)
            }
            Ok(_) => Ok(Answer::NoRecords),
            Err(error) if error.is_nx_domain() => Ok(Answer::NoName),
            Err(error) if error.is_no_records_found() => Ok(Answer::NoRecords),
            Err(error) => Err(error),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Records,
    NoRecords,
    /// NXDOMAIN
    NoName,
}

fn describe(error: &NetError) -> String {
    match error {
        NetError::Timeout => "does not answer".to_owned(),
        NetError::Dns(WireError::ResponseCode(code)) => format!("answers \"{code}\""),
        other => format!("cannot be asked ({other})"),
    }
}
