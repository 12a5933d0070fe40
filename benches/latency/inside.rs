//! The cluster from its own network: the API server, `kubectl`, port 25 and the name server.

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::cluster::Cluster;
use crate::smtp::Session;

/// For whatever is waited for.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Recipients that are refused in one session, before Postfix takes its time (`smtpd_soft_error_limit`).
const REFUSED: usize = 8;

/// What it takes to ask and to write.
#[derive(Clone)]
pub struct Inside {
    pid: String,
    kubeconfig: String,
    kubectl: String,
    smtp: String,
    dns: SocketAddr,
}

impl Inside {
    pub fn of(cluster: &Cluster) -> Self {
        let programs = cluster.env("CLUSTER_PATH").split(':').next().expect("a path");
        Self {
            pid: cluster.pid().to_owned(),
            kubeconfig: cluster.env("KUBECONFIG").to_owned(),
            kubectl: format!("{programs}/kubectl"),
            smtp: format!("{}:25", cluster.env("NODE_IP")),
            dns: cluster.env("PDNS_DNS").parse().expect("an address"),
        }
    }

    /// Does something in a thread that lives in the cluster's network.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let network = format!("/proc/{}/ns/net", self.pid);
        std::thread::spawn(move || {
            let file = File::open(&network).unwrap_or_else(|error| panic!("{network}: {error}"));
            setns(file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("{network}: {error}"));
            work()
        })
    }

    /// `kubectl apply` of one object, from its start to its end; called in the network.
    pub fn apply(&self, manifest: &str) {
        let mut child = Command::new(&self.kubectl)
            .args(["apply", "--namespace", "mail", "--filename", "-"])
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("kubectl starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(manifest.as_bytes()).expect("kubectl reads");
        drop(input);
        let status = child.wait().expect("kubectl ends");
        assert!(status.success(), "kubectl apply: {status}\n{manifest}");
    }

    /// A client of the API server; called in the network.
    pub async fn client(&self) -> kube::Client {
        let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
        kube::Client::try_from(config.expect("a configuration")).expect("a client")
    }

    /// Asks without pause until Postfix accepts mail for an address, and says when; called in the network.
    pub fn accepted(&self, address: &str) -> Instant {
        accepted_at(&self.smtp, address)
    }

    /// Asks without pause until the name server has an MX for a domain, and says when; called in the network.
    pub fn published(&self, domain: &str) -> Instant {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(self.dns).expect("an address");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        // RFC 1035, section 4.1: a header for one question without recursion, the name, type MX, class IN.
        let mut query = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in domain.split('.') {
            query.push(label.len() as u8);
            query.extend(label.bytes());
        }
        query.extend([0, 0, 15, 0, 1]);
        until(&format!("the MX of {domain}"), || {
            socket.send(&query).expect("it is sent");
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).expect("an answer");
            // No error, and an answer at least.
            length > 12 && answer[3] & 15 == 0 && answer[6..8] != [0, 0]
        })
    }
}

/// Asks an SMTP server until it accepts mail for an address.
pub fn accepted_at(server: &str, address: &str) -> Instant {
    let mut session: Option<(Session, usize)> = None;
    until(&format!("250 for {address}"), || {
        let (mut open, refused) =
            session.take().filter(|(_, refused)| *refused < REFUSED).unwrap_or_else(|| {
                let stream = TcpStream::connect(server).expect("a connection");
                let mut open = Session::on(stream).expect("a session");
                open.command("MAIL FROM:<sender@example.com>").expect("an answer");
                (open, 0)
            });
        let (code, _) = open.command(&format!("RCPT TO:<{address}>")).expect("an answer");
        session = Some((open, refused + 1));
        code == 250
    })
}

/// Every 5 ms.
pub fn until(what: &str, mut check: impl FnMut() -> bool) -> Instant {
    let began = Instant::now();
    loop {
        if check() {
            return Instant::now();
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
