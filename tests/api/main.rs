#![allow(missing_docs)]
//! The rules of one object, asked of a real API server.

mod apiserver;
mod apply;
mod events;
mod health;
mod kubectl;
mod situations;

use std::time::{Duration, Instant};

use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use apiserver::ApiServer;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

async fn install_crds(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
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

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let plural = match kind {
        "MailDomain" => "maildomains",
        "Mailbox" => "mailboxes",
        "MailAlias" => "mailaliases",
        other => panic!("no kind {other}"),
    };
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("vmail.dev", "v1alpha1", kind), plural);
    Api::namespaced_with(client.clone(), "default", &resource)
}

fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "vmail.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
    }))
    .expect("an object")
}

/// Kind, spec, and what the refusal says; an empty sentence for what is let in.
fn table() -> Vec<(&'static str, Value, &'static str)> {
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

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_one_object() {
    let server = ApiServer::start().await;
    let client = &server.client;
    install_crds(client).await;

    let rows = table();
    let mut wrong = Vec::new();
    for (number, (kind, spec, sentence)) in rows.iter().enumerate() {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let result = api(client, kind).create(&params, &object(kind, &format!("row-{number}"), spec)).await;
        match result {
            Ok(_) if sentence.is_empty() => {}
            Ok(_) => wrong.push(format!("let in: {kind} {spec}")),
            Err(error) if sentence.is_empty() => wrong.push(format!("refused: {kind} {spec}: {error}")),
            Err(error) if error.to_string().contains(sentence) => {}
            Err(error) => {
                wrong.push(format!("{kind} {spec} is refused without saying `{sentence}`: {error}"))
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    println!("{} objects, as expected", rows.len());

    fields_that_never_change(client).await;
    defaults(client).await;
}

/// A changed immutable field is refused with a sentence that says what to do.
async fn fields_that_never_change(client: &Client) {
    for (kind, spec, change) in [
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "domain": "example.net" })),
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "cell": "other" })),
        ("Mailbox", json!({ "address": "a@example.org" }), json!({ "address": "b@example.org" })),
        (
            "MailAlias",
            json!({ "address": "a@example.org", "targets": ["b@x.example"] }),
            json!({ "address": "b@example.org" }),
        ),
    ] {
        let api = api(client, kind);
        api.create(&PostParams::default(), &object(kind, "fixed", &spec)).await.expect("let in");
        let patch = Patch::Merge(json!({ "spec": change }));
        let error =
            api.patch("fixed", &PatchParams::default(), &patch).await.expect_err("refused").to_string();
        assert!(error.contains("is immutable: ") && error.contains("delete"), "{error}");
        api.delete("fixed", &DeleteParams::default()).await.expect("deleted");
    }
}

/// What the user left out is filled in by the API server.
async fn defaults(client: &Client) {
    let api = api(client, "MailDomain");
    let domain = api
        .create(
            &PostParams::default(),
            &object("MailDomain", "defaults", &json!({ "domain": "example.org" })),
        )
        .await
        .expect("let in");
    let spec = &domain.data["spec"];
    assert_eq!(spec["roleAddresses"], json!(["postmaster", "abuse", "root"]));
    assert_eq!(spec["dns"]["ttl"], json!(3600));
    assert_eq!(spec["allowedNamespaces"]["from"], json!("Same"));
    assert_eq!(spec["withdrawal"], json!("WaitForTTL"));
    assert_eq!(spec["cell"], json!("default"));
}
