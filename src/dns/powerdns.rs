//! The PowerDNS HTTP API, as far as MX records need it (works with 4.7 and later).

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use super::error::DnsError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most of a server's words that goes into a message.
const SENTENCE_MAX: usize = 300;

/// The key to the API. It goes into a request header and nowhere else.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key; white space around it (a file's last newline) does not count.
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

/// A zone, without its records.
#[derive(Clone, Debug, Deserialize)]
pub struct Zone {
    /// With a trailing dot.
    name: String,
    kind: String,
    /// Of the SOA record.
    pub serial: u64,
    #[serde(default)]
    dnssec: bool,
    #[serde(default)]
    api_rectify: Option<bool>,
}

impl Zone {
    /// The name without the trailing dot.
    pub fn name(&self) -> &str {
        self.name.trim_end_matches('.')
    }

    /// Native, Primary, Secondary and the like, as the server calls it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether this server is where the zone's records are made.
    pub fn is_writable(&self) -> bool {
        self.is_native() || ["Master", "Primary"].iter().any(|kind| self.kind.eq_ignore_ascii_case(kind))
    }

    /// Whether no secondary follows by zone transfer.
    pub fn is_native(&self) -> bool {
        self.kind.eq_ignore_ascii_case("Native")
    }

    /// Whether a change by the API leaves the names out of order that signed denials are made from.
    pub fn is_left_unrectified(&self) -> bool {
        self.dnssec && self.api_rectify == Some(false)
    }
}

/// All records of one type at one name.
#[derive(Clone, Debug, Deserialize)]
pub struct RrSet {
    name: String,
    /// Such as `MX`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Time to live in seconds.
    #[serde(default)]
    pub ttl: u32,
    /// What stands there; never empty.
    #[serde(default)]
    pub records: Vec<Record>,
}

/// One record of an [`RrSet`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// In PowerDNS's presentation form.
    pub content: String,
    /// Whether it is there without being served.
    #[serde(default)]
    pub disabled: bool,
}

/// What a search found.
#[derive(Deserialize)]
struct Hit {
    object_type: String,
    #[serde(default)]
    zone: String,
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    disabled: bool,
}

/// A change of one RRset.
#[derive(Debug, Serialize)]
pub struct Change {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    changetype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<Record>,
}

impl Change {
    /// These contents, instead of whatever stands there.
    pub fn replace(name: &str, kind: &'static str, ttl: u32, contents: Vec<String>) -> Self {
        let records = contents.into_iter().map(|content| Record { content, disabled: false }).collect();
        Self { name: dotted(name), kind, changetype: "REPLACE", ttl: Some(ttl), records }
    }

    /// No such RRset.
    pub fn delete(name: &str, kind: &'static str) -> Self {
        Self { name: dotted(name), kind, changetype: "DELETE", ttl: None, records: Vec::new() }
    }
}

/// Why the server did not do what was asked.
enum Refusal {
    /// No such zone (or no such server, or no PowerDNS: the same answer).
    NotFound,
    /// Its own words about what was sent.
    Rejected(String),
    Error(DnsError),
}

/// A client of one PowerDNS server's API. Cheap to clone; clones write one after another.
#[derive(Clone)]
pub struct PowerDns {
    client: Client,
    /// `…/api/v1/servers/<id>`
    server: Url,
    /// The base URL as shown in messages, without credentials.
    shown: String,
    key: ApiKey,
    timeout: Duration,
    writing: Arc<Mutex<()>>,
}

impl fmt::Debug for PowerDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL as given may hold a password.
        f.debug_struct("PowerDns").field("url", &self.shown).finish_non_exhaustive()
    }
}

impl PowerDns {
    /// A client for the server at `base_url` (with or without `/api/v1`). A process-wide `rustls`
    /// provider must be installed.
    pub fn new(base_url: &str, api_key: ApiKey, server_id: &str) -> Result<Self, DnsError> {
        let misconfigured = |detail: String| DnsError::ProviderMisconfigured { detail };
        let mut server = Url::parse(base_url.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| misconfigured("the URL must read like http://pdns.dns.svc:8081".to_owned()))?;
        server.set_query(None);
        server.set_fragment(None);
        let path = server.path().trim_end_matches('/');
        let path = path.strip_suffix("/api/v1").unwrap_or(path).to_owned();
        server.set_path(&path);

        let mut shown = server.clone();
        // Only URLs without a host have no place for credentials, and those are refused above.
        let _ = (shown.set_username(""), shown.set_password(None));
        let shown = shown.as_str().trim_end_matches('/').to_owned();
        if let Ok(mut segments) = server.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1", "servers", server_id]);
        }

