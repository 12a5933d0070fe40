//! A real kube-apiserver on a real etcd, on free loopback ports, for one test process.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};

const DEADLINE: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-for-this-test-alone";
const OPERATOR_TOKEN: &str = "a-token-for-the-operator-in-this-test";

pub struct ApiServer {
    processes: Vec<Child>,
    pub client: Client,
    url: String,
    programs: PathBuf,
    dir: tempfile::TempDir,
}

/// Who asks the API server.
#[derive(Clone, Copy)]
pub enum User {
    /// May do everything.
    Admin,
    /// The service account `vmail-operator` in namespace `mail`: may do what RBAC allows it.
    Operator,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Where `tests/cluster/cluster build` put the Kubernetes programs.
pub fn programs() -> PathBuf {
    if let Ok(dir) = std::env::var("VMAIL_KUBERNETES") {
        return dir.into();
    }
    built("programs")
}

/// The path that `tests/cluster/cluster WHAT` prints, after it built what is missing.
pub fn built(what: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
    let mut command = Command::new(script);
    PathBuf::from(run(command.arg(what), "").unwrap_or_else(|error| panic!("cluster {what}: {error}")).trim())
}

/// What a command prints, or how it fails.
pub fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(|error| format!("it does not start: {error}"))?;
    // A command that does not read its input may close it.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(stdout),
        false => Err(format!("{}: {}{stdout}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port()
}

impl ApiServer {
    pub async fn start() -> Self {
        // Another server of this process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (programs, dir) = (programs(), tempfile::tempdir().expect("a directory"));
        let at = |name: &str| dir.path().join(name);
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let spawn = |program: &str, args: &[String]| {
            let log = std::fs::File::create(dir.path().join(format!("{program}.log"))).expect("a log");
            Command::new(programs.join(program))
                .args(args)
                .stdout(log.try_clone().expect("a log"))
                .stderr(log)
                .stdin(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{program} does not start: {error}"))
        };
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let etcd = spawn(
            "etcd",
            &[
                format!("--data-dir={}", at("etcd").display()),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=default={peer_url}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        );

        let users = format!(
            "{TOKEN},admin,admin,system:masters\n\
             {OPERATOR_TOKEN},system:serviceaccount:mail:vmail-operator,operator,system:serviceaccounts\n"
        );
        std::fs::write(at("tokens.csv"), users).expect("writes");
        let key = at("service-accounts.pem");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output();
        assert!(made.expect("openssl runs").status.success(), "openssl makes no key");
        let server = spawn(
            "kube-apiserver",
            &[
                format!("--etcd-servers={etcd_url}"),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                format!("--secure-port={port}"),
                format!("--cert-dir={}", at("certs").display()),
                format!("--token-auth-file={}", at("tokens.csv").display()),
                format!("--service-account-key-file={}", key.display()),
                format!("--service-account-signing-key-file={}", key.display()),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/24,fd00:96::/112".to_owned(),
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
            ],
        );

        let url = format!("https://127.0.0.1:{port}");
        let mut config = Config::new(url.parse().expect("a URL"));
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo { token: Some(TOKEN.to_owned().into()), ..AuthInfo::default() };
        let client = Client::try_from(config).expect("a client");
        let server = Self { processes: vec![etcd, server], client, url, programs, dir };
        server.wait_until_ready().await;
        server
    }

    /// Creates the definitions of our kinds, and waits until they are served.
    pub async fn install_crds(&self) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for crd in vmail_operator::api::crds() {
            let name = crd.metadata.name.clone().expect("a name");
            api.create(&PostParams::default(), &crd)
                .await
                .unwrap_or_else(|error| panic!("{name} is refused: {error}"));
            let began = Instant::now();
            loop {
                let crd = api.get(&name).await.expect("it was created");
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                if let Some(wrong) =
                    conditions.iter().find(|c| c.type_ == "NonStructuralSchema" && c.status == "True")
                {
                    panic!("{name}: {}", wrong.message.clone().unwrap_or_default());
                }
                if conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(30), "{name} is not established");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// URL and token of the admin, for tests/faults.
    #[allow(dead_code)]
    pub fn admin(&self) -> (String, String) {
        (self.url.clone(), TOKEN.to_owned())
    }

    /// A kubeconfig file.
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        let (name, token) = match user {
            User::Admin => ("admin", TOKEN),
            User::Operator => ("operator", OPERATOR_TOKEN),
        };
        let file = self.dir.path().join(format!("{name}.kubeconfig"));
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": self.url, "insecure-skip-tls-verify": true } }],
            "users": [{ "name": name, "user": { "token": token } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": name } }],
            "current-context": "c",
        });
        std::fs::write(&file, config.to_string()).expect("writes");
        file
    }

    /// A `kubectl` for the admin, to be given arguments.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        // Its own cache of what the server knows, or another server's answers stay in there.
        command
            .env("KUBECONFIG", self.kubeconfig(User::Admin))
            .env("KUBECACHEDIR", self.dir.path().join("cache"));
        command
    }

    async fn wait_until_ready(&self) {
        let began = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            let answer = self.client.request_text(request).await;
            if answer.as_ref().is_ok_and(|text| text == "ok") {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "the API server does not get ready: {answer:?}; logs are in {}",
                self.dir.path().display()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
