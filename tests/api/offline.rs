//! What `check` says without a cluster, against the API server and kubectl.

use std::process::Command;

use serde_json::{Value, json};
use vmail_operator::manifests::schema::Schema;
use vmail_operator::manifests::yaml::documents;

use crate::apiserver::programs;

/// Where `check` would say something else than the API server did: let in or refused, and in which words.
pub fn disagreement(object: &impl serde::Serialize, refusal: Option<&str>) -> Option<String> {
    let object = serde_json::to_value(object).expect("JSON");
    let crd = vmail_operator::api::crds().into_iter().find(|crd| crd.spec.names.kind == object["kind"])?;
    match (Schema::of(&crd)?.judge(&object), refusal) {
        (Ok(_), None) => None,
        (Ok(_), Some(refusal)) => Some(format!("check lets in: {object}: {refusal}")),
        (Err(said), None) => Some(format!("check refuses: {object}: {}", said.join("; "))),
        (Err(said), Some(refusal)) => {
            // What is added for those who write YAML is in parentheses.
            let sentences =
                said.iter().map(|said| said.split(" (put it in quotes").next().unwrap_or_default());
            let other =
                sentences.filter(|sentence| !refusal.contains(sentence)).collect::<Vec<_>>().join("; ");
            (!other.is_empty()).then(|| format!("check says of {object}: {other}\nthe API server: {refusal}"))
        }
    }
}

/// Metadata, and whether the API server lets it in.
pub fn metadata() -> Vec<(Value, bool)> {
    let mut rows = vec![
        (json!({ "name": "a" }), true),
        (json!({ "name": "a.b-c.0" }), true),
        (json!({ "name": "A" }), false),
        (json!({ "name": "a@example.org" }), false),
        (json!({ "name": "a..b" }), false),
        (json!({ "name": "a".repeat(253) }), true),
        (json!({ "name": "a".repeat(254) }), false),
    ];
    let long = "a".repeat(64);
    for (key, good) in [
        ("a", true),
        ("A.b_c-0", true),
        ("example.org/A", true),
        ("a b", false),
        ("-a", false),
        ("", false),
        ("/a", false),
        ("a/", false),
        ("a/b/c", false),
        ("a_b/c", false),
        (long.as_str(), false),
        (&long[1..], true),
    ] {
        rows.push((json!({ "name": "a", "labels": { key: "" } }), good));
        rows.push((json!({ "name": "a", "annotations": { key: "any\nthing" } }), good));
    }
    // Keys of annotations are judged in lower case.
    rows.push((json!({ "name": "a", "labels": { "Example.org/a": "" } }), false));
    rows.push((json!({ "name": "a", "annotations": { "Example.org/a": "" } }), true));
    for (value, good) in
        [("", true), ("A.b_c-0", true), ("a b", false), ("-", false), (&long, false), (&long[1..], true)]
    {
        rows.push((json!({ "name": "a", "labels": { "a": value } }), good));
    }
    rows
}

/// Scalars, and whatever else kubectl reads in a way of its own.
const SCALARS: [&str; 96] = [
    "yes",
    "no",
    "y",
    "N",
    "on",
    "Off",
    "true",
    "FALSE",
    "null",
    "Null",
    "~",
    "'yes'",
    "\"no\"",
    "!!str 5",
    "!!str yes",
    "!!int '7'",
    "!other a",
    "0",
    "00",
    "07",
    "08",
    "010",
    "0777",
    "0o17",
    "0x1F",
    "0X1f",
    "0b101",
    "-0b101",
    "0b12",
    "-5",
    "+5",
    "+0x10",
    "-0o7",
    "1_000",
    "1__0",
    "_1",
    "1_",
    "0_",
    "1.5",
    "1.",
    ".5",
    "-.5",
    "1e3",
    "1E3",
    "1e+3",
    "1e-3",
    "1.e3",
    "1e",
    "1e+",
    "0.0",
    "-0",
    "60.0",
    "9223372036854775807",
    "-9223372036854775808",
    "2001-01-01",
    "2001-1-1",
    "2001-01-01T00:00:00Z",
    "1:30",
    "12:30:45",
    "1.2.3",
    "v1",
    "0.1.0",
    "1a",
    "0xg",
    "e5",
    "Infinity",
    "NaN",
    "nan",
    "inf",
    "1,000",
    "1/2",
    "0x",
    "0b",
    "0o",
    "00x1",
    "0_7",
    "+1_0",
    "12e03",
    "000",
    "1-1",
    "1+1",
    "0x1p3",
    "7_",
    "a#c",
    "a #c",
    "''",
    "\"\"",
    "'it''s'",
    "\"\\x41\\u00fc\\n\"",
    "[yes, no]",
    "{a: b, 5: c, yes: d}",
    "|-\n      yes",
    ">-\n      a\n      b",
    "&x {a: 1}",
    "*x",
    "{<<: *x, b: 2}",
];

#[test]
fn manifests_are_read_as_by_kubectl() {
    let lines = SCALARS.iter().enumerate().map(|(number, scalar)| format!("  k{number}: {scalar}\n"));
    let text = format!(
        "apiVersion: vmail.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: a}}\nspec:\n{}",
        lines.collect::<String>()
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, &text).expect("writes");
    let output = Command::new(programs().join("kubectl"))
        .args(["annotate", "--local", "-o", "json", "a=b", "-f"])
        .arg(&file)
        .output()
        .expect("kubectl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ours = documents(&text).remove(0).content.expect("YAML");
    for (number, scalar) in SCALARS.iter().enumerate() {
        let key = format!("k{number}");
        assert_eq!(ours["spec"][&key], theirs["spec"][&key], "{scalar}");
    }
}
