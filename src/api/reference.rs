//! The reference of the three kinds, written from the types: what `docs/api.md` holds. Pure.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::Value;

use super::conditions::{ACCEPTED, READY, Reason, STALLED};
use super::reasons::possible;

const HEAD: &str = "# API reference

The kinds of the group `vmail.dev`, version `v1alpha1`. `kubectl explain maildomain.spec` says the same. Written by
`make api-reference` from the types in `src/api`; `make check` refuses a page that differs.

What is said of a field here is checked by the API server, and `kubectl apply` is refused with the sentence behind ✗. What
takes more than one object to know stands in conditions: [reasons.md](reasons.md) explains each. Unknown fields are refused
by `kubectl` unless `--validate=false` is given.
";

/// The page `docs/api.md`, in Markdown.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for crd in super::crds() {
        kind(&mut page, &crd);
    }
    page
}

fn kind(page: &mut String, crd: &CustomResourceDefinition) {
    let names = &crd.spec.names;
    let short = names.short_names.as_deref().unwrap_or_default().join(", ");
    let Some(version) = crd.spec.versions.first() else { return };
    let Some(schema) = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) else {
        return;
    };
    let columns = version.additional_printer_columns.iter().flatten().map(|column| match column.priority {
        Some(1..) => format!("{} (`-o wide`)", column.name.to_uppercase()),
        _ => column.name.to_uppercase(),
    });
    let columns: Vec<String> = columns.collect();
    say(page, format_args!("\n## {}\n\n{}\n", names.kind, description(schema)));
    say(page, format_args!("`kubectl get {}` or `{short}`; columns {}.\n", names.plural, columns.join(", ")));
    say(page, format_args!("```yaml\n{}```", example(&names.kind)));
    for (name, part) in schema.properties.iter().flatten() {
        if ["spec", "status"].contains(&name.as_str()) {
            say(page, format_args!("\n### {} {name}", names.kind));
            fields(page, name, part);
        }
    }
    conditions(page, &names.kind);
}

/// What a condition can say, and why: the names are API.
fn conditions(page: &mut String, kind: &str) {
    say(
        page,
        format_args!("\n### {kind} conditions\n\n| condition | true with | false with |\n|---|---|---|"),
    );
    for (condition, good, reasons) in possible(kind) {
        let reasons: Vec<String> = reasons.iter().map(|reason| link(*reason)).collect();
        say(page, format_args!("| `{condition}` | {} | {} |", link(*good), reasons.join(", ")));
    }
    say(
        page,
        format_args!("| `{READY}` | {} | that of the first above that is false |", link(Reason::Ready)),
    );
    say(
        page,
        format_args!(
            "| `{STALLED}` | that of `{ACCEPTED}`, where only the user can help | never, it is absent then |"
        ),
    );
}

fn link(reason: Reason) -> String {
    let name = reason.as_str();
    format!("[{name}](reasons.md#{})", name.to_lowercase())
}

/// Each field of an object, and of the objects in it.
fn fields(page: &mut String, path: &str, object: &JSONSchemaProps) {
    let required = object.required.as_deref().unwrap_or_default();
    let properties = object.properties.iter().flatten();
    // What must be written comes first.
    let (first, rest): (Vec<_>, Vec<_>) = properties.partition(|(name, _)| required.contains(name));
    for (name, field) in first.into_iter().chain(rest) {
        let inner = items(field);
        let path = match inner {
            Some(_) => format!("{path}.{name}[]"),
            None => format!("{path}.{name}"),
        };
        let mut facts = vec![shape(field)];
        if required.contains(name) && path.starts_with("spec") {
            facts.push("required".to_owned());
        }
        let rules = field.x_kubernetes_validations.iter().flatten();
        let (immutable, others): (Vec<_>, Vec<_>) = rules.partition(|rule| rule.rule.contains("oldSelf"));
        if !immutable.is_empty() {
            facts.push("immutable".to_owned());
        }
        facts.extend(limits(field));
        say(page, format_args!("\n**`{path}`**: {}\n\n{}", facts.join(", "), description(field)));
        let sentences = immutable.into_iter().chain(others).filter_map(|rule| rule.message.as_ref());
        let sentences: Vec<&String> = sentences.collect();
        if !sentences.is_empty() {
            page.push('\n');
        }
        for sentence in sentences {
            say(page, format_args!("* ✗ {sentence}"));
        }
        // Conditions are those of Kubernetes, and described on a page of their own.
        if name != "conditions" {
            fields(page, &path, inner.unwrap_or(field));
        }
    }
}

