//! One client that sends numbered messages all the time, and where each of them is in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::pod::Pod;

/// Between two messages, so that the tests beside get their turn.
const PAUSE: Duration = Duration::from_millis(10);

/// Who sends all of it.
pub const SENDER: &str = "sender@elsewhere.example";

/// One message, and what was answered.
#[derive(Clone, Debug)]
pub struct Sent {
    pub number: usize,
    pub to: String,
    pub at: Instant,
    /// The answer to the recipient, or to the whole message; empty when there was none.
    pub reply: String,
    /// Whether Postfix said that it has the message.
    pub taken: bool,
}

impl Sent {
    /// The queue id of a message that was taken.
    pub fn id(&self) -> Option<String> {
        self.reply.rsplit_once(" queued as ").filter(|_| self.taken).map(|(_, id)| id.to_owned())
    }
}

/// The client, until it is dropped.
pub struct Traffic {
    sent: Arc<Mutex<Vec<Sent>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pod: Arc<Pod>,
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Traffic {
    /// Sends to these addresses in turn.
    pub fn start(pod: Arc<Pod>, addresses: Vec<String>) -> Self {
        let (sent, over): (Arc<Mutex<Vec<Sent>>>, Arc<AtomicBool>) = Default::default();
        let (to, until, client) = (sent.clone(), over.clone(), pod.clone());
        let thread = std::thread::spawn(move || {
            for address in addresses.iter().cycle() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                send(&client, &to, address);
                std::thread::sleep(PAUSE);
            }
        });
        Self { sent, over, thread: Some(thread), pod }
    }

    /// Sends one more; its number.
    pub fn send(&self, address: &str) -> usize {
        send(&self.pod, &self.sent, address)
    }

    /// Begins a message, whose recipient is accepted; it is ended with [`Traffic::finish`].
    pub fn begin(&self, address: &str) -> Begun {
        let mut session = Session::begin(&self.pod).expect("a session");
        let reply = session.ask(&format!("RCPT TO:<{address}>")).expect("an answer");
        assert!(reply.starts_with("250"), "{address}: {reply}");
        Begun { session, to: address.to_owned() }
    }

    /// Ends a message that was begun; its number.
    pub fn finish(&self, begun: Begun) -> usize {
        let Begun { mut session, to } = begun;
        let number = reserve(&self.sent, &to);
        let reply = session.data(number).unwrap_or_default();
        note(&self.sent, number, reply);
        number
    }

    pub fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().expect("not poisoned").clone()
    }
}

/// A message whose recipient was accepted.
pub struct Begun {
    session: Session,
    to: String,
}

fn reserve(sent: &Mutex<Vec<Sent>>, to: &str) -> usize {
    let mut sent = sent.lock().expect("not poisoned");
    let number = sent.len();
    sent.push(Sent { number, to: to.to_owned(), at: Instant::now(), reply: String::new(), taken: false });
    number
}

fn note(sent: &Mutex<Vec<Sent>>, number: usize, reply: String) {
    let mut sent = sent.lock().expect("not poisoned");
    let one = &mut sent[number];
    (one.taken, one.at) = (reply.starts_with("250"), Instant::now());
    one.reply = reply;
}

fn send(pod: &Pod, sent: &Mutex<Vec<Sent>>, address: &str) -> usize {
    let number = reserve(sent, address);
    let reply = Session::begin(pod).and_then(|mut session| {
        let reply = session.ask(&format!("RCPT TO:<{address}>"))?;
        if reply.starts_with("250") { session.data(number) } else { Ok(reply) }
    });
    note(sent, number, reply.unwrap_or_default());
    number
}

struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    fn begin(pod: &Pod) -> std::io::Result<Self> {
        let mut session = Self { stream: BufReader::new(pod.connect(25)?) };
        session.reply()?;
        session.ask("EHLO client.example")?;
        session.ask(&format!("MAIL FROM:<{SENDER}>"))?;
        Ok(session)
    }

    fn reply(&mut self) -> std::io::Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Ok(String::new());
            }
            if line.get(3..4) != Some("-") {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    fn ask(&mut self, command: &str) -> std::io::Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.reply()
    }

    fn data(&mut self, number: usize) -> std::io::Result<String> {
        let reply = self.ask("DATA")?;
        if !reply.starts_with("354") {
            return Ok(reply);
        }
        let reply = self.ask(&format!("Subject: {number}\r\n\r\nhello\r\n."))?;
        // What it says to that does not matter.
        let _ = self.ask("QUIT");
        Ok(reply)
    }
}

/// Numbers of the messages below a directory, with the Maildirs that they are in, as paths below it.
pub fn delivered(vmail: &Path) -> BTreeMap<usize, BTreeSet<String>> {
    let mut found: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    let mut open = vec![vmail.to_owned()];
    while let Some(directory) = open.pop() {
        // It may be moved meanwhile.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if directory.ends_with("new") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let number = text.lines().find_map(|line| line.strip_prefix("Subject: ")?.parse().ok());
                let maildir = directory.parent().and_then(|path| path.strip_prefix(vmail).ok());
                if let (Some(number), Some(maildir)) = (number, maildir) {
                    found.entry(number).or_default().insert(maildir.display().to_string());
                }
            }
        }
    }
    found
}

/// One message in the queue.
#[derive(Clone, Debug)]
pub struct Queued {
    pub queue: String,
    pub id: String,
    pub sender: String,
    pub recipients: Vec<String>,
}

/// What is in the queue.
pub fn queue(pod: &Pod) -> Vec<Queued> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let listing = pod.postfix(&["postqueue", "-j"]);
    let lines = listing.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let queued = |line: Value| {
        let recipients = line["recipients"].as_array().into_iter().flatten();
        Queued {
            queue: text(&line["queue_name"]),
            id: text(&line["queue_id"]),
            sender: text(&line["sender"]),
            recipients: recipients.map(|recipient| text(&recipient["address"])).collect(),
        }
    };
    lines.map(queued).collect()
}
