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
    let long = format!("{0}.{0}.{1}.org", "a".repeat(63), "b".repeat(61));
    for (role, sentence) in [(60, ""), (61, "may have 254 characters")] {
        let spec = json!({ "domain": long, "roleAddresses": ["abuse", "r".repeat(role)] });
        rows.push(("MailDomain", spec, sentence));
    }
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
        (json!({ "deletionPolicy": "Archive" }), ""),
        (json!({ "deletionPolicy": "Burn" }), "supported values"),
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
    rows.extend(bounds());
    rows.extend(hostile());
    rows.extend(shapes());
    rows
}

type Row = (&'static str, Value, &'static str);

/// A MailDomain with these fields besides its domain.
fn with(field: Value) -> Value {
    let mut spec = json!({ "domain": "example.org" });
    spec.as_object_mut().expect("a map").extend(field.as_object().expect("a map").clone());
    spec
}

/// Each limit, on it and beyond it.
fn bounds() -> Vec<Row> {
    let names = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
    let hosts = |count: usize| {
        (0..count).map(|n| json!({ "host": format!("h{n}.example"), "preference": n })).collect::<Vec<_>>()
    };
    let label = |length: usize| "a".repeat(length);
    let mx = |preference: i64| json!({ "dns": { "mx": [{ "host": "mail.example.test", "preference": preference }] } });
    // local@ and a domain of the rest, in labels of 49.
    let address = |length: usize| {
        let rest = length - 5 - "example".len();
        let labels: Vec<String> = (0..rest).step_by(50).map(|at| label((rest - at).min(50) - 1)).collect();
        format!("abcd@{}.example", labels.join("."))
    };
    assert_eq!((address(254).len(), address(255).len()), (254, 255));
    let mailbox = |address: &str| json!({ "address": address });
    let alias = |target: &str| json!({ "address": "list@example.org", "targets": [target] });
    vec![
        ("MailDomain", with(json!({ "roleAddresses": names(32) })), ""),
        ("MailDomain", with(json!({ "roleAddresses": names(33) })), "at most 32"),
        ("MailDomain", with(json!({ "roleAddresses": [label(64)] })), ""),
        ("MailDomain", with(json!({ "roleAddresses": [label(65)] })), "64"),
        ("MailDomain", with(json!({ "roleAddresses": [""] })), "at least 1"),
        ("MailDomain", with(json!({ "roleAddresses": ["Abuse"] })), "lower case"),
        ("MailDomain", with(json!({ "allowedNamespaces": { "from": "Names", "names": names(64) } })), ""),
        (
            "MailDomain",
            with(json!({ "allowedNamespaces": { "from": "Names", "names": names(65) } })),
            "at most 64",
        ),
        ("MailDomain", with(json!({ "allowedNamespaces": { "from": "Names", "names": [label(64)] } })), "63"),
        (
            "MailDomain",
            with(json!({ "allowedNamespaces": { "from": "Names", "names": ["a", "a"] } })),
            "Duplicate",
        ),
        (
            "MailDomain",
            with(json!({ "allowedNamespaces": { "from": "Names", "names": ["*"] } })),
            "write from: All",
        ),
        ("MailDomain", with(json!({ "allowedNamespaces": { "from": "Same" } })), ""),
        (
            "MailDomain",
            with(json!({ "allowedNamespaces": { "from": "Same", "names": ["a"] } })),
            "from: Names",
        ),
        ("MailDomain", with(json!({ "allowedNamespaces": {} })), ""),
        ("MailDomain", with(json!({ "dns": { "mx": hosts(10) } })), ""),
        ("MailDomain", with(json!({ "dns": { "mx": hosts(11) } })), "at most 10"),
        ("MailDomain", with(mx(0)), ""),
        ("MailDomain", with(mx(-1)), "greater than or equal to 0"),
        ("MailDomain", with(mx(65_535)), ""),
        ("MailDomain", with(mx(65_536)), "65535"),
        ("MailDomain", with(json!({ "dns": { "ttl": 60 } })), ""),
        ("MailDomain", with(json!({ "dns": { "ttl": 604_800 } })), ""),
        ("MailDomain", with(json!({ "dns": { "ttl": 0 } })), "60"),
        ("MailDomain", with(json!({ "dns": { "ttl": -1 } })), "60"),
        ("MailDomain", with(json!({ "cell": label(63) })), ""),
        ("MailDomain", with(json!({ "cell": label(64) })), "63"),
        ("MailDomain", with(json!({ "cell": "" })), "at least 1"),
        ("MailDomain", with(json!({ "cell": "second-2" })), ""),
        ("MailDomain", with(json!({ "cell": "Second" })), "name of a cell"),
        ("MailDomain", with(json!({ "cell": "second-" })), "name of a cell"),
        ("MailDomain", with(json!({ "cell": "second.example" })), "name of a cell"),
        ("MailDomain", json!({ "domain": format!("{}.example", label(63)) }), ""),
        ("MailDomain", json!({ "domain": format!("{}.example", label(64)) }), "at least two labels"),
        ("Mailbox", mailbox(&address(254)), ""),
        ("Mailbox", mailbox(&address(255)), "254"),
        ("MailAlias", alias(&address(254)), ""),
        ("MailAlias", alias(&address(255)), "254"),
        ("MailAlias", alias(&format!("{}@example.org", label(64))), ""),
        ("MailAlias", alias(&format!("{}@example.org", label(65))), "plain addresses"),
        ("Mailbox", mailbox(&format!("a@{}.example", label(63))), ""),
        ("Mailbox", mailbox(&format!("a@{}.example", label(64))), "must be local@domain"),
    ]
}

