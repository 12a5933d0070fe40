use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::yaml::{Document, documents};
use super::*;

fn read_text(text: &str) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.add(Path::new("a.yaml"), text, "default");
    manifests
}

/// Kind, namespace and name of what was found, and the complaints.
fn found(text: &str) -> (Vec<String>, Vec<String>) {
    let manifests = read_text(text);
    let objects = manifests.objects.keys().map(|(kind, id)| format!("{kind} {id}"));
    (objects.collect(), manifests.problems.iter().map(Problem::to_string).collect())
}

/// The one complaint about a text.
fn complaint(text: &str) -> String {
    let (_, problems) = found(text);
    assert_eq!(problems.len(), 1, "{text}: {problems:?}");
    problems[0].clone()
}

const MAILBOX: &str =
    "apiVersion: vmail.dev/v1alpha1\nkind: Mailbox\nmetadata: {name: a}\nspec: {address: a@example.org}\n";

fn mailbox(name: &str) -> String {
    MAILBOX.replace("{name: a}", &format!("{{name: {name}}}"))
}

#[test]
fn what_is_not_ours_is_left_out() {
    let text = format!(
        "# a comment alone\n---\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\n---\n{MAILBOX}---\n\
         apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n---\n- op: add\n  path: /a\n---\n\
         just text\n---\napiVersion: other.example/v1\nkind: Mailbox\nmetadata: {{name: b}}\n---\nreplicas: 3\n"
    );
    assert_eq!(found(&text), (vec!["Mailbox default/a".to_owned()], vec![]));
    assert_eq!(found(""), (vec![], vec![]));
    assert_eq!(found("# nothing\n"), (vec![], vec![]));
    assert_eq!(found("---\n---\n"), (vec![], vec![]));
}

#[test]
fn a_place_names_line_document_and_item() {
    let text = format!("# first\n---\n{MAILBOX}---\n{MAILBOX}");
    let again =
        "a.yaml:8 (document 2): Mailbox default/a is at a.yaml:3 (document 1) already; remove one of the two";
    assert_eq!(complaint(&text), again);
    let item = json!({ "apiVersion": "vmail.dev/v1", "kind": "Mailbox" });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [item] }).to_string();
    assert!(complaint(&list).starts_with("a.yaml:1 (document 1, item 1): there is no version"));
}

#[test]
fn lists_are_unpacked() {
    let item = |name: &str| json!({ "apiVersion": "vmail.dev/v1alpha1", "kind": "Mailbox", "metadata": { "name": name } });
    let inner =
        json!({ "apiVersion": "v1", "kind": "List", "items": [item("b"), { "kind": "Secret" }, null, 5] });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [item("a"), inner] });
    assert_eq!(found(&list.to_string()).0, ["Mailbox default/a", "Mailbox default/b"]);
    let typed = json!({ "apiVersion": "vmail.dev/v1alpha1", "kind": "MailboxList", "items": [item("c")] });
    assert_eq!(found(&typed.to_string()), (vec!["Mailbox default/c".to_owned()], vec![]));
    assert_eq!(found("{apiVersion: v1, kind: List}"), (vec![], vec![]));
}

#[test]
fn the_namespace_is_filled_in() {
    let text = format!("{}---\n{}", mailbox("a, namespace: team"), mailbox("b"));
    assert_eq!(found(&text).0, ["Mailbox default/b", "Mailbox team/a"]);
    let mut manifests = Manifests::default();
    manifests.add(Path::new("a.yaml"), MAILBOX, "mail");
    assert!(manifests.objects.keys().all(|(_, id)| id.namespace() == "mail"));
}

#[test]
fn an_object_of_ours_that_cannot_be_told_is_a_complaint() {
    for (from, to, sentence) in [
        (
            "vmail.dev/v1alpha1",
            "vmail.dev/v1",
            "there is no version vmail.dev/v1; write apiVersion: vmail.dev/v1alpha1",
        ),
        (
            "kind: Mailbox",
            "kind: Mailbx",
            "there is no kind \"Mailbx\" in vmail.dev; kinds are: MailAlias, MailDomain, Mailbox",
        ),
        ("kind: Mailbox", "kind: mailbox", "there is no kind \"mailbox\""),
        ("apiVersion: vmail.dev/v1alpha1\n", "", "a Mailbox without apiVersion"),
        ("{name: a}", "{}", "a Mailbox without metadata.name"),
        ("{name: a}", "{generateName: a-}", "a Mailbox without metadata.name"),
        ("{name: a}", "{name: 5}", "metadata.name is not text but 5; put it in quotes"),
        ("{name: a}", "{name: no}", "metadata.name is not text but false; put it in quotes"),
        (
            "{name: a}",
            "{name: a, namespace: 1e3}",
            "metadata.namespace is not text but 1000; put it in quotes",
        ),
        ("{name: a}", "a", "a Mailbox without metadata.name"),
    ] {
        let problem = complaint(&MAILBOX.replace(from, to));
        assert!(problem.contains(sentence), "{to}: {problem}");
    }
}

