//! A stand-in for the Postfix pod: the image's root file system, read-only, with namespaces of its own, the
//! capabilities that the chart gives, and our binary as process 1.

// By their paths, since others take this file by its path too.
#[path = "session.rs"]
mod session;
#[path = "volumes.rs"]
mod volumes;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmail_operator::revision::Report;

use crate::revision::Wanted;

pub use session::Smtp;
pub use volumes::Volumes;

/// How long a test waits for something to become true.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const TOKEN: &str = "a-token";

/// The capabilities that docs/security.md and the chart name.
const CAPABILITIES: &str = "+chown,+dac_override,+fowner,+kill,+setuid,+setgid,+net_bind_service";

const SCRIPT: &str = r#"
set -e
ip link set lo up
mount -t proc proc /proc
mount -t tmpfs tmpfs "$SAND/mnt"
cd "$SAND/mnt"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=upper,workdir=work" root
mkdir -p root/etc/vmail-operator root/var/vmail root/var/spool/vmail root/usr/local/bin
touch root/usr/local/bin/vmail-operator
mount --bind "$BINARY" root/usr/local/bin/vmail-operator
mount --bind "$SAND/etc" root/etc/vmail-operator
mount --bind "$SAND/vmail" root/var/vmail
mount --bind "$SAND/spool" root/var/spool/vmail
mount --rbind /dev root/dev
mount -t proc proc root/proc
mount -t tmpfs tmpfs root/tmp
mount -t tmpfs -o mode=2777,gid=2000 tmpfs root/run
mount -o remount,ro root
exec $UNDER chroot root setpriv --bounding-set="-all,$CAPABILITIES" --inh-caps=-all --no-new-privs \
  /usr/local/bin/vmail-operator agent "$@"
"#;

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The running pod. Dropping it takes every process and every mount away.
pub struct Pod {
    unshare: Child,
    pub volumes: Volumes,
}

impl Pod {
    /// A new pod with new volumes, where this is mounted.
    pub fn with(wanted: &Wanted) -> Self {
        let volumes = Volumes::new();
        wanted.mount(&volumes.revision());
        Self::start(volumes, &[])
    }

    /// As [`Pod::with`], once the revision is live.
    pub fn serving(wanted: &Wanted) -> Self {
        let pod = Self::with(wanted);
        pod.wait_for_revision(wanted);
        pod
    }

    pub fn start(volumes: Volumes, arguments: &[&str]) -> Self {
        Self::start_under("", volumes, arguments)
    }

    /// As [`Pod::start`], with the agent as the child of another program, given with its arguments.
    pub fn start_under(program: &str, volumes: Volumes, arguments: &[&str]) -> Self {
        let log = File::options().create(true).append(true).open(volumes.log()).unwrap();
        let unshare = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"])
            .args(arguments)
            .env("SAND", volumes.sand.path())
            .env("ROOTFS", rootfs())
            .env("BINARY", env!("CARGO_BIN_EXE_vmail-operator"))
            .env("CAPABILITIES", CAPABILITIES)
            .env("UNDER", program)
            .env("POD_UID", "uid-1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { unshare, volumes }
    }

    /// Process 1 of the pod, as seen from here.
    pub fn process_one(&self) -> Pid {
        let id = self.unshare.id();
        wait("the pod's process 1", || {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
        })
    }

    /// A wire to another pod; this one then has the first address on it, the other the second.
    pub fn wire(&self, other: &Self, [here, there]: [&str; 2]) {
        let (one, two) = (self.process_one().to_string(), other.process_one().to_string());
        let run = |command: &[&str]| {
            let status = Command::new(command[0]).args(&command[1..]).status().unwrap();
            assert!(status.success(), "{command:?}: {status}");
        };
        let link = ["type", "veth", "peer", "name", "wire", "netns", &two];
        run(&[&["ip", "link", "add", "wire", "netns", &one], &link[..]].concat());
        for (pod, address) in [(&one, here), (&two, there)] {
            let ip = ["nsenter", "-t", pod, "-n", "ip"];
            run(&[&ip[..], &["address", "add", &format!("{address}/24"), "dev", "wire"]].concat());
            run(&[&ip[..], &["link", "set", "wire", "up"]].concat());
        }
    }

    /// Tells process 1 to end, and waits until it has.
    pub fn terminate(mut self) -> (ExitStatus, Volumes) {
        kill(self.process_one(), Signal::SIGTERM).unwrap();
        let status = wait("the end of the pod", || self.unshare.try_wait().unwrap());
        (status, self.into_volumes())
    }

    /// Pulls the plug.
    pub fn crash(self) -> Volumes {
        self.into_volumes()
    }

    fn into_volumes(mut self) -> Volumes {
        self.end();
        std::mem::replace(&mut self.volumes, Volumes::new())
    }

    fn end(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }

    pub fn log(&self) -> String {
        self.volumes.log_text()
    }

    /// A connection from inside the pod's network.
    pub fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        self.connect_to((Ipv4Addr::LOCALHOST, port).into())
    }

    /// The same over IPv6.
    pub fn connect_ipv6(&self, port: u16) -> std::io::Result<TcpStream> {
        self.connect_to((Ipv6Addr::LOCALHOST, port).into())
    }

