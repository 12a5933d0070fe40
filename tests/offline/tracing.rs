//! `trace`.

use serde_json::json;

use crate::program::{directory, manifest, run};

const MANIFESTS: [(&str, &str, &str); 6] = [
    ("MailDomain", "d", "domain: example.org, catchAll: you@example.org"),
    ("Mailbox", "you", "address: you@example.org"),
    ("Mailbox", "late", "address: you@example.org"),
    (
        "MailAlias",
        "copy",
        "address: you@example.org, targets: [you@example.org, x@remote.example, no@example.net]",
    ),
    ("MailAlias", "dead", "address: dead@example.org, targets: [nobody@example.net]"),
    ("MailDomain", "e", "domain: example.net"),
];

fn files() -> tempfile::TempDir {
    let all: String = MANIFESTS.iter().map(|(kind, name, spec)| manifest(kind, name, spec)).collect();
    directory(&[("mail.yaml", &all)])
}

#[test]
fn mail_is_followed_to_each_end() {
    let files = files();
    let ran = run(files.path(), &["trace", "You+lists@example.org", "-f", "."]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(
        ran.out,
        "You+lists@example.org
  answer   250 accepted
  domain   example.org (MailDomain default/d), class Mailbox, cell default, Serving
  MX       10 mail.invalid (not known to be published)
  alias    you@example.org (MailAlias default/copy) -> you@example.org, x@remote.example
           left out, nobody is behind: no@example.net
  mailbox  you@example.org (Mailbox default/late) in /var/vmail/example.org/you/
  remote   x@remote.example
"
    );
    let ran = run(files.path(), &["trace", "anybody@example.org", "-f", ".", "-o", "json"]);
    let aliases = ran.json()["aliases"].clone();
    assert_eq!(aliases[0]["address"], "@example.org");
    assert_eq!(aliases[0]["by"], "catch-all of MailDomain default/d");
}

#[test]
fn a_refusal_is_explained() {
    let files = files();
    for (address, code, why) in [
        ("dead@example.org", 550, "MailAlias default/dead: TargetNotFound: "),
        ("nobody@example.net", 550, "no Mailbox, MailAlias or catch-all is behind nobody@example.net"),
        ("you@elsewhere.example", 554, "no MailDomain serves elsewhere.example"),
    ] {
        let ran = run(files.path(), &["trace", address, "-f", ".", "-o", "json"]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        let said = ran.json();
        assert_eq!((&said["accepted"], &said["code"]), (&json!(false), &json!(code)));
        assert!(said["why"][0].as_str().is_some_and(|said| said.starts_with(why)), "{said}");
    }
    let ran = run(files.path(), &["trace", "not an address", "-f", "."]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("is not an address such as you@example.org"), "{}", ran.err);
}

#[test]
fn without_a_cluster_it_says_what_to_do() {
    let files = directory(&[]);
    let ran = run(files.path(), &["trace", "you@example.org"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("KUBECONFIG") && ran.err.contains("-f"), "{}", ran.err);
}
