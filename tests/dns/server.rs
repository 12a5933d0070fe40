//! A PowerDNS for each test, on free loopback ports. (With one for all, SQLite would answer writers
//! that come at the same time with "database is locked", which PowerDNS makes a 500.)

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use vmail_operator::dns::PowerDns;

pub const KEY: &str = "key-that-must-not-be-seen";
const SCHEMA: &str = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";

pub struct Server {
    child: Child,
    dir: TempDir,
    pub api: SocketAddr,
    pub dns: SocketAddr,
    http: reqwest::Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server for one test.
pub fn server() -> Server {
    server_with("")
}

/// A server with more settings. Ports are free when they are chosen and may be gone when they are used.
pub fn server_with(settings: &str) -> Server {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut failure = String::new();
    for _ in 0..5 {
        match try_start(settings) {
            Ok(server) => return server,
            Err(error) => failure = error,
        }
    }
    panic!("no PowerDNS (packages pdns-server, pdns-backend-sqlite3 and sqlite3): {failure}")
}

fn try_start(settings: &str) -> Result<Server, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = dir.path().display();
    let database = dir.path().join("pdns.sqlite");
    let schema = fs::File::open(SCHEMA).map_err(|error| format!("{SCHEMA}: {error}"))?;
    let made = Command::new("sqlite3").arg(&database).stdin(schema).status();
    if !made.as_ref().is_ok_and(|status| status.success()) {
        return Err(format!("sqlite3: {made:?}"));
    }
    let (api, dns) = (free_port(), free_port());
    let config = format!(
        "launch=gsqlite3\ngsqlite3-database={path}/pdns.sqlite\ngsqlite3-pragma-synchronous=0\n\
         local-address=127.0.0.1\nlocal-port={}\nsocket-dir={path}\n\
         webserver=yes\nwebserver-address=127.0.0.1\nwebserver-port={}\napi=yes\napi-key={KEY}\n\
         guardian=no\ndaemon=no\nreceiver-threads=1\ndistributor-threads=1\n\
         cache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nzone-cache-refresh-interval=0\n\
         {settings}\n",
        dns.port(),
        api.port(),
    );
    fs::write(dir.path().join("pdns.conf"), config).map_err(|error| error.to_string())?;
    let log = fs::File::create(dir.path().join("log")).map_err(|error| error.to_string())?;
    let program = ["/usr/sbin/pdns_server", "/usr/local/sbin/pdns_server"]
        .into_iter()
        .find(|program| fs::exists(program).unwrap_or_default())
        .unwrap_or("pdns_server");
    let child = Command::new(program)
        .arg(format!("--config-dir={path}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|error| error.to_string())?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let mut server = Server { child, dir, api, dns, http: reqwest::Client::new() };
    server.wait()?;
    Ok(server)
}

fn free_port() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = tcp.local_addr().expect("its address");
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

impl Server {
    /// Until the API takes connections: it comes last.
    fn wait(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(self.api).is_err() {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?.is_some();
            if ended || Instant::now() > deadline {
                return Err(fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub fn client(&self) -> PowerDns {
        super::client(&self.url(), KEY)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let url = format!("{}/api/v1/servers/localhost/zones{path}", self.url());
        let request = self.http.request(method, url).header("X-API-Key", KEY).json(&body);
        let response = request.send().await.expect("PowerDNS answers");
        let status = response.status();
        let text = response.text().await.expect("a body");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A zone of the test's own.
    pub async fn zone(&self, name: &str, kind: &str) {
        self.zone_with(name, kind, Vec::new()).await;
    }

    /// A zone that has these RRsets from its first moment on.
    pub async fn zone_with(&self, name: &str, kind: &str, rrsets: Vec<Value>) {
        let mut zone = json!({"name": format!("{name}."), "kind": kind});
        if kind == "Slave" {
            zone["masters"] = json!(["192.0.2.1"]);
        } else {
            zone["nameservers"] = json!(["ns.us.test."]);
        }
        if !rrsets.is_empty() {
            zone["rrsets"] = Value::Array(rrsets);
        }
        self.call(reqwest::Method::POST, "", zone).await;
    }

    /// A copy of a zone of another server's.
    pub async fn copy(&self, name: &str, primary: &Server) {
        let zone = json!({"name": format!("{name}."), "kind": "Slave", "masters": [primary.dns.to_string()]});
        self.call(reqwest::Method::POST, "", zone).await;
        self.retrieve(name).await;
    }

    /// Has a copy look for news now; otherwise it does when a NOTIFY came, or when SOA refresh or retry says so.
    pub async fn retrieve(&self, name: &str) {
        self.call(reqwest::Method::PUT, &format!("/{name}./axfr-retrieve"), Value::Null).await;
    }

    /// All RRsets of a zone, as text by name and type.
    pub async fn rrsets(&self, zone: &str) -> BTreeMap<(String, String), String> {
        let zone = self.call(reqwest::Method::GET, &format!("/{zone}."), Value::Null).await;
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let rrsets = zone["rrsets"].as_array().expect("rrsets").iter();
        let sorted = |rrset: &Value| {
            // In whichever order the database has them today.
            let mut records: Vec<String> =
                rrset["records"].as_array().expect("records").iter().map(Value::to_string).collect();
            records.sort();
            format!("{} {} {}", rrset["ttl"], rrset["comments"], records.join(" "))
        };
        rrsets.map(|rrset| ((text(&rrset["name"]), text(&rrset["type"])), sorted(rrset))).collect()
    }

    /// Runs pdnsutil(1) on this server's database.
    pub fn pdnsutil(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("pdnsutil");
        command.arg(format!("--config-dir={}", self.dir.path().display())).args(arguments);
        let output = command.output().expect("pdnsutil");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{arguments:?}: {}", text.concat());
        text.concat()
    }

    /// A directory that goes with the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub async fn set_zone(&self, name: &str, settings: Value) {
        self.call(reqwest::Method::PUT, &format!("/{name}."), settings).await;
    }

    pub async fn delete_zone(&self, name: &str) {
        self.call(reqwest::Method::DELETE, &format!("/{name}."), Value::Null).await;
    }

    /// What somebody else does.
    pub async fn put(&self, zone: &str, name: &str, kind: &str, ttl: u32, contents: &[&str]) {
        let records: Vec<_> = contents
            .iter()
            .map(|content| match content.strip_suffix(" (disabled)") {
                Some(content) => json!({"content": content, "disabled": true}),
                None => json!({"content": content, "disabled": false}),
            })
            .collect();
        let rrset = json!({"name": format!("{name}."), "type": kind, "ttl": ttl, "changetype": "REPLACE", "records": records});
        self.call(reqwest::Method::PATCH, &format!("/{zone}."), json!({"rrsets": [rrset]})).await;
    }

    /// The contents at a name, and their time to live.
    pub async fn get(&self, zone: &str, name: &str, kind: &str) -> Option<(u64, Vec<String>)> {
        let all = self.call(reqwest::Method::GET, &format!("/{zone}."), Value::Null).await;
        let rrsets = all["rrsets"].as_array().expect("rrsets");
        let rrset =
            rrsets.iter().find(|rrset| rrset["name"] == format!("{name}.") && rrset["type"] == kind)?;
        let records = rrset["records"].as_array().expect("records");
        let contents = records.iter().map(|record| record["content"].as_str().expect("content").to_owned());
        Some((rrset["ttl"].as_u64().expect("ttl"), contents.collect()))
    }

    pub async fn serial(&self, zone: &str) -> u64 {
        self.call(reqwest::Method::GET, &format!("/{zone}."), Value::Null).await["serial"]
            .as_u64()
            .expect("serial")
    }
}
