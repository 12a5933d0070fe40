//! The user's tools write `spec`, the operator writes `status`, and neither takes anything from the other.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{Api, Resource};
use serde_json::{Value, json};
use vmail_operator::api::conditions::Reason;
use vmail_operator::api::{MailAlias, MailDomain, Mailbox};
use vmail_operator::operator::write::Writer;

use crate::apiserver::{ApiServer, run};
use crate::situations::{Kind, Now, write, writer};

const SERVER_SIDE: &[&str] = &["apply", "--server-side", "--field-manager=gitops", "-f", "-"];
const FORCED: &[&str] = &["apply", "--server-side", "--field-manager=gitops", "--force-conflicts", "-f", "-"];
const CLIENT_SIDE: &[&str] = &["apply", "-f", "-"];

fn manifest<K: Kind>(name: &str) -> Value {
    let metadata = json!({ "name": name, "namespace": "default", "labels": { "team": "mail" } });
    json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": metadata, "spec": K::spec(name),
    })
}

struct Tool<'a> {
    server: &'a ApiServer,
    apply: &'static [&'static str],
}

impl Tool<'_> {
    fn kubectl(&self, arguments: &[&str], manifest: &Value) -> Result<String, String> {
        run(self.server.kubectl().args(arguments), &manifest.to_string())
    }

    fn apply(&self, manifest: &Value) {
        self.kubectl(self.apply, manifest).unwrap_or_else(|error| panic!("{:?}: {error}", self.apply));
    }

    /// What a pipeline asks before it applies: nothing would change.
    fn diff_is_empty(&self, manifest: &Value) {
        let server_side: &[&str] = if self.apply == CLIENT_SIDE {
            &["diff", "-f", "-"]
        } else {
            &["diff", "--server-side", "--field-manager=gitops", "-f", "-"]
        };
        self.kubectl(server_side, manifest)
            .unwrap_or_else(|difference| panic!("{server_side:?}: {difference}"));
    }

    async fn get<K: Kind>(&self, name: &str) -> K {
        Api::namespaced(self.server.client.clone(), "default").get(name).await.expect("it is there")
    }
}

fn version<K: Resource>(object: &K) -> &str {
    object.meta().resource_version.as_deref().expect("a version")
}

fn spec<K: Kind>(object: &K) -> Value {
    serde_json::to_value(object).expect("JSON")["spec"].clone()
}

/// The top-level fields that each manager owns, `manager[/subresource]: fields`.
fn owners<K: Kind>(object: &K) -> Vec<String> {
    let entries = object.meta().managed_fields.iter().flatten();
    let owner = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0).and_then(Value::as_object);
        let fields: Vec<&str> = fields.into_iter().flat_map(|map| map.keys()).map(String::as_str).collect();
        let subresource = entry.subresource.as_deref().map(|name| format!("/{name}")).unwrap_or_default();
        format!("{}{subresource}: {}", entry.manager.as_deref().unwrap_or_default(), fields.join(" "))
    };
    let mut owners: Vec<String> = entries.map(owner).collect();
    owners.sort();
    owners
}

fn condition<'a, K: Kind>(object: &'a K, kind: &str) -> Option<&'a str> {
    object
        .conditions()
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

/// One object's life with one tool.
async fn a_tool_and_the_operator<K: Kind>(tool: &Tool<'_>, writer: &Writer, name: &str, change: Value) {
    let manifest = manifest::<K>(name);
    tool.apply(&manifest);
    let applied: K = tool.get(name).await;
    tool.diff_is_empty(&manifest);

    // The operator refuses it, then lets it in. Nothing but the status changes, and no condition is left over.
    let refused = Now { accepted: Err(Reason::Invalid), ..Now::ready() };
    let stalled: K = write(writer, &applied, &refused).await;
    assert_eq!((condition(&stalled, "Ready"), condition(&stalled, "Stalled")), (Some("False"), Some("True")));
    let ready: K = write(writer, &stalled, &Now::ready()).await;
    assert_eq!((condition(&ready, "Ready"), condition(&ready, "Stalled")), (Some("True"), None));
    assert_eq!(spec(&ready), spec(&applied));
    assert_eq!(ready.meta().generation, applied.meta().generation);
    assert_eq!(ready.meta().labels, applied.meta().labels);
    let user = if tool.apply == CLIENT_SIDE { "kubectl-client-side-apply" } else { "gitops" };
    assert_eq!(
        owners(&ready),
        [format!("{user}: f:metadata f:spec"), "vmail-operator/status: f:status".to_owned()],
        "each owns its own"
    );
    let since = |object: &K| {
        let entries = object.meta().managed_fields.iter().flatten();
        entries.clone().find(|entry| entry.subresource.is_none()).and_then(|entry| entry.time.clone())
    };
    assert_eq!(since(&ready), since(&applied), "when its user last changed it");

    // The same again, by either, is nothing.
    let again: K = write(writer, &ready, &Now::ready()).await;
    assert_eq!(version(&again), version(&ready), "a status that says the same");
    tool.apply(&manifest);
    tool.apply(&manifest);
    tool.diff_is_empty(&manifest);
    let later: K = tool.get(name).await;
    assert_eq!(version(&later), version(&ready), "a manifest that says the same");

    // A change by the tool leaves the status to the operator.
    let mut changed = manifest.clone();
    changed["spec"].as_object_mut().expect("a map").extend(change.as_object().expect("a map").clone());
    tool.apply(&changed);
    let edited: K = tool.get(name).await;
    if changed != manifest {
        assert_eq!(edited.meta().generation, Some(2));
    }
    assert_eq!(edited.conditions(), ready.conditions());

    // A manifest with a status in it, such as an exported one, brings none.
    changed["status"] = json!({ "observedGeneration": 7 });
    tool.apply(&changed);
    let exported: K = tool.get(name).await;
    assert_eq!(exported.conditions(), ready.conditions());
    write(writer, &exported, &Now::ready()).await;

    // Nothing holds it.
    run(tool.server.kubectl().args(["delete", "--timeout=10s", "-f", "-"]), &manifest.to_string())
        .expect("deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gitops_tool_and_the_operator_never_fight() {
    let server = ApiServer::start().await;
    server.install_crds().await;
    let writer = &writer(&server.client).await;
    for (apply, name) in [(SERVER_SIDE, "server-side"), (FORCED, "forced"), (CLIENT_SIDE, "client-side")] {
        let tool = &Tool { server: &server, apply };
        a_tool_and_the_operator::<MailDomain>(tool, writer, name, json!({ "dns": { "ttl": 60 } })).await;
        a_tool_and_the_operator::<Mailbox>(tool, writer, name, json!({})).await;
        a_tool_and_the_operator::<MailAlias>(tool, writer, name, json!({ "targets": ["a@b.example"] })).await;
    }

    // From one way of applying to the other, as after a change of tools: no conflict, no change of the spec.
    let manifest = manifest::<MailDomain>("moved");
    Tool { server: &server, apply: CLIENT_SIDE }.apply(&manifest);
    let tool = Tool { server: &server, apply: SERVER_SIDE };
    let before: MailDomain = tool.get("moved").await;
    write(writer, &before, &Now::ready()).await;
    tool.apply(&manifest);
    let after: MailDomain = tool.get("moved").await;
    assert_eq!(spec(&after), spec(&before));
    assert_eq!(after.meta().generation, before.meta().generation);
    assert_eq!(condition(&after, "Ready"), Some("True"));
}
