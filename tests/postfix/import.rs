//! What `import` makes of a hand-made Postfix, against what that Postfix's own tables say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use vmail_operator::api::address::Address;
use vmail_operator::config::Config;
use vmail_operator::directory::{Directory, Rules};
use vmail_operator::manifests;

use crate::pod::Pod;
use crate::revision::Wanted;

/// The tables of the old server, compiled by its own postmap, in a pod that has one.
struct Old {
    pod: Pod,
    domains: BTreeSet<String>,
}

const HANDMADE: &str = "examples/handmade";

impl Old {
    fn new(domains: &[&str]) -> Self {
        let pod = Pod::serving(&Wanted::one("elsewhere.example"));
        let there = pod.volumes.vmail().join("old");
        fs::create_dir(&there).unwrap();
        for table in ["virtual_mailbox", "virtual_aliases"] {
            fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(HANDMADE).join(table), there.join(table))
                .unwrap();
            pod.postfix(&["postmap", &format!("cdb:/var/vmail/old/{table}")]);
        }
        Self { pod, domains: domains.iter().map(|&name| name.to_owned()).collect() }
    }

    fn ask(&self, table: &str, key: &str) -> Option<String> {
        let said = self.pod.postfix(&["postmap", "-q", key, &format!("cdb:/var/vmail/old/{table}")]);
        let said = said.trim().to_owned();
        (!said.is_empty()).then_some(said)
    }

    /// What virtual(5) and virtual(8) look up, in their order.
    fn alias(&self, address: &str) -> Option<BTreeSet<String>> {
        let (local, domain) = address.split_once('@').unwrap();
        let base = local.split('+').next().unwrap();
        let keys = [address.to_owned(), format!("{base}@{domain}"), format!("@{domain}")];
        let value = keys.iter().find_map(|key| self.ask("virtual_aliases", key))?;
        Some(value.split([',', ' ', '\t']).filter(|word| !word.is_empty()).map(str::to_lowercase).collect())
    }

    fn accepts(&self, address: &str) -> bool {
        let (local, domain) = address.split_once('@').unwrap();
        let base = format!("{}@{domain}", local.split('+').next().unwrap());
        self.domains.contains(domain)
            && (self.alias(address).is_some() || self.ask("virtual_mailbox", &base).is_some())
    }
}

#[test]
fn an_import_serves_the_same_addresses() {
    let out = tempfile::tempdir().unwrap();
    let ran = Command::new(env!("CARGO_BIN_EXE_vmail-operator"))
        .args(["import", "--config-directory", HANDMADE, "--namespace", "mail", "--out"])
        .arg(out.path())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(1), "something is left out: {}", String::from_utf8_lossy(&ran.stderr));
    let report = fs::read_to_string(out.path().join("import-report.txt")).unwrap();
    assert_eq!(report, String::from_utf8_lossy(&ran.stderr));

    let manifests = manifests::read(&[out.path().to_owned()], "mail");
    assert!(manifests.problems.is_empty(), "{:?}", manifests.problems);
    let objects = manifests::judge(&manifests);
    let config = Config::parse(
        "{name: v, postmaster: p@remote.example, cells: {default: {hostname: mail.example.test, pod: p}}, dns: {powerdns: {url: '', apiKeyFile: k}}}",
    )
    .unwrap();
    let rules = Rules { config: &config, namespace: "mail", records: &BTreeMap::new() };
    let directory = Directory::compute(&objects, rules);
    let verdicts = directory.domain_verdicts.values().chain(directory.mailbox_verdicts.values());
    for verdict in verdicts.chain(directory.alias_verdicts.values()) {
        assert!(verdict.accepted.is_ok() && verdict.resolved_refs.is_ok(), "{verdict:?}");
    }

    let old = Old::new(&["example.org", "example.net", "lists.example.org"]);
    let locals = [
        "you",
        "you+tag",
        "info",
        "admin",
        "me",
        "old",
        "sales",
        "press",
        "team",
        "backup",
        "unknown",
        "abuse",
        "postmaster",
        "root",
    ];
    let domains = ["example.org", "example.net", "lists.example.org", "example.com"];
    let (mut same, mut accepted) = (0, 0);
    for address in
        domains.iter().flat_map(|domain| locals.iter().map(move |local| format!("{local}@{domain}")))
    {
        let parsed = Address::target(&address).unwrap();
        let served = directory.domains.contains_key(parsed.domain()) && directory.accepts(&parsed);
        let role = ["abuse", "postmaster", "root"].contains(&parsed.local());
        if report.contains(&format!("left out: {address} ")) || (role && served) {
            continue;
        }
        assert_eq!(served, old.accepts(&address), "{address}");
        let line = parsed.lookup_order().find_map(|key| directory.aliases.get(&key));
        if let Some(targets) = line.filter(|_| served && !role) {
            let targets: BTreeSet<String> =
                targets.iter().map(|target| target.to_string().to_lowercase()).collect();
            assert_eq!(Some(targets), old.alias(&address), "{address}");
        }
        same += 1;
        accepted += usize::from(served);
    }
    assert!(same > 40 && accepted > 15, "{same} {accepted}");
}