/// What tries to be more than one name: into every field that comes near a table, a path or a zone.
fn hostile() -> Vec<Row> {
    let mut rows = Vec::new();
    for bad in [
        "a\nb",
        "a\r\nb",
        "a\n",
        "\na",
        "a\tb",
        "a\u{0}b",
        "a\u{7f}b",
        "a b",
        "a,b",
        "a\"b",
        "a#b ",
        "a/../b",
        "|a",
        ":include:a",
        "a!b",
        "a%b",
        "a@b",
        "a\\b",
        "a<b>",
        "[a]",
        "a`b`",
        "a;b",
        "\u{212a}a",
        "a\u{17f}",
        "\u{ff41}",
        "a\u{200b}b",
        "\u{202e}a",
        "a\u{2028}b",
        "\u{feff}a",
        "a\u{ad}b",
        "type:a",
        "-a",
    ] {
        let host = format!("{bad}.example");
        rows.push(("MailDomain", json!({ "domain": host }), "at least two labels"));
        rows.push(("MailDomain", with(json!({ "dns": { "zone": host } })), "at least two labels"));
        let mx = json!({ "dns": { "mx": [{ "host": host, "preference": 1 }] } });
        rows.push(("MailDomain", with(mx), "at least two labels"));
        rows.push(("MailDomain", with(json!({ "roleAddresses": [bad] })), "part before the @"));
        rows.push(("MailDomain", with(json!({ "cell": bad })), "name of a cell"));
        let names = json!({ "allowedNamespaces": { "from": "Names", "names": ["shop", bad] } });
        rows.push(("MailDomain", with(names), "names of namespaces"));
        for address in [format!("{bad}@example.org"), format!("you@{host}")] {
            rows.push(("MailDomain", with(json!({ "catchAll": address })), "must be local@domain"));
            rows.push(("MailDomain", with(json!({ "postmaster": address })), "plain addresses"));
            rows.push(("Mailbox", json!({ "address": address }), "must be local@domain"));
            let alias = json!({ "address": address, "targets": ["you@example.org"] });
            rows.push(("MailAlias", alias, "must be local@domain"));
            let alias = json!({ "address": "list@example.org", "targets": ["x@example.org", address] });
            rows.push(("MailAlias", alias, "plain addresses"));
        }
    }
    for route in [
        "@a.example:you@example.org",
        "a.example!you@example.org",
        "you%a.example@example.org",
        "you@a.example@example.org",
    ] {
        rows.push((
            "MailAlias",
            json!({ "address": "list@example.org", "targets": [route] }),
            "plain addresses",
        ));
    }
    rows
}

