#![allow(missing_docs)]
//! The commands that need no cluster: the real program on directories of manifests.

mod checking;
mod program;
mod rendering;
#[path = "../api/table.rs"]
mod table;
mod tracing;

use serde_json::json;
use vmail_operator::manifests::schema::Schema;

/// What a real API server says of each object (`tests/api`), the program says without one.
#[test]
fn objects_are_judged_as_by_the_api_server() {
    let schemas = vmail_operator::api::crds()
        .map(|crd| (crd.spec.names.kind.clone(), Schema::of(&crd).expect("a schema")));
    let mut wrong = Vec::new();
    let rows = table::table();
    for (number, (kind, spec, sentence)) in rows.iter().enumerate() {
        let (_, schema) = schemas.iter().find(|(name, _)| name == kind).expect("a kind");
        let object = json!({
            "apiVersion": "vmail.dev/v1alpha1", "kind": kind,
            "metadata": { "name": format!("row-{number}") }, "spec": spec,
        });
        match schema.judge(&object).map_err(|said| said.join("; ")) {
            Ok(_) if sentence.is_empty() => {}
            Ok(_) => wrong.push(format!("let in: {kind} {spec}")),
            Err(said) if sentence.is_empty() => wrong.push(format!("refused: {kind} {spec}: {said}")),
            Err(said) if said.contains(sentence) => {}
            Err(said) => wrong.push(format!("{kind} {spec} is refused without saying `{sentence}`: {said}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
