//! What a proxy does to a request or to an event of a watch, in place of passing it on.

/// The two servers that the operator writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Api,
    PowerDns,
}

/// A request of the operator's.
#[derive(Clone, Debug)]
pub struct Asked {
    pub side: Side,
    pub method: String,
    pub path: String,
    pub query: String,
}

impl Asked {
    pub fn is_write(&self) -> bool {
        self.method != "GET" && !self.path.contains("/leases") && !self.path.contains("/events")
    }

    pub fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }

    pub fn is_list(&self, plural: &str) -> bool {
        self.method == "GET" && !self.is_watch() && self.path.ends_with(plural)
    }
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Answers this, and passes nothing on.
    Answer(u16, String),
    /// Never answers, and passes nothing on.
    Hang,
    /// Hangs up, and passes nothing on.
    HangUp,
    /// Passes it on, and hangs up in place of the answer.
    LoseAnswer,
    /// Passes it on once the fault is over, whoever still waits for it: a late write.
    Late,
    /// Changes the answer, and the events of a watch: this text into that.
    Rewrite(&'static str, &'static str),
}

/// Some of the requests that one rule tells.
#[derive(Clone, Debug)]
pub struct Fault {
    pub applies: fn(&Asked) -> bool,
    /// The first request that is met, counted from 1, and how many from there.
    pub first: usize,
    pub count: usize,
    pub action: Action,
}

impl Fault {
    /// Every request that the rule tells.
    pub fn every(applies: fn(&Asked) -> bool, action: Action) -> Self {
        Self { applies, first: 1, count: usize::MAX, action }
    }
}

/// What is done to the events of the watches of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Some are never told.
    Drop(usize),
    /// Some come after the one that follows them.
    Swap(usize),
    /// Nothing more is said, and the connection stays.
    Stall,
}

/// The event with which an API server tells that a watch cannot go on (410).
pub const EXPIRED: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#;

/// An answer of the API server's with this status.
pub fn status(code: u16) -> Action {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        _ => "ServiceUnavailable",
    };
    Action::Answer(
        code,
        format!(
            r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"made up","reason":"{reason}","code":{code}}}"#
        ),
    )
}
