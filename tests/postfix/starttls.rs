//! The certificate of port 25: a new one without a restart, and never a broken one.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::pod::{Pod, Volumes, wait};
use crate::revision::{Wanted, mount_files};

/// A key and its certificate, both PEM.
struct Pair {
    key: String,
    certificate: String,
}

impl Pair {
    /// A self-signed one, made by openssl with these further arguments of `openssl req`.
    fn new(arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let common =
            ["req", "-x509", "-nodes", "-subj", "/CN=mx.example.net", "-keyout", "key", "-out", "crt"];
        openssl(&directory, &[&common, arguments].concat());
        Self::read(&directory)
    }

    fn read(directory: &TempDir) -> Self {
        let read = |name| fs::read_to_string(directory.path().join(name)).unwrap();
        Self { key: read("key"), certificate: read("crt") }
    }

    fn good() -> Self {
        Self::new(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "30"])
    }

    /// One whose time was over a day ago: `openssl req` makes none, `openssl x509` does.
    fn expired() -> Self {
        let directory = TempDir::new().unwrap();
        let request = "req -nodes -newkey rsa:2048 -subj /CN=mx.example.net -keyout key -out csr";
        openssl(&directory, &request.split(' ').collect::<Vec<_>>());
        openssl(
            &directory,
            &"x509 -req -in csr -signkey key -days -1 -out crt".split(' ').collect::<Vec<_>>(),
        );
        Self::read(&directory)
    }

    /// As kubelet brings a Secret of the type kubernetes.io/tls.
    fn mount(&self, volumes: &Volumes) {
        mount(volumes, &[("tls.crt", &self.certificate), ("tls.key", &self.key)]);
    }
}

fn openssl(directory: &TempDir, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn mount(volumes: &Volumes, files: &[(&str, &str)]) {
    let files: BTreeMap<String, &str> = files.iter().map(|(name, text)| (name.to_string(), *text)).collect();
    mount_files(&volumes.tls(), &files);
}

/// The certificate that port 25 shows in a session of its own.
fn shown(pod: &Pod) -> Option<String> {
    let output = Command::new("nsenter")
        .args(["-t", &pod.process_one().to_string(), "-n"])
        .args(["openssl", "s_client", "-starttls", "smtp", "-connect", "127.0.0.1:25"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let from = text.find(begin)?;
    let to = text.find(end)? + end.len();
    Some(text[from..to].to_owned() + "\n")
}

fn offers(pod: &Pod) -> bool {
    pod.ehlo().iter().any(|line| line.ends_with("STARTTLS"))
}

fn wait_for_message(pod: &Pod, part: &str) {
    pod.wait_for_report(part, |report| report.tls.message.contains(part));
}

#[test]
fn without_a_certificate_there_is_no_starttls_and_it_comes_with_one() {
    let wanted = Wanted::one("example.org");
    let pod = Pod::serving(&wanted);
    wait_for_message(&pod, "no certificate is mounted");
    assert!(!offers(&pod));
    assert!(pod.rcpt("you@example.org").starts_with("250 "));

    let master = pod.postfix_master();
    for pair in [Pair::good(), Pair::new(&["-newkey", "rsa:2048", "-days", "30"])] {
        pair.mount(&pod.volumes);
        wait("the new certificate", || (shown(&pod)? == pair.certificate).then_some(()));
        pod.wait_for_report("a certificate", |report| {
            report.tls.not_after.is_some() && report.tls.message.is_empty()
        });
        assert!(offers(&pod));
    }
    // Neither Postfix nor the pod was started anew, the proof holds, and mail arrives in the clear too.
    assert_eq!(pod.postfix_master(), master);
    let second = wanted.domain("example.com").mailbox("you@example.com");
    second.mount(&pod.volumes.revision());
    let report = pod.wait_for_revision(&second);
    assert!(report.domains.values().all(|proof| proof.accepted), "{report:?}");
    assert!(pod.rcpt("you@example.com").starts_with("250 "));
    assert!(pod.rcpt("you@elsewhere.example").starts_with("554 5.7.1"));
    assert!(shown(&pod).is_some());
}

#[test]
fn a_broken_pair_keeps_the_one_before() {
    let good = Pair::good();
    let volumes = Volumes::new();
    good.mount(&volumes);
    Wanted::one("example.org").mount(&volumes.revision());
    let pod = Pod::start(volumes, &[]);
    wait("the certificate", || (shown(&pod)? == good.certificate).then_some(()));

    let other = Pair::good();
    // A chain that OpenSSL does not take: only asking Postfix tells.
    let odd = format!("{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", other.certificate);
    let expired = Pair::expired();
    let broken: [(&str, &[(&str, &str)]); 6] = [
        ("does not belong", &[("tls.crt", &other.certificate), ("tls.key", &good.key)]),
        ("no private key", &[("tls.crt", &other.certificate), ("tls.key", "")]),
        ("no certificate", &[("tls.crt", ""), ("tls.key", &other.key)]),
        ("expired at", &[("tls.crt", &expired.certificate), ("tls.key", &expired.key)]),
        ("10025: STARTTLS: ", &[("tls.crt", &odd), ("tls.key", &other.key)]),
        ("is gone", &[]),
    ];
    for (message, files) in broken {
        mount(&pod.volumes, files);
        wait_for_message(&pod, message);
        assert_eq!(shown(&pod).as_ref(), Some(&good.certificate), "{message}");
    }
    other.mount(&pod.volumes);
    wait("the new certificate", || (shown(&pod)? == other.certificate).then_some(()));
    assert!(pod.rcpt("you@example.org").starts_with("250 "));

    // The key is root's alone, and in no log.
    let modes = pod.postfix(&[
        "stat",
        "-c",
        "%u:%g %a",
        "/run/vmail-operator/tls",
        "/run/vmail-operator/tls/chain.pem",
    ]);
    assert_eq!(
        modes.lines().map(|line| line.split(' ').next_back().unwrap()).collect::<Vec<_>>(),
        ["700", "600"]
    );
    let log = pod.log();
    for pair in [&good, &other, &expired] {
        let secret = pair.key.lines().nth(1).unwrap();
        assert!(!log.contains(secret));
    }
}

#[test]
fn as_the_first_one_a_broken_pair_offers_nothing_and_mail_is_served() {
    let (one, other) = (Pair::good(), Pair::good());
    let volumes = Volumes::new();
    mount(&volumes, &[("tls.crt", &one.certificate), ("tls.key", &other.key)]);
    let wanted = Wanted::one("example.org");
    wanted.mount(&volumes.revision());
    let pod = Pod::start(volumes, &[]);
    pod.wait_for_revision(&wanted);
    wait_for_message(&pod, "does not belong");
    assert!(!offers(&pod));
    assert!(pod.rcpt("you@example.org").starts_with("250 "));
}
