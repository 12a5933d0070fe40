//! What the tools of a pipeline make of every situation: kstatus itself, Argo CD with the health checks in
//! `examples/gitops/argocd-cm.yaml`, Flux with those in `examples/gitops/flux.yaml`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kube::Client;
use serde::Deserialize;
use serde_json::json;
use vmail_operator::api::conditions::Reason;
use vmail_operator::api::{MailAlias, MailDomain, Mailbox};
use vmail_operator::operator::write::Writer;

use crate::apiserver::{ApiServer, built, run};
use crate::situations::{Kind, Now, create, delete_held, edit, write, writer};

#[derive(Debug, Deserialize)]
struct Answer {
    kind: String,
    name: String,
    kstatus: String,
    argocd: String,
    message: String,
    flux: String,
}

/// What each of the three says of all objects of the server.
fn ask(server: &ApiServer) -> Vec<Answer> {
    let list = run(server.kubectl().args(["get", "mail", "-o", "json"]), "").expect("a list");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gitops");
    let mut program = Command::new(built("health"));
    program.arg("-argocd").arg(examples.join("argocd-cm.yaml"));
    program.arg("-flux").arg(examples.join("flux.yaml"));
    serde_json::from_str(&run(&mut program, &list).expect("an answer")).expect("JSON")
}

/// Brings an object into a situation.
async fn situation<K: Kind>(client: &Client, writer: &Writer, name: &str, now: &Now) {
    let object: K = create(client, name).await;
    write(writer, &object, now).await;
}

fn now(accepted: Result<(), Reason>, programmed: Result<(), Reason>, published: Result<(), Reason>) -> Now {
    Now { accepted, programmed, published, ..Now::ready() }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_know_when_mail_arrives_and_when_it_never_will() {
    let server = ApiServer::start().await;
    let client = &server.client;
    server.install_crds().await;
    let writer = &writer(client).await;
    let (pending, refused) =
        (Err(Reason::Pending), |reason| now(Err(reason), Err(Reason::Pending), Err(Reason::Pending)));
    let mut expected = BTreeMap::new();

    // The kind, the situation, what the operator knows, and what kstatus shall answer.
    macro_rules! at {
        ($kind:ident, $name:literal, $now:expr, $kstatus:literal) => {
            situation::<$kind>(client, writer, $name, &$now).await;
            expected.insert((stringify!($kind), $name), $kstatus);
        };
    }
    at!(MailDomain, "on-its-way", now(Ok(()), pending, pending), "InProgress");
    at!(MailDomain, "no-pod", now(Ok(()), Err(Reason::AgentUnreachable), pending), "InProgress");
    at!(MailDomain, "proof-failed", now(Ok(()), Err(Reason::ProofFailed), pending), "InProgress");
    at!(MailDomain, "programmed", now(Ok(()), Ok(()), pending), "InProgress");
    at!(MailDomain, "dns-away", now(Ok(()), Ok(()), Err(Reason::ProviderUnreachable)), "InProgress");
    at!(
        MailDomain,
        "dangling",
        Now { resolved_refs: Err(Reason::TargetNotFound), ..Now::ready() },
        "InProgress"
    );
    at!(MailDomain, "conflict", refused(Reason::DomainConflict), "Failed");
    at!(MailDomain, "not-permitted", refused(Reason::DomainNotPermitted), "Failed");
    at!(MailDomain, "ready", Now::ready(), "Current");
    at!(Mailbox, "on-its-way", now(Ok(()), pending, pending), "InProgress");
    at!(Mailbox, "before-its-domain", refused(Reason::DomainNotFound), "InProgress");
    at!(Mailbox, "storage", now(Ok(()), Err(Reason::StorageNotWritable), pending), "InProgress");
    at!(Mailbox, "taken", refused(Reason::AddressConflict), "Failed");
    at!(Mailbox, "ready", Now::ready(), "Current");
    at!(MailAlias, "before-its-domain", refused(Reason::DomainNotFound), "InProgress");
    at!(
        MailAlias,
        "dangling",
        Now { resolved_refs: Err(Reason::TargetNotFound), ..Now::ready() },
        "InProgress"
    );
    at!(MailAlias, "loop", refused(Reason::AliasLoop), "Failed");
    at!(MailAlias, "ready", Now::ready(), "Current");

    // Nobody has seen these yet.
    create::<MailDomain>(client, "new").await;
    create::<Mailbox>(client, "new").await;
    create::<MailAlias>(client, "new").await;
    for kind in ["MailDomain", "Mailbox", "MailAlias"] {
        expected.insert((kind, "new"), "InProgress");
    }
    // Were ready, and changed since.
    at!(MailDomain, "edited", Now::ready(), "InProgress");
    edit::<MailDomain>(client, "edited", json!({ "dns": { "ttl": 60 } })).await;
    at!(MailAlias, "edited", Now::ready(), "InProgress");
    edit::<MailAlias>(client, "edited", json!({ "targets": ["other@example.org"] })).await;
    // Are going.
    at!(MailDomain, "going", Now::ready(), "Terminating");
    delete_held::<MailDomain>(client, "going").await;
    at!(Mailbox, "going", refused(Reason::AddressConflict), "Terminating");
    delete_held::<Mailbox>(client, "going").await;

    let answers = ask(&server);
    assert_eq!(answers.len(), expected.len());
    for answer in answers {
        let kstatus = expected[&(answer.kind.as_str(), answer.name.as_str())];
        let (argocd, flux) = match kstatus {
            "Current" => ("Healthy", "Current"),
            "Failed" => ("Degraded", "Failed"),
            _ => ("Progressing", "InProgress"),
        };
        assert_eq!(
            (answer.kstatus.as_str(), answer.argocd.as_str(), answer.flux.as_str()),
            (kstatus, argocd, flux),
            "{answer:?}"
        );
        assert_eq!(answer.message.is_empty(), argocd == "Healthy", "Argo CD shows why: {answer:?}");
    }
}
