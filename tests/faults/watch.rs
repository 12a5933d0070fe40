//! At every moment: whoever sees an MX of ours finds a Postfix that accepts the domain. One that does not answer is
//! tried again by every sender: a new `main.cf` is proved behind a closed port. It may not last.

use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::pod::Pod;
use crate::world::HOST;

/// Senders wait for longer, but nothing that is done on purpose takes this long.
const SILENT_AT_MOST: Duration = Duration::from_secs(15);

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

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
            let resolver = resolver(dns);
            let mut silent: Option<Instant> = None;
            loop {
                for domain in domains {
                    if !names_us(&resolver, domain).await {
                        continue;
                    }
                    let (asked, pod) = (format!("postmaster@{domain}"), pod.clone());
                    let reply = tokio::task::spawn_blocking(move || rcpt(&pod, &asked)).await;
                    let reply = reply.expect("no panic").unwrap_or_default();
                    silent = reply.is_empty().then(|| silent.unwrap_or_else(Instant::now));
                    let answered = silent.is_none_or(|since| since.elapsed() > SILENT_AT_MOST);
                    // It may have gone in between.
                    let violated = answered && !reply.starts_with("250") && names_us(&resolver, domain).await;
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

/// Somebody who asks this server, and remembers nothing.
pub fn resolver(dns: std::net::SocketAddr) -> TokioResolver {
    let mut config = NameServerConfig::udp_and_tcp(dns.ip());
    config.connections.iter_mut().for_each(|connection| connection.port = dns.port());
    let config = ResolverConfig::from_name_servers(vec![config]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().cache_size = 0;
    builder.build().expect("a resolver")
}

/// What Postfix says of a recipient, or of a line before that.
pub fn rcpt(pod: &Pod, address: &str) -> std::io::Result<String> {
    let mut stream = BufReader::new(pod.connect(25)?);
    stream.get_ref().set_read_timeout(Some(ANSWER_WITHIN))?;
    let recipient = format!("RCPT TO:<{address}>\r\n");
    let lines = ["", "EHLO client.example\r\n", "MAIL FROM:<sender@elsewhere.example>\r\n", &recipient];
    let mut reply = String::new();
    for line in lines {
        stream.get_mut().write_all(line.as_bytes())?;
        reply.clear();
        while reply.is_empty() || reply.get(3..4) == Some("-") {
            reply.clear();
            if stream.read_line(&mut reply)? == 0 {
                return Ok(String::new());
            }
        }
        if !reply.starts_with('2') {
            break;
        }
    }
    Ok(reply.trim_end().to_owned())
}

pub async fn names_us(resolver: &TokioResolver, domain: &str) -> bool {
    let Ok(lookup) = resolver.lookup(format!("{domain}."), RecordType::MX).await else { return false };
    lookup.answers().iter().any(|record| match &record.data {
        RData::MX(mx) => mx.exchange.to_ascii().trim_end_matches('.') == HOST,
        _ => false,
    })
}
