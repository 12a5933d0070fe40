//! Objects, and what a real API server says of each. `tests/offline` asks the validator of `check` the same.

use serde_json::{Value, json};

/// Kind, spec, and what the refusal says; an empty sentence for what is let in.
pub fn table() -> Vec<(&'static str, Value, &'static str)> {
    let local64 = "a".repeat(64);
    let domain = |name: &str| json!({ "domain": name });
    let mailbox = |address: &str| json!({ "address": address });
    let alias = |target: &str| json!({ "address": "list@example.org", "targets": [target] });
    let mut rows = Vec::new();
    for good in ["example.org", "xn--bcher-kva.example", "a.b.c.d.example", "1und1.example", "x.co"] {
        rows.push(("MailDomain", domain(good), ""));
    }
    rows.push(("MailDomain", domain(&format!("{0}.{0}.{0}.{1}.org", "a".repeat(63), "b".repeat(43))), ""));
    rows.push(("MailDomain", domain(&format!("{0}.{0}.{0}.{1}.org", "a".repeat(63), "b".repeat(44))), "239"));
    rows.push(("MailDomain", domain("Example.ORG"), "lower case"));
    for bad in [
        "example",
        "example.org.",
        ".example.org",
        "exa mple.org",
        "example..org",
        "-a.org",
        "a-.org",
        "bücher.example",
        "1.2.3.4",
        "example.org\n",
        "example.org\nevil.org OK",
        "*.example.org",
        "example.org/",
        "[127.0.0.1]",
        "a_b.org",
        "example.org,evil.org",
        "!example.org",
        "example.org#",
    ] {
        rows.push(("MailDomain", domain(bad), "at least two labels"));
    }
    rows.push(("MailDomain", json!({}), "spec.domain"));
    for (field, sentence) in [
        (json!({ "postmaster": "not an address" }), "plain addresses"),
        (json!({ "roleAddresses": ["abuse@example.org"] }), "part before the @"),
        (json!({ "roleAddresses": ["abuse", "abuse"] }), "Duplicate"),
        (json!({ "roleAddresses": [] }), ""),
        (json!({ "dns": { "ttl": 59 } }), "60"),
        (json!({ "dns": { "ttl": 604_801 } }), "604800"),
        (json!({ "dns": { "ttl": 60, "zone": "example.org" } }), ""),
        (json!({ "dns": { "zone": "example.org." } }), "trailing dot"),
        (json!({ "dns": { "mx": [{ "host": "mail.example.test", "preference": 10 }] } }), ""),
        (json!({ "dns": { "mx": [{ "host": "Mail.example.test", "preference": 10 }] } }), "lower case"),
        (json!({ "dns": { "mx": [{ "host": "mail.example.test", "preference": 70_000 }] } }), "65535"),
        (
            json!({ "dns": { "mx": [{ "host": "a.example", "preference": 1 }, { "host": "a.example", "preference": 2 }] } }),
            "Duplicate",
        ),
        (json!({ "allowedNamespaces": { "from": "Names" } }), "at least one namespace"),
        (json!({ "allowedNamespaces": { "from": "Names", "names": ["a"] } }), ""),
        (json!({ "allowedNamespaces": { "from": "All", "names": ["a"] } }), "from: Names"),
        (json!({ "allowedNamespaces": { "from": "Some" } }), "supported values"),
        (json!({ "withdrawal": "Immediate" }), ""),
        (json!({ "withdrawal": "Never" }), "supported values"),
        (json!({ "cell": "other" }), ""),
    ] {
        let mut spec = domain("example.org");
        spec.as_object_mut().expect("a map").extend(field.as_object().expect("a map").clone());
        rows.push(("MailDomain", spec, sentence));
    }
    for good in
        ["you@example.org", "a@b.example", "first.last@example.org", "a=b~c_d-e@example.org", "1@example.org"]
    {
        rows.push(("Mailbox", mailbox(good), ""));
    }
    rows.push(("Mailbox", mailbox(&format!("{local64}@example.org")), ""));
    rows.push(("Mailbox", mailbox(&format!("{local64}a@example.org")), "1 to 64"));
    rows.push(("Mailbox", mailbox("You@example.org"), "lower case"));
    rows.push(("Mailbox", mailbox("you@Example.org"), "lower case"));
    rows.push(("Mailbox", mailbox("you+tag@example.org"), "without +tag"));
    for bad in [
        "you",
        "@example.org",
        "you@",
        "you@example",
        "you@example.org.",
        "a..b@example.org",
        ".a@example.org",
        "a.@example.org",
        "a b@example.org",
        "a@b@example.org",
        "a,b@example.org",
        "a/b@example.org",
        "../a@example.org",
        "a\n@example.org",
        "a@example.org\nb@example.org x/",
        "\"a\"@example.org",
        "|cmd@example.org",
        ":include:@example.org",
        "a#b@example.org",
        "a!b@example.org",
        "a%b@example.org",
        "ü@example.org",
        "a@bücher.example",
        "a\u{0}@example.org",
        " a@example.org",
    ] {
        rows.push(("Mailbox", mailbox(bad), "must be local@domain"));
    }
    for good in [
        "you@example.org",
        "O'Brien@Example.ORG",
        "_x@remote.example",
        "you+lists@example.org",
        "A.b&c*d@remote.example",
    ] {
        rows.push(("MailAlias", alias(good), ""));
    }
    for bad in [
        "you",
        "a,b@example.org",
        "a@example.org, b@example.org",
        "a b@example.org",
        "\"a b\"@example.org",
        "|cmd@example.org",
        "/file@example.org",
        "a!b@example.org",
        "a%b@example.org",
        "<a@example.org>",
        "a@[127.0.0.1]",
        "-f@example.org",
        "a:b@example.org",
        "a;b@example.org",
        "a@example.org.",
        "a@example",
        "a\n@example.org",
        "a(b)@example.org",
    ] {
        rows.push(("MailAlias", alias(bad), "plain addresses"));
    }
    let many: Vec<String> = (0..101).map(|n| format!("u{n}@example.org")).collect();
    rows.push(("MailAlias", json!({ "address": "list@example.org", "targets": many[..100] }), ""));
    rows.push(("MailAlias", json!({ "address": "list@example.org", "targets": many }), "100"));
    rows.push(("MailAlias", json!({ "address": "list@example.org", "targets": [] }), "at least 1"));
    rows.push((
        "MailAlias",
        json!({ "address": "list@example.org", "targets": ["a@b.example", "a@b.example"] }),
        "Duplicate",
    ));
    rows.push((
        "MailAlias",
        json!({ "address": "List@example.org", "targets": ["a@b.example"] }),
        "lower case",
    ));
    rows
}