#[test]
fn what_is_no_yaml_is_told_and_the_rest_is_read() {
    for (broken, line, sentence) in [
        ("a: 1\nb: 2\na: 3\n", 4, "the key \"a\" stands twice"),
        ("a: {b: 1, b: 2}\n", 2, "the key \"b\" stands twice"),
        ("a: b: c\n", 2, "no YAML"),
        ("a:\n\t- b\n", 3, "no YAML"),
        ("a: 'x\n", 2, "no YAML"),
        ("a: [1, 2\n", 2, "no YAML"),
        ("a: *b\n", 2, "no YAML"),
        ("a: &b [*b]\n", 2, "inside of what it stands for"),
        ("a: @b\n", 2, "no YAML"),
        ("a: \u{1}\n", 2, "no YAML"),
        ("[a]: b\n", 2, "a key has to be text"),
        ("~: b\n", 2, "a key has to be text"),
        ("a: {<<: 5}\n", 2, "the key << needs a mapping"),
        ("a: .inf\n", 2, "a number that JSON does not have"),
        ("name: {{ .Values.name }}\n", 2, "looks like a template"),
        ("{{- if .Values.mail }}\na: 1\n{{- end }}\n", 2, "looks like a template"),
    ] {
        let (objects, problems) = found(&format!("---\n{broken}---\n{MAILBOX}"));
        assert_eq!(objects, ["Mailbox default/a"], "{broken:?}");
        assert_eq!(problems.len(), 1, "{broken:?}: {problems:?}");
        assert!(problems[0].contains(sentence), "{broken:?}: {problems:?}");
        assert!(
            problems[0].starts_with(&format!("a.yaml:{line} (document 1): ")),
            "{broken:?}: {problems:?}"
        );
    }
}

/// A few lines that mean 10^12 values.
#[test]
fn aliases_cannot_fill_the_memory() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..12 {
        let items = vec![format!("*a{}", n - 1); 10].join(",");
        text.push_str(&format!("a{n}: &a{n} [{items}]\n"));
    }
    assert!(complaint(&text).contains("more than 100000 values"));
    assert!(!complaint(&"[".repeat(100_000)).is_empty());
    assert!(!complaint(&"- ".repeat(100_000)).is_empty());
    assert!(!complaint(&"{a: ".repeat(100_000)).is_empty());
}

#[test]
fn anchors_and_merges_are_resolved() {
    let text = "a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, l: 3}\nd:\n  <<: [*x, {m: 4, k: 5}]\n";
    let content = json!({
        "a": { "k": 1, "l": 2 }, "b": { "k": 1, "l": 2 }, "c": { "k": 1, "l": 3 },
        "d": { "k": 1, "l": 2, "m": 4 },
    });
    assert_eq!(documents(text), [Document { number: 1, line: 1, content: Ok(content) }]);
}

/// `tests/api` asks kubectl the same.
#[test]
fn plain_scalars_are_what_kubectl_takes_them_for() {
    for (text, value) in [
        ("yes", json!(true)),
        ("off", json!(false)),
        ("'yes'", json!("yes")),
        ("!!str yes", json!("yes")),
        ("~", json!(null)),
        ("\"\"", json!("")),
        ("0777", json!(511)),
        ("08", json!(8)),
        ("0x1F", json!(31)),
        ("1_000", json!(1000)),
        ("_1", json!("_1")),
        ("60.0", json!(60)),
        ("1.5", json!(1.5)),
        ("1.2.3", json!("1.2.3")),
        ("2001-01-01", json!("2001-01-01")),
        ("a@example.org", json!("a@example.org")),
        ("\"\\ud83d\\ude00\"", json!("😀")),
        ("ü", json!("ü")),
    ] {
        let read = documents(&format!("[{text}]")).remove(0).content;
        assert_eq!(read, Ok(json!([value])), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever stands in a file, it is read or complained about.
    #[test]
    fn no_text_is_too_much(text in "[ -~\n\t\u{0}ü]{0,60}", pieces in proptest::collection::vec(0..PIECES.len(), 0..30)) {
        read_text(&text);
        read_text(&pieces.iter().map(|piece| PIECES[*piece]).collect::<String>());
    }
}

/// What YAML is made of, and what our manifests are made of.
const PIECES: [&str; 32] = [
    "---\n",
    "...\n",
    "\n",
    "  ",
    "- ",
    ": ",
    "? ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&a ",
    "*a ",
    "<<",
    "!!str ",
    "!x ",
    "|\n",
    ">\n",
    "'",
    "\"",
    "\\u",
    "#",
    "%YAML 1.2\n",
    "{{ a }}",
    "\t",
    "apiVersion: vmail.dev/v1alpha1\n",
    "kind: Mailbox\n",
    "metadata: {name: a}\n",
    "spec:\n",
    "address: a@example.org\n",
    "items:\n",
];
