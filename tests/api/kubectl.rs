//! What a user of kubectl sees: columns, categories, short names, `wait`.

use serde_json::json;
use vmail_operator::api::conditions::Reason;
use vmail_operator::api::{MailAlias, MailDomain, Mailbox};

use crate::apiserver::{ApiServer, run};
use crate::situations::{Now, create, edit, write, writer};

fn kubectl(server: &ApiServer, arguments: &[&str]) -> Result<String, String> {
    run(server.kubectl().args(arguments), "")
}

/// A printed table without the age, which runs.
fn table(server: &ApiServer, arguments: &[&str]) -> Vec<Vec<String>> {
    let text = kubectl(server, arguments).expect("a table");
    let rows = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.map(|mut row| {
        row.pop();
        row
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_is_the_case_and_waits_for_it() {
    let server = ApiServer::start().await;
    let client = &server.client;
    server.install_crds().await;
    let writer = &writer(client).await;
    let conflict = Now {
        accepted: Err(Reason::DomainConflict),
        programmed: Err(Reason::Pending),
        published: Err(Reason::Pending),
        ..Now::ready()
    };
    let on_its_way =
        || Now { programmed: Err(Reason::Pending), published: Err(Reason::Pending), ..Now::ready() };

    let late: MailDomain = create(client, "late").await;
    create::<MailDomain>(client, "new").await;
    write(writer, &create::<MailDomain>(client, "conflict").await, &conflict).await;
    write(writer, &create::<MailDomain>(client, "served").await, &Now::ready()).await;
    write(writer, &create::<Mailbox>(client, "you").await, &Now::ready()).await;
    write(writer, &create::<MailAlias>(client, "list").await, &on_its_way()).await;
    let late: MailDomain = write(writer, &late, &on_its_way()).await;

    let header = kubectl(&server, &["get", "maildomains"]).expect("a table");
    let header: Vec<&str> = header.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(header, ["NAME", "DOMAIN", "READY", "REASON", "MX", "AGE"]);
    assert_eq!(
        table(&server, &["get", "md", "--no-headers"]),
        [
            vec!["conflict", "conflict.example.org", "False", "DomainConflict"],
            vec!["late", "late.example.org", "False", "Pending"],
            vec!["new", "new.example.org", "Unknown", "Pending"],
            vec!["served", "served.example.org", "True", "Ready", "mail.example.test"],
        ]
    );
    assert_eq!(
        table(&server, &["get", "md", "served", "-o", "wide"]),
        [
            vec!["NAME", "DOMAIN", "READY", "REASON", "MX", "CLASS", "CELL"],
            vec!["served", "served.example.org", "True", "Ready", "mail.example.test", "Mailbox", "default"],
        ]
    );
    assert_eq!(
        table(&server, &["get", "mbx", "-o", "wide"]),
        [
            vec!["NAME", "ADDRESS", "READY", "REASON", "PATH"],
            vec!["you", "you@example.org", "True", "Ready", "example.org/you/"],
        ]
    );
    assert_eq!(
        table(&server, &["get", "ma"]),
        [
            vec!["NAME", "ADDRESS", "TARGETS", "READY", "REASON"],
            vec!["list", "list@example.org", "[\"you@example.org\",\"me@example.net\"]", "False", "Pending"],
        ]
    );
    let all = kubectl(&server, &["get", "mail", "-o", "name"]).expect("names");
    for name in ["maildomain.vmail.dev/served", "mailbox.vmail.dev/you", "mailalias.vmail.dev/list"] {
        assert!(all.lines().any(|line| line == name), "{name} is missing: {all}");
    }

    // `wait` ends when the status says so, and not before.
    let wait = |what: &str, timeout: &str| {
        kubectl(&server, &["wait", "--for=condition=Ready", what, &format!("--timeout={timeout}")])
    };
    wait("mailbox/you", "5s").expect("it is ready");
    for name in ["new", "conflict", "late"] {
        let said = wait(&format!("maildomain/{name}"), "1s").expect_err("it is not ready");
        assert!(said.contains("timed out"), "{said}");
    }
    kubectl(&server, &["wait", "--for=condition=Stalled", "maildomain/conflict", "--timeout=5s"])
        .expect("refused");
    let mut command = server.kubectl();
    command.args(["wait", "--for=condition=Ready", "maildomain/late", "--timeout=30s"]);
    let waiting = tokio::task::spawn_blocking(move || run(&mut command, ""));
    write::<MailDomain>(writer, &late, &Now::ready()).await;
    waiting.await.expect("it ends").expect("it gets ready");

    // What was ready before its user changed it is not ready yet.
    edit::<MailDomain>(client, "served", json!({ "dns": { "ttl": 60 } })).await;
    wait("maildomain/served", "1s").expect_err("the operator has not seen the change");
}

/// As `docs/gitops.md` says it.
#[tokio::test(flavor = "multi_thread")]
async fn the_health_checks_merge_into_what_argo_cd_has() {
    let server = ApiServer::start().await;
    for line in ["create namespace argocd", "-n argocd create configmap argocd-cm --from-literal=url=there"] {
        kubectl(&server, &line.split(' ').collect::<Vec<_>>()).expect("created");
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/gitops/argocd-cm.yaml");
    let patch = ["-n", "argocd", "patch", "configmap", "argocd-cm", "--patch-file", file];
    kubectl(&server, &patch).expect("merged");
    let path = "jsonpath={.data}";
    let data =
        kubectl(&server, &["-n", "argocd", "get", "configmap", "argocd-cm", "-o", path]).expect("data");
    let data: std::collections::BTreeMap<String, String> = serde_json::from_str(&data).expect("JSON");
    assert_eq!((data.len(), data["url"].as_str()), (4, "there"));
    let scripts: std::collections::BTreeSet<&String> =
        data.iter().filter(|(key, _)| key.starts_with("resource.")).map(|(_, script)| script).collect();
    assert_eq!(scripts.len(), 1, "the same for each kind");
}
