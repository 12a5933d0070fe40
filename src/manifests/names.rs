//! Names in the metadata of an object, as the API server takes them, and its sentences where it does not (Kubernetes
//! documentation, "Object Names and IDs", "Labels and Selectors", "Annotations").

use serde_json::Value;

/// The fields of `metadata` that are wrong: field, value, sentence.
pub fn troubles(metadata: &Value) -> Vec<(&'static str, &str, String)> {
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    let map = |field: &str| metadata.get(field).and_then(Value::as_object).into_iter().flatten();
    let name = text("name").and_then(|name| Some(("name", name, subdomain(name)?)));
    let namespace = text("namespace").and_then(|name| Some(("namespace", name, label(name)?)));
    let keys = ["labels", "annotations"].into_iter().flat_map(|field| {
        // Annotations are compared in lower case; labels are not.
        let case = move |key: &str| if field == "labels" { key.to_owned() } else { key.to_lowercase() };
        map(field).filter_map(move |(key, _)| Some((field, key.as_str(), qualified(&case(key))?)))
    });
    let values = map("labels").filter_map(|(_, value)| {
        let value = value.as_str()?;
        Some(("labels", value, label_value(value)?))
    });
    name.into_iter().chain(namespace).chain(keys).chain(values).collect()
}

/// RFC 1123 subdomain.
fn subdomain(name: &str) -> Option<String> {
    match name.split('.').all(is_label) {
        _ if name.len() > 253 => Some("must be no more than 253 characters".to_owned()),
        true => None,
        false => Some(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character".to_owned(),
        ),
    }
}

/// RFC 1123 label.
fn label(name: &str) -> Option<String> {
    match is_label(name) {
        _ if name.len() > 63 => Some("must be no more than 63 characters".to_owned()),
        true => None,
        false => Some(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character".to_owned(),
        ),
    }
}

/// The key of a label or an annotation: a name, perhaps with a prefix that is a subdomain.
fn qualified(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.contains('/') {
        return Some("a valid label key must consist of alphanumeric characters, '-', '_' or '.'".to_owned());
    }
    match prefix {
        Some("") => return Some("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if let Some(trouble) = subdomain(prefix) {
                return Some(format!("prefix part {trouble}"));
            }
        }
        None => {}
    }
    match is_name(name) {
        _ if name.is_empty() => Some("name part must be non-empty".to_owned()),
        _ if name.len() > 63 => Some("name part must be no more than 63 bytes".to_owned()),
        true => None,
        false => Some(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character".to_owned(),
        ),
    }
}

/// The value of a label; it may be empty.
fn label_value(value: &str) -> Option<String> {
    match value.is_empty() || is_name(value) {
        _ if value.len() > 63 => Some("must be no more than 63 bytes".to_owned()),
        true => None,
        false => Some(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character".to_owned(),
        ),
    }
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || c == '-')
}

fn is_name(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || "-_.".contains(c))
}
