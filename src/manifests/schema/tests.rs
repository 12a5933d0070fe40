use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Schema;
use crate::api::address::{Address, is_domain};
use crate::api::crds;

/// What the schema of a kind says of an object.
fn judged(kind: &str, metadata: Value, spec: Value) -> Result<Value, String> {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect("a kind");
    let object =
        json!({ "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec });
    Schema::of(&crd).expect("a schema").judge(&object).map_err(|said| said.join("; "))
}

/// `tests/api` has more of these, and asks a real API server the same.
#[test]
fn an_object_alone_is_judged_as_by_the_api_server() {
    let name = || json!({ "name": "a" });
    for (spec, said) in [
        (
            json!({ "domain": 5 }),
            "spec.domain: Invalid value: \"integer\": spec.domain in body must be of type string: \"integer\" (put it in quotes",
        ),
        (
            json!({ "domain": "Example.org" }),
            "spec.domain: Invalid value: \"Example.org\": write the domain in lower case",
        ),
        (
            json!({ "domain": "a\u{0}\u{200b}\n.org" }),
            "spec.domain: Invalid value: \"a\\x00\\u200b\\n.org\": must be a domain",
        ),
        (json!({ "domain": "ü".repeat(240) }), "spec.domain: Too long: may not be more than 239 bytes"),
        (
            json!({ "domain": "üü" }),
            "spec.domain: Invalid value: \"üü\": spec.domain in body should be at least 3 chars long; spec.domain: Invalid",
        ),
        (json!({ "domain": null }), "spec.domain: Required value"),
        (json!({ "domian": "example.org" }), "unknown field \"spec.domian\"; spec.domain: Required value"),
        (
            json!({ "domain": "a.example", "dns": { "mx": [{ "host": "b.example", "preference": 1, "x": 1 }] } }),
            "unknown field \"spec.dns.mx[0].x\"",
        ),
        (
            json!({ "domain": "a.example", "dns": { "mx": [null] } }),
            "spec.dns.mx[0]: Invalid value: \"null\": spec.dns.mx[0] in body must be of type object: \"null\"",
        ),
        (
            json!({ "domain": "a.example", "dns": { "ttl": 60.5 } }),
            "spec.dns.ttl: Invalid value: \"number\": spec.dns.ttl in body must be of type integer: \"number\"",
        ),
        (
            json!({ "domain": "a.example", "dns": { "ttl": 1 } }),
            "spec.dns.ttl: Invalid value: 1: spec.dns.ttl in body should be greater than or equal to 60",
        ),
        (
            json!({ "domain": "a.example", "roleAddresses": ["a", "b", "a", "a", "b"] }),
            "spec.roleAddresses[2]: Duplicate value: \"a\"; spec.roleAddresses[4]: Duplicate value: \"b\"",
        ),
        (
            json!({ "domain": "a.example", "allowedNamespaces": { "names": ["a"] } }),
            "spec.allowedNamespaces: Invalid value: names belongs to from: Names",
        ),
        (
            json!({ "domain": "a.example", "class": "alias" }),
            "spec.class: Unsupported value: \"alias\": supported values: \"Mailbox\", \"Alias\"",
        ),
        (json!(null), "spec: Required value"),
        (json!([]), "spec: Invalid value: \"array\": spec in body must be of type object: \"array\""),
    ] {
        let found = judged("MailDomain", name(), spec.clone()).expect_err("refused");
        assert!(found.starts_with(said), "{spec}: {found}");
    }
    // What is wrong with its type keeps the rules from being asked.
    let found =
        judged("MailDomain", name(), json!({ "domain": "A.example", "cell": 5 })).expect_err("refused");
    assert!(!found.contains("lower case"), "{found}");
}

#[test]
fn names_are_judged() {
    let spec = || json!({ "address": "a@example.org" });
    for good in ["a", "a.b-c.0", "0"] {
        judged("Mailbox", json!({ "name": good, "labels": { "a": "b" }, "creationTimestamp": null }), spec())
            .unwrap_or_else(|said| panic!("{good}: {said}"));
    }
    for (metadata, said) in [
        (json!({ "name": "A" }), "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"),
        (json!({ "name": "a@example.org" }), "metadata.name: Invalid value"),
        (json!({ "name": "a..b" }), "metadata.name: Invalid value"),
        (json!({ "name": "a." }), "metadata.name: Invalid value"),
        (json!({ "name": "a".repeat(254) }), "metadata.name: Invalid value"),
        (
            json!({ "name": "a", "namespace": "a.b" }),
            "metadata.namespace: Invalid value: \"a.b\": a lowercase RFC 1123 label",
        ),
        (json!({ "name": "a", "labels": { "a": 1 } }), "metadata: Invalid value: "),
        (json!({ "name": "a", "lables": {} }), "unknown field \"metadata.lables\""),
    ] {
        let found = judged("Mailbox", metadata.clone(), spec()).expect_err("refused");
        assert!(found.starts_with(said), "{metadata}: {found}");
    }
}

#[test]
fn defaults_are_filled_in() {
    let given = json!({ "domain": "example.org", "cell": null, "dns": { "zone": null, "mx": null } });
    let stored = judged("MailDomain", json!({ "name": "a" }), given).expect("let in");
    assert_eq!(
        stored["spec"],
        json!({
            "domain": "example.org", "class": "Mailbox", "cell": "default", "dns": { "managed": true, "adopt": false, "ttl": 3600 },
            "roleAddresses": ["postmaster", "abuse", "root"], "withdrawal": "WaitForTTL",
            "deletionPolicy": "Retain",
            "allowedNamespaces": { "from": "Same", "names": [] },
        })
    );
}

/// A schema that says more than is judged would let in what the API server refuses.
#[test]
fn every_keyword_of_the_schemas_is_judged() {
    fn walk(schema: &Value, keywords: &mut BTreeSet<String>) {
        for (keyword, value) in schema.as_object().expect("a schema") {
            keywords.insert(keyword.clone());
            match keyword.as_str() {
                "properties" => {
                    value.as_object().expect("a map").values().for_each(|schema| walk(schema, keywords))
                }
                "items" => walk(value, keywords),
                _ => {}
            }
        }
    }
    let mut keywords = BTreeSet::new();
    for crd in crds() {
        let schema = crd.spec.versions[0].schema.clone().and_then(|schema| schema.open_api_v3_schema);
        let schema = serde_json::to_value(schema.expect("a schema")).expect("writes");
        walk(&schema["properties"]["spec"], &mut keywords);
    }
    let judged = [
        "default",
        "enum",
        "items",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "nullable",
        "properties",
        "required",
        "type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-validations",
    ];
    // `format` is int32 alone, which the bounds are within.
    let words = ["description", "format"];
    let unknown: Vec<_> = keywords
        .iter()
        .filter(|word| !judged.contains(&word.as_str()) && !words.contains(&word.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Parts of addresses, good and bad.
const PARTS: [&str; 34] = [
    "a",
    "b1",
    "you",
    "Z",
    "_",
    ".",
    "..",
    "-",
    "=",
    "~",
    "+",
    "&",
    "*",
    "?",
    "^",
    "{",
    "}",
    "$",
    "#",
    "'",
    "@",
    "example",
    ".org",
    "@example.org",
    "xn--a",
    "\n",
    " ",
    ",",
    "/",
    "!",
    "%",
    "ü",
    "\u{212a}",
    "1",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// The grammar is written twice: as CEL for the API server, and as a parser for all that did not come through it.
    #[test]
    fn the_rules_and_the_parser_are_one_grammar(
        parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..5), whole in prop::bool::ANY,
    ) {
        let text = parts.concat() + if whole { "@example.org" } else { "" };
        let metadata = || json!({ "name": "a" });
        let let_in = |kind: &str, spec: Value| SCHEMAS.with(|schemas| {
            let object = json!({ "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": metadata(), "spec": spec });
            schemas[kind].judge(&object).is_ok()
        });
        let own = let_in("Mailbox", json!({ "address": text }));
        prop_assert_eq!(own, Address::own(&text).is_some(), "own {:?}", text);
        let targets = json!({ "address": "list@example.org", "targets": [text] });
        prop_assert_eq!(let_in("MailAlias", targets), Address::target(&text).is_some(), "target {:?}", text);
        let domain = text.len() >= 3 && text.len() <= 239 && is_domain(&text);
        prop_assert_eq!(let_in("MailDomain", json!({ "domain": text })), domain, "domain {:?}", text);
        let role = Address::role(&text, "example.org").is_some();
        let roles = json!({ "domain": "example.org", "roleAddresses": [text] });
        prop_assert_eq!(let_in("MailDomain", roles), role, "role {:?}", text);
    }
}

thread_local! {
    static SCHEMAS: BTreeMap<String, Schema> =
        crds().iter().map(|crd| (crd.spec.names.kind.clone(), Schema::of(crd).expect("a schema"))).collect();
}