/// New fields, wrong types, and fields that do not exist.
fn shapes() -> Vec<Row> {
    vec![
        ("MailDomain", with(json!({ "class": "Mailbox" })), ""),
        ("MailDomain", with(json!({ "class": "Alias" })), ""),
        ("MailDomain", with(json!({ "class": "alias" })), "supported values"),
        ("MailDomain", with(json!({ "catchAll": "you@example.org" })), ""),
        ("MailDomain", with(json!({ "catchAll": "you@elsewhere.example" })), ""),
        ("MailDomain", with(json!({ "catchAll": "You@example.org" })), "lower case"),
        ("MailDomain", with(json!({ "catchAll": "you+tag@example.org" })), "without +tag"),
        ("MailDomain", with(json!({ "catchAll": "@example.org" })), "must be local@domain"),
        ("MailDomain", with(json!({ "catchAll": "O'Brien@example.org" })), "lower case"),
        ("MailDomain", with(json!({ "catchAll": "" })), "at least 3"),
        ("MailDomain", with(json!({ "postmaster": "O'Brien+x@Example.ORG" })), ""),
        ("MailDomain", with(json!({ "postmaster": "" })), "at least 3"),
        ("MailDomain", with(json!({ "dns": { "managed": false, "adopt": true } })), ""),
        ("MailDomain", with(json!({ "dns": { "managed": "no" } })), "boolean"),
        ("MailDomain", with(json!({ "dns": { "ttl": "3600" } })), "integer"),
        ("MailDomain", with(json!({ "dns": { "ttl": 3600.5 } })), "integer"),
        ("MailDomain", with(json!({ "dns": [] })), "object"),
        ("MailDomain", with(json!({ "roleAddresses": "abuse" })), "array"),
        ("MailDomain", with(json!({ "roleAddresses": [1] })), "string"),
        ("MailDomain", with(json!({ "dns": { "mx": ["mail.example.test"] } })), "object"),
        ("MailDomain", with(json!({ "dns": { "mx": [{ "host": "mail.example.test" }] } })), "preference"),
        ("MailDomain", with(json!({ "dns": { "mx": [{ "preference": 1 }] } })), "host"),
        ("MailDomain", with(json!({ "catchall": "you@example.org" })), "unknown field"),
        ("MailDomain", with(json!({ "dns": { "TTL": 60 } })), "unknown field"),
        ("MailDomain", json!({ "domain": 1 }), "string"),
        ("MailDomain", json!({ "domain": "" }), "at least 3"),
        ("Mailbox", json!({}), "spec.address"),
        ("Mailbox", json!({ "address": "you@example.org", "quota": 1 }), "unknown field"),
        ("Mailbox", json!({ "address": ["you@example.org"] }), "string"),
        ("MailAlias", json!({ "address": "list@example.org" }), "spec.targets"),
        ("MailAlias", json!({ "targets": ["you@example.org"] }), "spec.address"),
        ("MailAlias", json!({ "address": "list@example.org", "targets": "you@example.org" }), "array"),
        ("MailAlias", json!({ "address": "list@example.org", "targets": [null] }), "string"),
        (
            "MailAlias",
            json!({ "address": "list+x@example.org", "targets": ["you@example.org"] }),
            "without +tag",
        ),
        ("MailAlias", json!({ "address": "list@example.org", "targets": ["list@example.org"] }), ""),
    ]
}