        let mut key =
            HeaderValue::from_str(&api_key.0).ok().filter(|key| !key.is_empty()).ok_or_else(|| {
                misconfigured("the API key is empty, or holds what no HTTP header can".to_owned())
            })?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("x-api-key"), key),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let client = Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would carry the key to wherever it points.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| misconfigured(chain(error)))?;
        Ok(Self { client, server, shown, key: api_key, timeout: TIMEOUT, writing: Arc::default() })
    }

    /// The same client with another limit to the time that one call may take.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The base URL as it may be shown.
    pub fn base_url(&self) -> &str {
        &self.shown
    }

    /// The zone with exactly this name, without records.
    pub async fn zone(&self, name: &str) -> Result<Option<Zone>, DnsError> {
        let request = self.request(Method::GET, Some(name)).query(&[("rrsets", "false")]);
        match self.read(request, name).await {
            Ok(zone) => Ok(Some(zone)),
            Err(Refusal::NotFound) => Ok(None),
            Err(refusal) => Err(self.unexpected(refusal, name)),
        }
    }

    /// Fails unless the URL and the server id lead to a PowerDNS server: its answer to a wrong one
    /// is the same as to an unknown zone.
    pub async fn check_server(&self) -> Result<(), DnsError> {
        #[derive(Deserialize)]
        struct Server {
            #[serde(rename = "type")]
            kind: String,
        }
        let about = "the server itself";
        match self.read::<Server>(self.request(Method::GET, None), about).await {
            Ok(server) if server.kind == "Server" => Ok(()),
            Ok(_) | Err(Refusal::NotFound) => Err(self.unreachable(
                about,
                "no PowerDNS API with this server id is found there; check the URL and the server id",
            )),
            Err(refusal) => Err(self.unexpected(refusal, about)),
        }
    }

    /// The RRsets that stand at exactly this name. `None` when there is no such zone.
    pub async fn rrsets(&self, zone: &str, name: &str) -> Result<Option<Vec<RrSet>>, DnsError> {
        #[derive(Deserialize)]
        struct Answer {
            rrsets: Vec<RrSet>,
        }
        let name = dotted(name);
        let request = self.request(Method::GET, Some(zone)).query(&[("rrset_name", &name)]);
        match self.read::<Answer>(request, zone).await {
            Ok(Answer { mut rrsets }) => {
                // Some versions add other names, or a comment without records.
                rrsets.retain(|rrset| rrset.name.eq_ignore_ascii_case(&name) && !rrset.records.is_empty());
                Ok(Some(rrsets))
            }
            Err(Refusal::NotFound) => Ok(None),
            Err(refusal) => Err(self.unexpected(refusal, zone)),
        }
    }

    /// The MX records at a name that are switched off. Releases before 5.0 leave records that are switched off out of
    /// what they say of one name, and replace them all the same (measured with 4.7.3). A backend that cannot be searched
    /// has none to tell.
    pub async fn disabled_mx(&self, zone: &str, name: &str) -> Result<Vec<Record>, DnsError> {
        let hits = self.search(zone, name).await?.into_iter();
        let found = hits.filter(|hit| {
            hit.disabled && hit.kind == "MX" && dotted(&hit.name).eq_ignore_ascii_case(&dotted(name))
        });
        Ok(found.map(|hit| Record { content: hit.content, disabled: true }).collect())
    }

    /// Records of a zone whose name, or content, fits; `*` stands for any text.
    async fn search(&self, zone: &str, text: &str) -> Result<Vec<Hit>, DnsError> {
        let query = [("q", text), ("object_type", "record"), ("max", "1000")];
        let request = self.ask(Method::GET, &["search-data"]).query(&query);
        let mut hits = match self.read::<Vec<Hit>>(request, zone).await {
            Ok(hits) => hits,
            Err(Refusal::NotFound) => Vec::new(),
            Err(refusal) => return Err(self.unexpected(refusal, zone)),
        };
        let here = |hit: &Hit| dotted(&hit.zone).eq_ignore_ascii_case(&dotted(zone));
        hits.retain(|hit| hit.object_type == "record" && here(hit));
        Ok(hits)
    }

    /// Whether a record stands anywhere below a name. A backend that cannot be searched has none to tell.
    pub async fn has_below(&self, zone: &str, name: &str) -> Result<bool, DnsError> {
        let below = format!(".{}", dotted(name)).to_ascii_lowercase();
        let hits = self.search(zone, &format!("*.{name}")).await?;
        Ok(hits.iter().any(|hit| !hit.disabled && dotted(&hit.name).to_ascii_lowercase().ends_with(&below)))
    }

    /// Puts the names of a signed zone into the order that denials are made from.
    pub async fn rectify(&self, zone: &str) -> Result<(), DnsError> {
        let request = self.ask(Method::PUT, &["zones", &dotted(zone), "rectify"]);
        match self.send(request, zone).await {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.unexpected(refusal, zone)),
        }
    }

    /// To be held over a [`Self::patch`], and over what is to be checked right before it. Writers that
    /// come at the same time would fail: SQLite says "database is locked", which PowerDNS makes a 500.
    pub async fn turn_to_write(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    /// Makes all changes, or none. `domain` is for the message.
    pub async fn patch(&self, zone: &str, domain: &str, changes: &[Change]) -> Result<(), DnsError> {
        let body = serde_json::json!({ "rrsets": changes });
        let request = self.request(Method::PATCH, Some(zone)).json(&body);
        match self.send(request, zone).await {
            Ok(_) => Ok(()),
            Err(Refusal::NotFound) => Err(DnsError::ZoneNotFound {
                domain: domain.to_owned(),
                server: self.shown.clone(),
                detail: format!("{zone} was there a moment ago and is gone"),
            }),
            Err(Refusal::Rejected(sentence)) => {
                Err(DnsError::RecordRejected { domain: domain.to_owned(), zone: zone.to_owned(), sentence })
            }
            Err(Refusal::Error(error)) => Err(error),
        }
    }

    fn request(&self, method: Method, zone: Option<&str>) -> RequestBuilder {
        match zone {
            Some(zone) => self.ask(method, &["zones", &dotted(zone)]),
            None => self.ask(method, &[]),
        }
    }

    fn ask(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        self.client.request(method, url).timeout(self.timeout)
    }

    async fn read<T: for<'de> Deserialize<'de>>(
        &self,
        request: RequestBuilder,
        about: &str,
    ) -> Result<T, Refusal> {
        let body = self.send(request, about).await?;
        serde_json::from_str(&body).map_err(|_| {
            Refusal::Error(self.unreachable(about, "the answer is not that of a PowerDNS API; check the URL"))
        })
    }

    /// The body of a good answer.
    async fn send(&self, request: RequestBuilder, about: &str) -> Result<String, Refusal> {
        let failed = |error: reqwest::Error| {
            let detail = if error.is_timeout() {
                format!("no answer within {} s", self.timeout.as_secs_f32())
            } else {
                chain(error)
            };
            Refusal::Error(self.unreachable(about, detail))
        };
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let body = response.text().await.map_err(failed)?;
        if status.is_success() {
            return Ok(body);
        }
        let sentence = self.sentence(&body);
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Refusal::Error(DnsError::ProviderDenied {
                server: self.shown.clone(),
                status: status.as_u16(),
            }),
            // Some releases say it with another status.
            _ if status == StatusCode::NOT_FOUND
                || sentence == "Not Found"
                || sentence.starts_with("Could not find domain") =>
            {
                Refusal::NotFound
            }
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
                Refusal::Rejected(sentence)
            }
            _ => Refusal::Error(self.unreachable(about, format!("HTTP {status} {sentence}"))),
        })
    }

    /// What the server says in an error's body, which is `{"error": "…"}` or plain text.
    fn sentence(&self, body: &str) -> String {
        #[derive(Deserialize)]
        struct Body {
            error: String,
        }
        let text =
            serde_json::from_str::<Body>(body).map_or_else(|_| body.trim().to_owned(), |body| body.error);
        text.replace(&self.key.0, "(hidden)").chars().take(SENTENCE_MAX).collect()
    }

    fn unreachable(&self, about: &str, detail: impl Into<String>) -> DnsError {
        DnsError::ProviderUnreachable {
            server: self.shown.clone(),
            about: about.to_owned(),
            detail: detail.into(),
        }
    }

    /// The error of a request that only reads, where nothing can be wrong with what was sent.
    fn unexpected(&self, refusal: Refusal, about: &str) -> DnsError {
        match refusal {
            Refusal::Error(error) => error,
            Refusal::Rejected(sentence) => self.unreachable(about, sentence),
            Refusal::NotFound => self.unreachable(about, "it is not found"),
        }
    }
}

fn dotted(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

/// The error with its causes, without the URL.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
