//! What stands between the operator and the outside: it numbers every write, can make one of them the last, and can
//! do to requests and events what `fault.rs` lists.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::events;
use crate::fault::{Action, Asked, Events, Fault, Side};

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
    fault: Option<Fault>,
    /// Requests that the rule of the fault told so far.
    told: usize,
    /// By the end of the resource's path.
    events: Option<(&'static str, Events)>,
    /// How often something was done to a request or an event.
    struck: usize,
    /// Ends every watch with 410 when it changes.
    expire: watch::Sender<usize>,
}

impl Tally {
    /// From now on the `number`th write is the last, counted from 1.
    pub fn arm(&mut self, fatal: Option<(usize, Moment)>) {
        (self.begun, self.fatal, self.dead) = (0, fatal, false);
    }

    /// Does this to requests from now on, counted from the next one.
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        (self.fault, self.told) = (fault, 0);
    }

    /// Does this to the events of the watches of a resource.
    pub fn set_events(&mut self, events: Option<(&'static str, Events)>) {
        self.events = events;
    }

    /// Ends every watch with 410, so that everything is listed anew.
    pub fn expire_watches(&mut self) {
        self.expire.send_modify(|count| *count += 1);
    }

    /// How often something was done to a request or an event.
    pub fn struck(&self) -> usize {
        self.struck
    }

    /// Notes that something was done that no fault here did.
    pub fn strike(&mut self) {
        self.struck += 1;
    }

    /// When every watch is to end.
    pub fn expiry(&self) -> watch::Receiver<usize> {
        self.expire.subscribe()
    }

    /// What is to be done to a request.
    fn meet(&mut self, asked: &Asked) -> Option<Action> {
        let fault = self.fault.as_ref().filter(|fault| (fault.applies)(asked))?;
        self.told += 1;
        if self.told < fault.first || self.told - fault.first >= fault.count {
            return None;
        }
        self.struck += 1;
        Some(fault.action.clone())
    }

    /// What is to be done to an event of a watch, if anything; that is then done.
    pub fn meet_event(&mut self, path: &str) -> Option<Events> {
        let (_, events) = self.events.as_mut().filter(|(plural, _)| path.ends_with(*plural))?;
        let met = *events;
        match events {
            Events::Drop(0) | Events::Swap(0) => return None,
            Events::Drop(left) | Events::Swap(left) => *left -= 1,
            Events::Stall => {}
        }
        self.struck += 1;
        Some(met)
    }

    /// What the events of a watch are changed into.
    pub fn rewriting(&self, asked: &Asked) -> Option<(&'static str, &'static str)> {
        match self.fault.as_ref().filter(|fault| (fault.applies)(asked))?.action {
            Action::Rewrite(from, to) => Some((from, to)),
            _ => None,
        }
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
    side: Side,
    to: String,
    bearer: Option<String>,
    client: reqwest::Client,
    tally: Shared,
    /// Told when the operator is to be killed; the answer waits for that.
    kill: mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
}

/// Starts a proxy to `to`; its URL.
pub async fn start(
    side: Side,
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
    let proxy = Proxy { side, to, bearer, client, tally, kill };
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
    let query = uri.query().unwrap_or_default().to_owned();
    let asked = Asked { side: proxy.side, method: method.to_string(), path: path.clone(), query };
    let counted = counts(&method, &path);
    let (fatal, action) = {
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
        (fatal, tally.meet(&asked))
    };
    if fatal == Some(Moment::Before) {
        proxy.die().await;
        return gone();
    }
    let request = Request { method, uri, headers, body, counted, last: fatal.is_some() };
    match action {
        None | Some(Action::Rewrite(..)) => {}
        Some(Action::Answer(status, text)) => return answer(status, text),
        Some(Action::HangUp) => hang_up(),
        Some(Action::Hang) => {
            proxy.fault_ends().await;
            hang_up()
        }
        Some(Action::LoseAnswer) => {
            let _ = proxy.forward(&request).await;
            hang_up()
        }
        Some(Action::Late) => {
            // Nobody may wait for it any more when its time comes.
            let late = async move {
                proxy.fault_ends().await;
                let _ = proxy.forward(&request).await;
            };
            let _ = tokio::spawn(late).await;
            hang_up()
        }
    }
    let Some(answer) = proxy.forward(&request).await else { return gone() };
    if fatal.is_some() {
        proxy.die().await;
        return gone();
    }
    let status = answer.status();
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let rewriting = proxy.tally.lock().expect("not poisoned").rewriting(&asked);
    let body = match rewriting {
        _ if asked.is_watch() => events::edited(answer, proxy.tally.clone(), asked),
        Some((from, to)) => Body::from(answer.text().await.unwrap_or_default().replace(from, to)),
        None => Body::from_stream(answer.bytes_stream()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    counted: bool,
    /// The operator dies when it took effect.
    last: bool,
}

impl Proxy {
    /// Passes a request on, and notes it.
    async fn forward(&self, asked: &Request) -> Option<reqwest::Response> {
        let url = format!("{}{}", self.to, asked.uri);
        let mut request = self.client.request(asked.method.clone(), url).body(asked.body.clone());
        for (name, value) in
            asked.headers.iter().filter(|(name, _)| ![header::HOST, header::CONTENT_LENGTH].contains(name))
        {
            request = request.header(name, value);
        }
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.ok()?;
        if asked.counted {
            let write = (asked.method.to_string(), asked.uri.path().to_owned(), answer.status().as_u16());
            let mut tally = self.tally.lock().expect("not poisoned");
            tally.writes.push(write);
            tally.dead |= asked.last;
        }
        Some(answer)
    }

    async fn fault_ends(&self) {
        while self.tally.lock().expect("not poisoned").fault.is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn die(&self) {
        let (done, killed) = tokio::sync::oneshot::channel();
        // Both only end with the test.
        let _ = self.kill.send(done).await;
        let _ = killed.await;
    }
}

/// Ends the task of the connection, and so the connection, without an answer.
fn hang_up() -> ! {
    std::panic::resume_unwind(Box::new("the proxy hangs up"))
}

fn answer(status: u16, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == 429 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn gone() -> Response {
    answer(502, String::new())
}
