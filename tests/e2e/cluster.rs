//! The local cluster, seen from outside: through kubectl, helm, dig and SMTP.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::smtp::Session;

pub struct Cluster {
    name: String,
    script: PathBuf,
    env: BTreeMap<String, String>,
}

/// Polls until `check` answers, or fails with what it said last.
pub fn eventually<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) => assert!(began.elapsed() < limit, "{what}: not within {limit:?}; last: {last}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(output: Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!("{}: {}{stdout}", output.status, String::from_utf8_lossy(&output.stderr)))
}

impl Cluster {
    /// Brings up a fresh cluster with the images of the binary under test.
    pub fn up(name: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
        let run = |arguments: &[&str]| {
            let status =
                Command::new(&script).args(arguments).stdin(Stdio::null()).status().expect("the script runs");
            assert!(status.success(), "cluster {arguments:?}: {status}");
        };
        run(&["down", "--name", name]);
        run(&["up", "--name", name]);
        run(&["images", env!("CARGO_BIN_EXE_vmail-operator"), "--name", name]);
        let states = std::env::var("VMAIL_STATE").unwrap_or_else(|_| "/var/tmp/vmail-operator".to_owned());
        let env = std::fs::read_to_string(Path::new(&states).join(name).join("env"))
            .expect("the cluster's env file");
        let env = env.lines().filter_map(|line| line.split_once('='));
        let env = env.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
        Self { name: name.to_owned(), script, env }
    }

