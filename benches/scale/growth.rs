//! The tables grow out of one ConfigMap into 64 shards and back, while somebody asks without a pause whether a mailbox
//! is served that is there all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::objects;
use crate::page::step;
use crate::pod::{Pod, Smtp};
use crate::world::{PATIENCE, World};

/// Mailboxes whose tables fit into one ConfigMap again (`SHRINK` in src/postfix/shards.rs), and do not any more (`GROW`).
pub const FEW: usize = 300;
pub const MANY: usize = 6000;
const DOMAINS: usize = 10;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Growth {
    /// ConfigMaps of the tables before, between and after.
    pub config_maps: [usize; 3],
    pub questions: usize,
    pub longest: Duration,
    pub reloads: usize,
    /// Until all statuses are written, and until the ConfigMaps of before stand there alone.
    pub grown: Duration,
    pub shrunk: Duration,
}

/// # Panics
/// When the mailbox was refused once, or the pod or Postfix started anew.
pub async fn measure() -> Growth {
    step(&format!("{FEW} mailboxes, {MANY}, and {FEW} again"));
    let mut world = World::start(DOMAINS).await;
    world.have(FEW).await;
    let operator = world.operator().await;
    world.converged(&operator).await;
    let before = world.tables().await.len();
    let pod = world.cell.pod.clone();
    let (processes, reloads) = ((pod.process_one(), pod.postfix_master()), world.cell.reloads());

    let probe = Probe::start(pod.clone(), objects::address(0, DOMAINS));
    let began = Instant::now();
    world.have(MANY).await;
    let grown = world.converged(&operator).await.0 - began;
    let between = world.tables().await.len();
    let began = Instant::now();
    world.have(FEW).await;
    world.converged(&operator).await;
    while world.tables().await.len() != before {
        assert!(began.elapsed() < PATIENCE, "{FEW} mailboxes stay in shards:\n{}", operator.log());
        sleep(Duration::from_millis(250)).await;
    }
    let shrunk = began.elapsed();
    world.converged(&operator).await;
    let answers = probe.end();

    assert_eq!((pod.process_one(), pod.postfix_master()), processes, "the pod or Postfix started anew");
    let refused: Vec<&String> =
        answers.iter().map(|(answer, _)| answer).filter(|answer| !answer.starts_with("250")).collect();
    if let [first, ..] = refused[..] {
        panic!("{} of {} times a mailbox was refused: {first}", refused.len(), answers.len());
    }
    Growth {
        config_maps: [before, between, world.tables().await.len()],
        questions: answers.len(),
        longest: answers.iter().map(|(_, time)| *time).max().unwrap_or_default(),
        reloads: world.cell.reloads() - reloads,
        grown,
        shrunk,
    }
}

/// Asks until it is ended.
struct Probe {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(String, Duration)>>,
}

impl Probe {
    fn start(pod: Arc<Pod>, address: String) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                answers.push((ask(&pod, &address), began.elapsed()));
                std::thread::sleep(PAUSE);
            }
            answers
        });
        Self { over, thread }
    }

    /// Each answer, and the time that it took.
    fn end(self) -> Vec<(String, Duration)> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("each session goes to its end")
    }
}

/// What a stranger is answered who wants to send to `address`, in a session of its own.
fn ask(pod: &Pod, address: &str) -> String {
    let stream = match pod.connect(25) {
        Ok(stream) => stream,
        Err(error) => return format!("no connection: {error}"),
    };
    let (mut session, greeting) = Smtp::begun(stream);
    if !greeting.starts_with("220 ") {
        return greeting;
    }
    session.hello();
    let answer = session.rcpt(address);
    session.ask("QUIT");
    answer
}
