//! What stands between the operator and the outside: it numbers every write, and can make one of them the last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use tokio::sync::mpsc;

/// When the operator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The write never leaves.
    Before,
    /// The write took effect, and nobody heard of it.
    After,
}

/// One write that was passed on: method, path, and the status of the answer.
pub type Write = (String, String, u16);

/// Both proxies of a world: they share one numbering.
#[derive(Default)]
pub struct Tally {
    writes: Vec<Write>,
    /// Writes that were begun since the last [`Tally::arm`], and the one that is to be the last.
    begun: usize,
    fatal: Option<(usize, Moment)>,
    /// A dead operator sends nothing: what still arrives of it is not passed on.
    dead: bool,
}

impl Tally {
    /// From now on the `number`th write is the last, counted from 1.
    pub fn arm(&mut self, fatal: Option<(usize, Moment)>) {
        (self.begun, self.fatal, self.dead) = (0, fatal, false);
    }

    /// Everything that was passed on.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// How often each object or zone was created and deleted.
    pub fn digest(&self) -> BTreeMap<(String, String), usize> {
        let mut digest = BTreeMap::new();
        for (method, path, _) in self.writes.iter().filter(|(method, path, status)| {
            // A PATCH of a zone is a change of its records.
            let told = ["POST", "DELETE"].contains(&method.as_str()) || path.contains("/zones/");
            told && *status < 300
        }) {
            // Each run has a namespace of its own.
            let path = path.split('/').map(|part| if part.starts_with("mail-") { "mail" } else { part });
            *digest.entry((method.clone(), path.collect::<Vec<_>>().join("/"))).or_default() += 1;
        }
        digest
    }
}

/// Shared between a world and its proxies.
pub type Shared = Arc<Mutex<Tally>>;

#[derive(Clone)]
struct Proxy {
    to: String,
    bearer: Option<String>,
    client: reqwest::Client,
    tally: Shared,
    /// Told when the operator is to be killed; the answer waits for that.
    kill: mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
}

/// Starts a proxy to `to`; its URL.
pub async fn start(
    to: String,
    bearer: Option<String>,
    tally: Shared,
    kill: mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
) -> String {
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .build()
        .expect("a client");
    let proxy = Proxy { to, bearer, client, tally, kill };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let app = Router::new().fallback(pass).with_state(proxy);
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The lease says who may write, and is renewed all the time; reviews change nothing; Events are for people.
fn counts(method: &Method, path: &str) -> bool {
    ![Method::GET, Method::HEAD].contains(method) && !path.contains("/leases") && !path.contains("/events")
}

async fn pass(
    State(proxy): State<Proxy>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let counted = counts(&method, &path);
    let fatal = {
        let mut tally = proxy.tally.lock().expect("not poisoned");
        if tally.dead {
            return gone();
        }
        if counted {
            tally.begun += 1;
        }
        let fatal =
            tally.fatal.filter(|(number, _)| counted && *number == tally.begun).map(|(_, moment)| moment);
        tally.dead = fatal == Some(Moment::Before);
        fatal
    };
    if fatal == Some(Moment::Before) {
        proxy.die().await;
        return gone();
    }
    let mut request = proxy.client.request(method.clone(), format!("{}{uri}", proxy.to)).body(body);
    for (name, value) in
        headers.iter().filter(|(name, _)| ![header::HOST, header::CONTENT_LENGTH].contains(name))
    {
        request = request.header(name, value);
    }
    if let Some(token) = &proxy.bearer {
        request = request.bearer_auth(token);
    }
    let Ok(answer) = request.send().await else { return gone() };
    let status = answer.status();
    if counted {
        let mut tally = proxy.tally.lock().expect("not poisoned");
        tally.writes.push((method.to_string(), path, status.as_u16()));
        tally.dead |= fatal.is_some();
    }
    if fatal.is_some() {
        proxy.die().await;
        return gone();
    }
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

impl Proxy {
    async fn die(&self) {
        let (done, killed) = tokio::sync::oneshot::channel();
        // Both only end with the test.
        let _ = self.kill.send(done).await;
        let _ = killed.await;
    }
}

fn gone() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
