//! `check`.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::{CONFIG, directory, manifest, run, run_with};

const NOT_JUDGED: &str =
    "without --config, tenancy rules, cells, host names and the installation's postmaster are not judged";

/// Kind/namespace/name → type → [status, reason].
fn conditions(said: &Value) -> Value {
    let objects = said.as_array().expect("an array").iter().map(|object| {
        let text = |field: &str| object[field].as_str().expect("text").to_owned();
        let conditions = object["conditions"].as_array().expect("an array").iter().map(|condition| {
            let kind = condition["type"].as_str().expect("text").to_owned();
            (kind, json!([condition["status"], condition["reason"]]))
        });
        (format!("{}/{}/{}", text("kind"), text("namespace"), text("name")), conditions.collect::<Value>())
    });
    objects.collect()
}

#[test]
fn the_examples_are_accepted() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ran = run(repository, &["check", "-f", "examples", "-n", "mail", "-o", "json"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(ran.err, format!("vmail-operator: {NOT_JUDGED}\n"));
    let said = ran.json();
    assert_eq!(said.as_array().map(Vec::len), Some(10));
    for condition in
        said.as_array().into_iter().flatten().flat_map(|o| o["conditions"].as_array().expect("an array"))
    {
        assert_eq!(condition["status"], "True", "{said}");
    }
}

/// The shape is API: scripts read it.
#[test]
fn the_shape_of_the_result() {
    let files = directory(&[(
        "mail.yaml",
        &(manifest("Mailbox", "b", "address: b@example.org")
            + &manifest("Mailbox", "a", "address: A@example.org")
            + &manifest("MailDomain", "d", "domain: example.org")
            + &manifest("MailAlias", "l", "address: l@example.org, targets: [x@example.org, b@example.org]")),
    )]);
    let ran = run(files.path(), &["check", "-f", ".", "-o", "json"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let expected = json!([
        { "kind": "MailAlias", "namespace": "default", "name": "l", "conditions": [
            { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "" },
            { "type": "ResolvedRefs", "status": "False", "reason": "TargetNotFound",
              "message": "no Mailbox or MailAlias is behind x@example.org in a domain served here, so they are left out; create it or remove it from spec.targets" },
        ] },
        { "kind": "MailDomain", "namespace": "default", "name": "d", "conditions": [
            { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "" },
            { "type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "" },
        ] },
        { "kind": "Mailbox", "namespace": "default", "name": "a", "conditions": [
            { "type": "Accepted", "status": "False", "reason": "Invalid",
              "message": "spec.address: Invalid value: \"A@example.org\": write the address in lower case: you@example.org, not You@Example.ORG" },
        ] },
        { "kind": "Mailbox", "namespace": "default", "name": "b", "conditions": [
            { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "" },
        ] },
    ]);
    assert_eq!(ran.json(), expected);
    let yaml = run(files.path(), &["check", "-f", ".", "-o", "yaml"]);
    assert_eq!(serde_yaml::from_str::<Value>(&yaml.out).expect("YAML"), expected);
    assert_eq!(yaml.code, 1);
}

#[test]
fn the_table_says_what_is_wrong_and_where() {
    let files = directory(&[
        (
            "a/mail.yaml",
            &(manifest("MailDomain", "d", "domain: example.org")
                + &manifest("Mailbox", "b", "address: b@example.org")),
        ),
        ("b.yml", &manifest("Mailbox", "c", "address: b@example.org")),
        ("b.json", "{\"kind\": \"Deployment\", \"apiVersion\": \"apps/v1\"}"),
        ("README.md", "no: [yaml"),
        (".github/workflows/x.yaml", "no: [yaml"),
    ]);
    let ran = run(files.path(), &["check", "-f", "a", "b.yml", "-f", "b.json"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let expected = "\
KIND        NAMESPACE  NAME  ACCEPTED  REASON
MailDomain  default    d     True      Accepted
Mailbox     default    b     True      Accepted
Mailbox     default    c     False     AddressConflict

Mailbox default/c at b.yml:2 (document 1)
    b@example.org is already Mailbox b, which is older; delete one of the two
";
    assert_eq!(ran.out, expected);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80));
    assert_eq!(run(files.path(), &["check", "-f", "."]).out, expected.replace("at b.yml", "at ./b.yml"));
}

#[test]
fn what_is_refused_takes_part_in_no_rule() {
    let files = directory(&[(
        "mail.yaml",
        &(manifest("MailDomain", "a", "domain: example.org, cel: other")
            + &manifest("MailDomain", "b", "domain: example.org")
            + &manifest("Mailbox", "Upper", "address: a@example.org")
            + &manifest("Mailbox", "z", "address: a@example.org")),
    )]);
    let said = conditions(&run(files.path(), &["check", "-f", ".", "-o", "json"]).json());
    assert_eq!(said["MailDomain/default/a"]["Accepted"], json!(["False", "Invalid"]));
    assert_eq!(said["MailDomain/default/b"]["Accepted"], json!(["True", "Accepted"]));
    assert_eq!(said["Mailbox/default/Upper"]["Accepted"], json!(["False", "Invalid"]));
    assert_eq!(said["Mailbox/default/z"]["Accepted"], json!(["True", "Accepted"]));
}

#[test]
fn the_configuration_brings_its_rules() {
    let domain = |name: &str, spec: &str| manifest("MailDomain", name, spec);
    let files = directory(&[
        ("config.yaml", CONFIG),
        (
            "release/mail.yaml",
            &(domain("own", "domain: example.org") + &domain("host", "domain: mail.example.test")),
        ),
        (
            "team/mail.yaml",
            &(domain("given", "domain: a.example.net")
                + &domain("not-given", "domain: example.com")
                + &domain("cell", "domain: b.example.net, cell: third")),
        ),
    ]);
    let at = |directory: &str, namespace: &str, more: &[&str]| {
        let args = ["check", "-f", directory, "-n", namespace, "-o", "json"];
        let ran = run(files.path(), &[&args, more].concat());
        (ran.code, conditions(&ran.json()), ran.err)
    };
    let config: &[&str] = &["--config", "config.yaml"];

    let (code, said, err) = at("release", "mail", config);
    assert_eq!((code, err.as_str()), (1, ""));
    assert_eq!(said["MailDomain/mail/own"]["Accepted"], json!(["True", "Accepted"]));
    assert_eq!(said["MailDomain/mail/host"]["Accepted"], json!(["False", "ReservedDomain"]));

    let (code, said, err) = at("team", "team", config);
    assert_eq!(code, 1);
    assert_eq!(said["MailDomain/team/given"]["Accepted"], json!(["True", "Accepted"]));
    assert_eq!(said["MailDomain/team/not-given"]["Accepted"], json!(["False", "DomainNotPermitted"]));
    assert_eq!(said["MailDomain/team/cell"]["Accepted"], json!(["False", "CellNotFound"]));
    assert!(err.contains("the namespace of the release is taken to be mail"), "{err}");

    let (_, said, _) = at("team", "team", &[config, &["--release-namespace", "team"]].concat());
    assert_eq!(said["MailDomain/team/not-given"]["Accepted"], json!(["True", "Accepted"]));

    for directory in ["release", "team"] {
        let (code, said, err) = at(directory, "anything", &[]);
        assert_eq!(code, 0, "nothing of this is judged without a configuration: {said}");
        assert!(err.contains(NOT_JUDGED), "{err}");
    }
}

#[test]
fn standard_input_is_read() {
    let text = manifest("MailDomain", "d", "domain: example.org");
    let files = directory(&[("in", &text)]);
    let stdin = || File::open(files.path().join("in")).expect("opens");
    let ran = run_with(files.path(), &["check", "-f", "-"], stdin());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("MailDomain  default    d "), "{}", ran.out);
}

#[test]
fn what_cannot_be_read_is_two_and_the_rest_is_judged() {
    let good = manifest("MailDomain", "d", "domain: example.org");
    let files = directory(&[
        ("good.yaml", &good),
        ("again.yaml", &good),
        ("bad.yaml", "a: [1"),
        ("config.yaml", "name: x"),
    ]);
    std::fs::write(files.path().join("binary.yaml"), [0xff, 0xfe]).expect("writes");
    for (args, sentence) in [
        (&["-f", "good.yaml", "-f", "bad.yaml"][..], "bad.yaml:1 (document 1): this is no YAML: "),
        (&["-f", "good.yaml", "binary.yaml"], "binary.yaml: is not UTF-8 text: "),
        (&["-f", "good.yaml", "gone"], "gone: cannot be read: No such file"),
        (
            &["-f", "good.yaml", "again.yaml"],
            "again.yaml:2 (document 1): MailDomain default/d is at good.yaml:2 (document 1) already; remove one of the two",
        ),
    ] {
        let ran = run(files.path(), &[&["check"], args].concat());
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(&format!("vmail-operator: {sentence}")), "{args:?}: {}", ran.err);
        assert!(ran.out.contains("MailDomain  default    d     True      Accepted"), "{args:?}: {}", ran.out);
    }
    let twice = run(files.path(), &["check", "-f", "good.yaml", "-f", "./good.yaml"]);
    assert_eq!(twice.code, 0, "the same file is no second object: {}", twice.err);

    let ran = run(files.path(), &["check", "-f", "good.yaml", "--config", "config.yaml"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("the configuration config.yaml is not valid"), "{}", ran.err);
    for usage in [
        &["check"][..],
        &["check", "-f", "a", "-o", "xml"],
        &["check", "-f", "a", "--release-namespace", "x"],
    ] {
        assert_eq!(run(files.path(), usage).code, 2);
    }
}

#[test]
fn nothing_of_ours_is_told() {
    let files = directory(&[("other.yaml", "apiVersion: v1\nkind: Service\n")]);
    let ran = run(files.path(), &["check", "-f", ".", "-o", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "[]\n"));
    assert!(ran.err.contains("there is no MailDomain, Mailbox or MailAlias"), "{}", ran.err);
    assert_eq!(run(files.path(), &["check", "-f", "."]).out, "");
}

#[test]
fn shells_can_complete() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(Path::new("."), &["completion", shell]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        for word in ["check", "render", "release-namespace"] {
            assert!(ran.out.contains(word), "{shell} does not know {word}");
        }
        assert!(!ran.out.contains("probe-storage"), "{shell} completes a command that nobody types");
    }
    assert_eq!(run(Path::new("."), &["completion", "command.com"]).code, 2);
}
