//! What the chart renders, asked of a real API server: it is valid to the last field, keeps the Pod Security Standards that
//! the documentation names, and can be upgraded, the definitions of the kinds with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::apiserver::{ApiServer, User, built, run};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/vmail-operator");

const NAMESPACE: &str = "mail";

struct Chart<'a> {
    server: &'a ApiServer,
    helm: PathBuf,
    dir: PathBuf,
}

impl Chart<'_> {
    /// The values files of the chart's `ci/`.
    fn values(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.join("ci")).expect("a directory");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    }

    fn render(&self, values: &str, more: &[&str]) -> String {
        let mut helm = Command::new(&self.helm);
        helm.args(["template", "vmail"]).arg(&self.dir).arg("--namespace").arg(NAMESPACE);
        helm.arg("--values").arg(self.dir.join("ci").join(values)).args(more);
        run(&mut helm, "").unwrap_or_else(|error| panic!("{values} {more:?}: {error}"))
    }

    /// As `helm` applies it, but stricter: an unknown field, a field twice and whatever the server warns of are errors.
    fn apply(&self, manifests: &str, more: &[&str]) -> Result<String, String> {
        let mut kubectl = self.server.kubectl();
        kubectl.args(["apply", "--server-side", "--force-conflicts", "--validate=strict"]);
        run(kubectl.args(["--warnings-as-errors", "-f", "-"]).args(more), manifests)
    }

    fn try_out(&self, manifests: &str) -> Result<String, String> {
        self.apply(manifests, &["--dry-run=server"])
    }

    /// Whether the pods of a template keep a Pod Security Standard.
    fn keeps(&self, standard: &str, values: &str, template: &str) -> Result<String, String> {
        let label = format!("pod-security.kubernetes.io/warn={standard}");
        run(self.server.kubectl().args(["label", "--overwrite", "namespace", NAMESPACE, &label]), "")?;
        let tried =
            self.try_out(&self.render(values, &["--show-only", &format!("templates/{template}.yaml")]));
        run(
            self.server.kubectl().args(["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn-"]),
            "",
        )?;
        tried
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_what_the_chart_renders() {
    let server = ApiServer::start().await;
    let chart = Chart { server: &server, helm: built("helm"), dir: DIR.into() };
    let kubectl = |arguments: &[&str]| run(server.kubectl().args(arguments), "").expect("kubectl succeeds");
    kubectl(&["create", "namespace", NAMESPACE]);
    let definitions = built("monitoring");
    kubectl(&["apply", "--server-side", "-f", &definitions.display().to_string()]);
    kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);

    for file in chart.values() {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let tried = chart.try_out(&chart.render(name, &[])).unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: {} objects", tried.lines().count());
    }

    // charts/vmail-operator/README.md names both standards.
    chart.keeps("restricted", "minimal-values.yaml", "operator-deployment").expect("restricted");
    chart.keeps("baseline", "minimal-values.yaml", "postfix-statefulset").expect("baseline");
    for (standard, values) in [("restricted", "minimal-values.yaml"), ("baseline", "everything-values.yaml")]
    {
        let refused =
            chart.keeps(standard, values, "postfix-statefulset").expect_err("Postfix, or its hostNetwork");
        assert!(refused.contains("would violate PodSecurity"), "{refused}");
    }

    // An installation takes every other value in an upgrade, but for the volumes.
    chart.apply(&chart.render("minimal-values.yaml", &[]), &[]).expect("applied");
    let volume = |size: &str| json!({ "size": size, "storageClass": "", "accessMode": "ReadWriteOnce" });
    let storage = format!("storage={}", json!({ "vmail": volume("10Gi"), "spool": volume("5Gi") }));
    // The first family of a Service cannot change.
    let same = ["--set", "fullnameOverride=vmail,service.ipFamilies={IPv4,IPv6}", "--set-json", &storage];
    chart.try_out(&chart.render("everything-values.yaml", &same)).expect("upgraded");
    let refused = chart
        .try_out(&chart.render("minimal-values.yaml", &["--set", "storage.vmail.size=20Gi"]))
        .expect_err("a StatefulSet keeps its volumes");
    assert!(refused.contains("updates to statefulset spec"), "{refused}");
}

const DOMAIN: &str = "{apiVersion: vmail.dev/v1alpha1, kind: MailDomain, metadata: {name: example.org},
    spec: {domain: example.org, withdrawal: Immediate}}";

/// Helm leaves alone what lies in a chart's `crds/`; ours are templates.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_brings_the_definitions_and_an_uninstallation_leaves_them() {
    let server = ApiServer::start().await;
    let program = built("helm");
    let helm = |arguments: &[&str]| {
        let mut helm = Command::new(&program);
        helm.env("KUBECONFIG", server.kubeconfig(User::Admin)).args(["--namespace", NAMESPACE]);
        run(helm.args(arguments), "").unwrap_or_else(|error| panic!("helm {arguments:?}: {error}"))
    };
    let kubectl = |arguments: &[&str], input: &str| {
        run(server.kubectl().args(["--namespace", NAMESPACE]).args(arguments), input)
    };
    kubectl(&["create", "namespace", NAMESPACE], "").expect("created");

    // An older chart, from before the field `withdrawal`.
    let older = tempfile::tempdir().expect("a directory");
    run(Command::new("cp").args(["-r", DIR]).arg(older.path()), "").expect("copied");
    let older = older.path().join("vmail-operator");
    let file = older.join("files/crds/maildomains.yaml");
    let definition = std::fs::read_to_string(&file).expect("a file");
    assert_eq!(definition.matches(" withdrawal:").count(), 1);
    std::fs::write(&file, definition.replace(" withdrawal:", " later:")).expect("written");

    let values = format!("{DIR}/ci/minimal-values.yaml");
    let install =
        |verb: &str, chart: &Path| helm(&[verb, "vmail", &chart.display().to_string(), "--values", &values]);
    install("install", &older);
    kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"], "")
        .expect("established");
    let refused = kubectl(&["apply", "-f", "-"], DOMAIN).expect_err("an unknown field");
    assert!(refused.contains("unknown field \"spec.withdrawal\""), "{refused}");

    install("upgrade", Path::new(DIR));
    let began = Instant::now();
    while let Err(error) = kubectl(&["apply", "-f", "-"], DOMAIN) {
        assert!(began.elapsed() < Duration::from_secs(30), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    helm(&["uninstall", "vmail", "--wait", "--timeout=60s"]);
    let left = kubectl(&["get", "crd,maildomains,secrets,deployments,statefulsets", "-o", "name"], "")
        .expect("listed");
    let left: Vec<&str> = left.lines().filter(|line| !line.contains("sh.helm.release")).collect();
    assert_eq!(
        left,
        [
            "customresourcedefinition.apiextensions.k8s.io/mailaliases.vmail.dev",
            "customresourcedefinition.apiextensions.k8s.io/mailboxes.vmail.dev",
            "customresourcedefinition.apiextensions.k8s.io/maildomains.vmail.dev",
            "maildomain.vmail.dev/example.org",
            "secret/vmail-agent-token",
        ]
    );
}