    fn connect_to(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let stream = self.in_network(move || TcpStream::connect(address))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// What is made in the pod's network, where a socket stays that was made there.
    pub fn in_network<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let network = File::open(format!("/proc/{}/ns/net", self.process_one()))?;
        let made = std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET)?;
            make()
        });
        made.join().unwrap()
    }

    /// Gives the pod's network another address, which clients then may come from and go to.
    pub fn add_address(&self, address: impl Into<IpAddr>) {
        let one = self.process_one().to_string();
        let address: IpAddr = address.into();
        // Of IPv6 at once: nobody else could have it.
        let how: &[&str] = if address.is_ipv4() { &[] } else { &["nodad"] };
        let added = Command::new("nsenter")
            .args(["-t", &one, "-n", "ip", "address", "add", &address.to_string(), "dev", "lo"])
            .args(how)
            .status()
            .unwrap();
        assert!(added.success(), "{address}: {added}");
        // The kernel puts the route of one of IPv6 in later, in a queue of its own.
        wait("the way to the address", || {
            let text = address.to_string();
            let route = ["-t", &one, "-n", "ip", "route", "get", &text];
            let output = Command::new("nsenter").args(route).output().unwrap();
            (output.status.success() && output.stdout.starts_with(b"local ")).then_some(())
        });
    }

    /// A connection from this address of the pod's network to the same one, as a stranger makes it.
    pub fn connect_from(&self, address: impl Into<IpAddr>, port: u16) -> std::io::Result<TcpStream> {
        let address = address.into();
        let stream = self.in_network(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let socket = match address {
                    IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                    IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
                };
                socket.bind((address, 0).into())?;
                socket.connect((address, port).into()).await?.into_std()
            })
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    pub fn is_open(&self) -> bool {
        self.connect(25).is_ok()
    }

    pub fn smtp(&self) -> Smtp {
        let stream = wait("port 25", || self.connect(25).ok());
        Smtp::greeted(stream)
    }

    /// What a stranger is answered who wants to send to `address`, in a session of its own.
    pub fn rcpt(&self, address: &str) -> String {
        self.smtp().rcpt(address)
    }

    /// The lines of the answer to EHLO on port 25.
    pub fn ehlo(&self) -> Vec<String> {
        self.smtp().ask_for_lines("EHLO client.example")
    }

    /// What master.pid says: another number after a restart of Postfix.
    pub fn postfix_master(&self) -> String {
        let pid = self.volumes.sand.path().join("spool/postfix/pid/master.pid");
        fs::read_to_string(pid).unwrap().trim().to_owned()
    }

    /// Runs one of Postfix's commands in the pod.
    pub fn postfix(&self, arguments: &[&str]) -> String {
        let one = self.process_one().to_string();
        let output = Command::new("nsenter")
            .args(["-t", &one, "-m", "-n", "-p", "--root", "--wd"])
            .args(arguments)
            .env("MAIL_CONFIG", "/run/vmail-operator/postfix")
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Status line and body of the answer.
    pub fn get(&self, path: &str, token: Option<&str>) -> std::io::Result<(u16, String)> {
        let mut stream = self.connect(8025)?;
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\n{token}Connection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Ok((head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned()))
    }

    pub fn report(&self) -> Option<Report> {
        let (code, body) = self.get("/v1/status", Some(TOKEN)).ok()?;
        assert_eq!(code, 200, "{body}");
        Some(serde_json::from_str(&body).unwrap())
    }

    /// The first report that is as wanted.
    pub fn wait_for_report(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut last = None;
        let found = try_wait(|| {
            last = self.report();
            last.clone().filter(|report| wanted(report))
        });
        found.unwrap_or_else(|| panic!("no report with {what}: {last:#?}\n{}", self.log()))
    }

    pub fn wait_for_revision(&self, wanted: &Wanted) -> Report {
        self.wait_for_live(&wanted.revision())
    }

    /// Waits until the agent reports this revision as live.
    pub fn wait_for_live(&self, revision: &str) -> Report {
        self.wait_for_report("the revision", |report| report.revision.as_deref() == Some(revision))
    }

    pub fn wait_for_rejection(&self, wanted: &Wanted) -> Report {
        let revision = wanted.revision();
        let rejected = |report: &Report| report.rejected.as_ref().is_some_and(|r| r.revision == revision);
        self.wait_for_report("the rejection", rejected)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("--- log of the pod\n{}", self.log());
        }
    }
}

/// Waits until `look` finds something; panics after [`PATIENCE`].
pub fn wait<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    try_wait(look).unwrap_or_else(|| panic!("waited in vain for {what}"))
}

/// Does one thing, and another again and again in a thread of its own meanwhile.
pub fn meanwhile<T>(mut again: impl FnMut() + Send, once: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                again();
            }
        });
        let _over = Over(&over);
        once()
    })
}

fn try_wait<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The root file system of the Postfix image, without our binary.
fn rootfs() -> &'static Path {
    static ROOTFS: OnceLock<PathBuf> = OnceLock::new();
    ROOTFS.get_or_init(|| {
        if let Some(path) = std::env::var_os("VMAIL_ROOTFS") {
            return path.into();
        }
        let cluster = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster");
        let output = Command::new(cluster).arg("rootfs").stderr(Stdio::inherit()).output();
        let output = output.unwrap_or_else(|error| panic!("{cluster} rootfs: {error}; or set VMAIL_ROOTFS"));
        let path = String::from_utf8(output.stdout).unwrap();
        let path = path.lines().last().unwrap_or_default().trim();
        assert!(
            Path::new(path).join("usr/sbin/postfix").exists(),
            "{cluster} rootfs: no Postfix in `{path}`"
        );
        path.into()
    })
}