fn items(field: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match field.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(inner) => Some(inner),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn shape(field: &JSONSchemaProps) -> String {
    let plain = |field: &JSONSchemaProps| field.type_.clone().unwrap_or_else(|| "any".to_owned());
    let values =
        field.enum_.iter().flatten().filter_map(|value| value.0.as_str().map(|value| format!("`{value}`")));
    let values: Vec<String> = values.collect();
    match items(field) {
        _ if !values.is_empty() => format!("one of {}", values.join(", ")),
        Some(inner) if field.x_kubernetes_list_type.as_deref() == Some("set") => {
            format!("list of different {}s", plain(inner))
        }
        Some(inner) => match field.x_kubernetes_list_map_keys.as_deref() {
            Some([key]) => format!("list of {}s with different `{key}`", plain(inner)),
            _ => format!("list of {}s", plain(inner)),
        },
        None => plain(field),
    }
}

fn limits(field: &JSONSchemaProps) -> Vec<String> {
    let mut said = Vec::new();
    let inner = items(field);
    for (owner, of) in [(Some(field), ""), (inner, " each")] {
        let Some(owner) = owner else { continue };
        if let Some(longest) = owner.max_length {
            said.push(format!("{} characters{of}", range(owner.min_length, longest)));
        }
    }
    if let (Some(least), Some(most)) = (field.minimum, field.maximum) {
        said.push(format!("{least} to {most}"));
    }
    if let Some(most) = field.max_items {
        said.push(format!("{} entries", range(field.min_items, most)));
    }
    if let Some(default) = field.default.as_ref().and_then(|default| shown(&default.0)) {
        said.push(format!("default `{default}`"));
    }
    said
}

fn range(least: Option<i64>, most: i64) -> String {
    match least {
        None | Some(0) => format!("at most {most}"),
        Some(least) => format!("{least} to {most}"),
    }
}

/// A default as one writes it. That of an object is told by its fields, and an empty list is none.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Object(_) => None,
        Value::Array(entries) if entries.is_empty() => None,
        Value::Array(entries) => {
            Some(format!("[{}]", entries.iter().filter_map(shown).collect::<Vec<_>>().join(", ")))
        }
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Without line breaks of its own: Markdown wraps.
fn description(schema: &JSONSchemaProps) -> String {
    schema.description.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn example(kind: &str) -> &'static str {
    match kind {
        "MailDomain" => {
            "apiVersion: vmail.dev/v1alpha1
kind: MailDomain
metadata:
  name: example.org
spec:
  domain: example.org
  postmaster: you@example.org
  allowedNamespaces: {from: Names, names: [shop]}
"
        }
        "Mailbox" => {
            "apiVersion: vmail.dev/v1alpha1
kind: Mailbox
metadata:
  name: you.example.org
spec:
  address: you@example.org
"
        }
        _ => {
            "apiVersion: vmail.dev/v1alpha1
kind: MailAlias
metadata:
  name: sales.example.org
spec:
  address: sales@example.org
  targets: [you@example.org, shop@example.net]
"
        }
    }
}

fn say(page: &mut String, line: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{MailAlias, MailDomain, Mailbox};

    #[test]
    fn the_examples_are_objects() {
        serde_yaml::from_str::<MailDomain>(example("MailDomain")).expect("a MailDomain");
        serde_yaml::from_str::<Mailbox>(example("Mailbox")).expect("a Mailbox");
        serde_yaml::from_str::<MailAlias>(example("MailAlias")).expect("a MailAlias");
    }

    #[test]
    fn every_field_says_what_it_is() {
        let page = reference();
        for path in
            ["spec.domain", "spec.dns.mx[].host", "spec.targets[]", "status.conditions[]", "spec.catchAll"]
        {
            assert!(page.contains(&format!("**`{path}`**: ")), "{path}");
        }
        let lines: Vec<&str> = page.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("**`")) {
            assert!(lines[at + 2].len() > 20, "{line} has no description");
        }
        assert!(!page.contains("self.") && !page.contains("matches("), "rules are told as sentences");
        assert!(!page.contains("{\""), "values are told as one writes them");
    }
}
