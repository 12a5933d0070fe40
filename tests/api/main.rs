#![allow(missing_docs)]
//! The rules of one object, asked of a real API server.

mod apiserver;
mod apply;
mod chart;
mod events;
mod health;
mod kubectl;
mod offline;
mod situations;
mod strings;
mod table;

use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use apiserver::ApiServer;
use table::table;

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

/// Creates nothing, and is as strict about unknown fields as kubectl.
async fn try_out(client: &Client, kind: &str, object: &DynamicObject) -> kube::Result<DynamicObject> {
    let url = format!("{}?dryRun=All&fieldValidation=Strict", api(client, kind).resource_url());
    let body = serde_json::to_vec(object).expect("JSON");
    let request =
        http::Request::post(url).header("content-type", "application/json").body(body).expect("a request");
    client.request(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_one_object() {
    let server = ApiServer::start().await;
    let client = &server.client;
    server.install_crds().await;

    let rows = table();
    let mut wrong = Vec::new();
    for (number, (kind, spec, sentence)) in rows.iter().enumerate() {
        let object = object(kind, &format!("row-{number}"), spec);
        let result = try_out(client, kind, &object).await;
        let refusal = result.as_ref().err().map(ToString::to_string);
        wrong.extend(offline::disagreement(&object, refusal.as_deref()));
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
    for (metadata, good) in offline::metadata() {
        let mut object = object("Mailbox", "a", &json!({ "address": "a@example.org" }));
        object.metadata = serde_json::from_value(metadata.clone()).expect("metadata");
        let refusal = try_out(client, "Mailbox", &object).await.err().map(|error| error.to_string());
        wrong.extend(offline::disagreement(&object, refusal.as_deref()));
        if refusal.is_none() != good {
            wrong.push(format!("{metadata}: {refusal:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    println!("{} objects, as expected", rows.len());

    fields_that_never_change(client).await;
    fields_that_may_change(client).await;
    defaults(client).await;
    a_status_is_not_the_users(client).await;
    strings::rules_and_parser_agree(client).await;
}

/// A changed immutable field is refused with a sentence that says what to do.
async fn fields_that_never_change(client: &Client) {
    for (kind, spec, change) in [
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "domain": "example.net" })),
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "cell": "other" })),
        ("MailDomain", json!({ "domain": "example.org", "cell": "other" }), json!({ "cell": null })),
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "class": "Alias" })),
        ("MailDomain", json!({ "domain": "example.org", "class": "Alias" }), json!({ "class": null })),
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

/// What may change, may; saying a default is no change.
async fn fields_that_may_change(client: &Client) {
    for (kind, spec, change) in [
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "cell": "default", "class": "Mailbox" })),
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "catchAll": "you@example.org" })),
        (
            "MailDomain",
            json!({ "domain": "example.org", "catchAll": "you@example.org" }),
            json!({ "catchAll": null }),
        ),
        (
            "MailDomain",
            json!({ "domain": "example.org" }),
            json!({ "postmaster": "you@example.org", "roleAddresses": [] }),
        ),
        (
            "MailDomain",
            json!({ "domain": "example.org" }),
            json!({ "dns": { "ttl": 60, "managed": false, "adopt": true } }),
        ),
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "withdrawal": "Immediate" })),
        ("MailDomain", json!({ "domain": "example.org" }), json!({ "allowedNamespaces": { "from": "All" } })),
        (
            "MailAlias",
            json!({ "address": "a@example.org", "targets": ["b@x.example"] }),
            json!({ "targets": ["c@x.example"] }),
        ),
    ] {
        let api = api(client, kind);
        api.create(&PostParams::default(), &object(kind, "mutable", &spec)).await.expect("let in");
        let patch = Patch::Merge(json!({ "spec": change }));
        api.patch("mutable", &PatchParams::default(), &patch)
            .await
            .unwrap_or_else(|error| panic!("{change}: {error}"));
        api.delete("mutable", &DeleteParams::default()).await.expect("deleted");
    }
}

/// Nobody says of himself that he is served: a status changes through its own subresource alone, which leaves the spec alone.
async fn a_status_is_not_the_users(client: &Client) {
    for (kind, spec) in [
        ("MailDomain", json!({ "domain": "example.org" })),
        ("Mailbox", json!({ "address": "a@example.org" })),
        ("MailAlias", json!({ "address": "a@example.org", "targets": ["b@x.example"] })),
    ] {
        let api = api(client, kind);
        let status = json!({ "conditions": [{
            "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] });
        let mut given = object(kind, "status", &spec);
        given.data["status"] = status.clone();
        let created = api.create(&PostParams::default(), &given).await.expect("let in");
        assert_ne!(created.data["status"]["conditions"][0]["status"], "True", "{kind}: {}", created.data);
        let patch = Patch::Merge(json!({ "status": status }));
        let patched = api.patch("status", &PatchParams::default(), &patch).await.expect("let in");
        assert_eq!(patched.data.get("status"), created.data.get("status"), "{kind}");

        let both = Patch::Merge(
            json!({ "status": status, "spec": { "address": "b@example.org", "domain": "b.example" } }),
        );
        let written = api.patch_status("status", &PatchParams::default(), &both).await.expect("let in");
        assert_eq!(written.data["status"]["conditions"][0]["reason"], "Ready");
        assert_eq!(written.data["spec"], created.data["spec"], "{kind}");
        assert_eq!(written.metadata.generation, created.metadata.generation, "{kind}");
        api.delete("status", &DeleteParams::default()).await.expect("deleted");
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