    /// Loads the images of an older commit, with the tag `previous`, and says where its source is.
    pub fn previous(&self, commit: &str) -> PathBuf {
        let output = Command::new(&self.script)
            .args(["previous", commit, "--name", &self.name])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output();
        let said = text(output.expect("the script runs")).expect("the older version is built");
        PathBuf::from(said.trim())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A setting of the cluster's env file.
    pub fn env(&self, key: &str) -> &str {
        self.env.get(key).unwrap_or_else(|| panic!("the cluster's env file has no {key}"))
    }

    /// Stops (`kill -9`) or starts one of the cluster's programs, as `tests/cluster/cluster` names them.
    pub fn program(&self, verb: &str, program: &str) {
        let output = Command::new(&self.script).args([verb, "--name", &self.name, program]).output();
        text(output.expect("the script runs")).unwrap_or_else(|error| panic!("{verb} {program}: {error}"));
    }

    /// The process with number 1 in the cluster's namespaces, as the machine sees it.
    pub fn pid(&self) -> &str {
        self.env("NSENTER").split_whitespace().nth(2).expect("nsenter -t PID")
    }

    /// Runs a command in the cluster's namespaces.
    pub fn exec(&self, command: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(&self.script)
            .args(["exec", "--name", &self.name, "--"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script runs");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that does not read its input may close it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        text(child.wait_with_output().expect("it ends"))
    }

    /// The namespace of the release, with the key of the PowerDNS API as the Secret `powerdns`.
    pub fn make_release_namespace(&self) -> Result<(), String> {
        self.kubectl(&["create", "namespace", "mail"])?;
        let key = format!("--from-file=api-key={}", self.env("PDNS_API_KEY_FILE"));
        self.kubectl(&["create", "secret", "generic", "powerdns", "-n", "mail", &key]).map(drop)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.exec(&[&["kubectl"], arguments].concat(), "")
    }

    pub fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        self.exec(&[&["helm"], arguments].concat(), "")
    }

    /// Values with which the chart runs here, with these images or those of another tag; JSON is YAML, too.
    pub fn chart_values(&self, other_tag: Option<&str>) -> serde_json::Value {
        let image = |key: &str| {
            let (repository, tag) = self.env(key).rsplit_once(':').expect("name:tag");
            json!({ "repository": repository, "tag": other_tag.unwrap_or(tag) })
        };
        json!({
            "hostname": self.env("MAIL_HOST"),
            "postmaster": "hostmaster@example.com",
            "postfix": { "settleSeconds": 0 },
            "dns": { "powerdns": { "url": self.env("PDNS_URL"), "secretName": "powerdns" } },
            "service": { "type": "ClusterIP", "externalIPs": [self.env("NODE_IP")] },
            "image": {
                "pullPolicy": "Never",
                "operator": image("IMAGE_OPERATOR"),
                "postfix": image("IMAGE_POSTFIX"),
            },
            "storage": { "vmail": { "size": "1Gi" }, "spool": { "size": "1Gi" } },
        })
    }

    pub fn apply(&self, namespace: &str, yaml: &str) -> Result<String, String> {
        self.exec(&["kubectl", "apply", "-n", namespace, "-f", "-"], yaml)
    }

    /// A field of an object, or the empty string.
    pub fn field(&self, namespace: &str, object: &str, jsonpath: &str) -> Result<String, String> {
        self.kubectl(&["get", "-n", namespace, object, "-o", &format!("jsonpath={jsonpath}")])
    }

    /// Status, reason and message of a condition.
    pub fn condition(&self, namespace: &str, object: &str, kind: &str) -> Result<String, String> {
        let path = format!(
            "{{range .status.conditions[?(@.type==\"{kind}\")]}}{{.status}} {{.reason}} {{.message}}{{end}}"
        );
        self.field(namespace, object, &path)
    }

    /// Waits as a user would.
    pub fn wait_ready(&self, namespace: &str, object: &str) {
        self.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", object, "--timeout=90s"])
            .unwrap_or_else(|error| {
                panic!(
                    "{object} does not become ready: {error}; {:?}",
                    self.field(namespace, object, "{.status}")
                )
            });
    }

    /// The MX records that the name server gives out, without the operator's help.
    pub fn dig_mx(&self, domain: &str) -> String {
        let (server, port) = self.env("PDNS_DNS").rsplit_once(':').expect("address:port");
        let answer = self.exec(
            &["dig", "+short", "+time=2", "+tries=1", &format!("@{server}"), "-p", port, domain, "MX"],
            "",
        );
        answer.expect("the name server answers").trim().to_owned()
    }

    /// Replaces or deletes an MX past the operator.
    pub fn change_mx(&self, change: &str, zone: &str, name: &str, content: &str) {
        self.change_rrset(change, zone, name, "MX", content);
    }

    /// Replaces or deletes an RRset with TTL 300.
    pub fn change_rrset(&self, change: &str, zone: &str, name: &str, kind: &str, content: &str) {
        let key = std::fs::read_to_string(self.env("PDNS_API_KEY_FILE")).expect("the key");
        let key = format!("X-API-Key: {}", key.trim());
        let body = format!(
            "{{\"rrsets\":[{{\"name\":\"{name}.\",\"type\":\"{kind}\",\"ttl\":300,\"changetype\":\"{change}\",\"records\":[{{\"content\":\"{content}\",\"disabled\":false}}]}}]}}"
        );
        let url = format!("{}/api/v1/servers/localhost/zones/{zone}.", self.env("PDNS_URL"));
        self.exec(&["curl", "-sSf", "-X", "PATCH", "-H", &key, "-d", &body, &url], "")
            .expect("PowerDNS takes it");
    }

    /// Where the world sends mail to.
    pub fn smtp(&self) -> Result<Session, String> {
        Session::open(self.pid(), &format!("{}:25", self.env("NODE_IP")))
    }

    /// The answer to RCPT TO in a session of its own.
    pub fn rcpt(&self, address: &str) -> Result<u16, String> {
        let mut session = self.smtp()?;
        session.command("MAIL FROM:<sender@example.com>")?;
        Ok(session.command(&format!("RCPT TO:<{address}>"))?.0)
    }

    /// Sends a message, and says with which answer it was taken.
    pub fn send(&self, to: &str, subject: &str) -> u16 {
        let send = || {
            let mut session = self.smtp()?;
            session.command("MAIL FROM:<sender@example.com>")?;
            let (code, answer) = session.command(&format!("RCPT TO:<{to}>"))?;
            if code != 250 {
                return Err(format!("{code} {answer}"));
            }
            session.command("DATA")?;
            session.command(&format!("Subject: {subject}\r\n\r\nHello.\r\n."))
        };
        send().unwrap_or_else(|error| panic!("mail to {to}: {error}")).0
    }

    /// Owner and path of the message with this subject, wherever below /var/vmail it lies.
    pub fn find_mail(&self, pod: &str, subject: &str) -> Vec<String> {
        let script = format!("grep -rls 'Subject: {subject}$' /var/vmail | xargs -r stat -c '%u:%g %n'");
        let found = self.kubectl(&["exec", "-n", "mail", pod, "--", "sh", "-c", &script]).unwrap_or_default();
        let mut lines: Vec<String> = found.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Waits until the message lies in the Maildirs of exactly these addresses.
    pub fn expect_mail(&self, pod: &str, subject: &str, addresses: &[&str]) {
        eventually(&format!("mail `{subject}` in {addresses:?}"), Duration::from_secs(30), || {
            let found = self.find_mail(pod, subject);
            let fits = found.len() == addresses.len()
                && addresses.iter().all(|address| {
                    let (local, domain) = address.split_once('@').expect("an address");
                    let start = format!("2000:2000 /var/vmail/{domain}/{local}/new/");
                    found.iter().any(|line| line.starts_with(&start))
                });
            if fits { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
}

impl Cluster {
    /// What one wants to know when something went wrong.
    pub fn tell(&self) {
        for command in [
            "kubectl get nodes,pods,md,mbx,ma -A -o wide",
            "kubectl describe nodes",
            "kubectl describe pods -n mail",
            "kubectl logs -n mail deploy/vmail-operator --tail=60",
            "kubectl logs -n mail vmail-postfix-default-0 --tail=60",
            "kubectl get configmaps -n mail -o name",
            "kubectl get endpointslices -n mail -o yaml",
            "kubectl get events -n mail --sort-by=.lastTimestamp",
            "iptables-save -c",
        ] {
            let command: Vec<&str> = command.split(' ').collect();
            let said = self.exec(&command, "").unwrap_or_else(|error| error);
            eprintln!("--- {}: {}\n{said}", self.name, command.join(" "));
        }
        for program in ["apiserver", "controllers", "scheduler", "containerd", "kubelet", "proxy"] {
            let log = format!("{}/log/{program}.log", self.env("CLUSTER_STATE"));
            let said = self.exec(&["tail", "-n", "40", &log], "").unwrap_or_else(|error| error);
            eprintln!("--- {}: {log}\n{said}", self.name);
        }
        eprintln!("--- {}: {}", self.name, self.summary());
    }

    /// In a few lines: which of the cluster's programs do not run, and how far each node and each pod has come.
    pub fn summary(&self) -> String {
        let output = Command::new(&self.script).args(["status", "--name", &self.name]).output();
        let status = output.expect("the script runs").stdout;
        let status = String::from_utf8_lossy(&status);
        let stopped = status.lines().filter(|line| line.contains("does not run")).map(str::to_owned);
        let path = "jsonpath={range .items[*]}{.kind} {.metadata.name} on {.spec.nodeName}: {.status.phase}{range .spec.taints[*]} taint {.key}{end}{range .status.conditions[?(@.status!=\"True\")]} {.type}={.status} {.reason}{end}{range .status.containerStatuses[*]} {.state}{end}\n{end}";
        let objects = self.kubectl(&["get", "nodes,pods", "-A", "-o", path]).unwrap_or_else(|error| error);
        stopped.chain(objects.lines().map(str::to_owned)).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
            if std::env::var_os("VMAIL_KEEP").is_some() {
                return;
            }
        }
        // Taken away at the next start otherwise.
        let _ = Command::new(&self.script).args(["down", "--name", &self.name]).status();
    }
}
