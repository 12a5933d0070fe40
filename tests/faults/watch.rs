//! At every moment: whoever sees an MX of ours finds a Postfix that accepts the domain.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::pod::Pod;
use crate::world::HOST;

/// Looks at DNS and Postfix until it is dropped.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How often an MX stood there and Postfix was asked.
    pub asked: usize,
    /// Answers that a sender must not get.
    pub violations: Vec<String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    pub fn start(dns: std::net::SocketAddr, pod: Arc<Pod>, domains: &'static [&'static str]) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let to = seen.clone();
        let task = tokio::spawn(async move {
            let mut config = NameServerConfig::udp_and_tcp(dns.ip());
            config.connections.iter_mut().for_each(|connection| connection.port = dns.port());
            let config = ResolverConfig::from_name_servers(vec![config]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().cache_size = 0;
            let resolver = builder.build().expect("a resolver");
            loop {
                for domain in domains {
                    if !names_us(&resolver, domain).await {
                        continue;
                    }
                    let (asked, pod) = (format!("postmaster@{domain}"), pod.clone());
                    let Ok(reply) = tokio::task::spawn_blocking(move || pod.rcpt(&asked)).await else {
                        return;
                    };
                    // It may have gone in between.
                    let violated = !reply.starts_with("250") && names_us(&resolver, domain).await;
                    let mut seen = to.lock().expect("not poisoned");
                    seen.asked += 1;
                    if violated {
                        seen.violations.push(format!("an MX of {domain}, and {reply}"));
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { seen, task }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("not poisoned").clone()
    }
}

async fn names_us(resolver: &TokioResolver, domain: &str) -> bool {
    let Ok(lookup) = resolver.lookup(format!("{domain}."), RecordType::MX).await else { return false };
    lookup.answers().iter().any(|record| match &record.data {
        RData::MX(mx) => mx.exchange.to_ascii().trim_end_matches('.') == HOST,
        _ => false,
    })
}
