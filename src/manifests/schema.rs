//! What the API server would say of one object: the schema of its kind, and the CEL rules in it.
//!
//! The order is that of kube-apiserver (apiextensions-apiserver, `customResourceStrategy`): fields that the schema does
//! not know are refused as `kubectl` has it done, nulls are dropped and defaults filled in; then come types and
//! bounds, then the entries of sets and maps, and last, where nothing is in the way, the CEL rules. The sentences are
//! the API server's, too; `tests/api` holds the two against each other.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::names;

/// Every field of `metadata` (ObjectMeta in the Kubernetes API).
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The schema of one kind.
pub struct Schema {
    typed: JSONSchemaProps,
    json: Value,
    rules: CompiledSchema,
    validator: Validator,
}

impl Schema {
    /// The schema of the first version of a definition; `None` for one without.
    pub fn of(crd: &CustomResourceDefinition) -> Option<Self> {
        let typed = crd.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.clone()?;
        let json = serde_json::to_value(&typed).ok()?;
        let rules = compile_schema(&json);
        Some(Self { typed, json, rules, validator: Validator::new() })
    }

    /// The object as the API server would store it, with its defaults.
    ///
    /// # Errors
    /// One sentence for each thing that it would refuse the object for, never none.
    pub fn judge(&self, object: &Value) -> Result<Value, Vec<String>> {
        let mut object = object.clone();
        if let Some(object) = object.as_object_mut() {
            // A status is not the user's to write, and dropped.
            object.remove("status");
        }
        let mut unknown = Vec::new();
        unknown_fields(&self.typed, &object, "", &mut unknown);
        normalise(&mut object);
        let object = apply_defaults(&self.json, &object);

        let mut found = Found::default();
        found.metadata(&object);
        found.value(&self.typed, &object, "");
        found.lists(&self.typed, &object, "");
        let mut said = unknown;
        said.append(&mut found.said);
        if !found.blocking
            && let Err(errors) = self.validator.validate_compiled(&self.rules, &object, None)
        {
            said.extend(errors.iter().map(|error| {
                let path = &error.field_path;
                match at(&object, path) {
                    None | Some(Value::Object(_) | Value::Array(_)) => {
                        format!("{path}: Invalid value: {}", error.message)
                    }
                    Some(value) => format!("{path}: Invalid value: {}: {}", shown(value), error.message),
                }
            }));
        }
        if said.is_empty() { Ok(object) } else { Err(said) }
    }
}

/// Fields that the API server would drop; what is below `metadata` is [`Found::metadata`]'s.
fn unknown_fields(schema: &JSONSchemaProps, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = child(path, name);
                match schema.properties.as_ref().and_then(|known| known.get(name)) {
                    Some(schema) => unknown_fields(schema, value, &path, unknown),
                    None if ["apiVersion", "kind", "metadata"].contains(&path.as_str()) => {}
                    None => unknown.push(format!("unknown field {path:?}")),
                }
            }
        }
        Value::Array(entries) => {
            let Some(items) = items(schema) else { return };
            for (position, value) in entries.iter().enumerate() {
                unknown_fields(items, value, &format!("{path}[{position}]"), unknown);
            }
        }
        _ => {}
    }
}

/// A null is a field left out: the one case in which the API server would keep it is a nullable field, where
/// it means the same. And JSON makes no difference between 60.0 and 60.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(normalise);
        }
        Value::Array(entries) => entries.iter_mut().for_each(normalise),
        Value::Number(number) => {
            let whole = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 9e15);
            if let Some(whole) = whole.filter(|_| number.is_f64()) {
                #[allow(clippy::cast_possible_truncation)]
                let whole = whole as i64;
                *number = whole.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// What is wrong with an object.
#[derive(Default)]
struct Found {
    said: Vec<String>,
    /// Something that keeps the API server from asking the CEL rules.
    blocking: bool,
}

impl Found {
    fn say(&mut self, path: &str, sentence: String) {
        self.said.push(format!("{path}: {sentence}"));
    }

    fn block(&mut self, path: &str, sentence: String) {
        self.say(path, sentence);
        self.blocking = true;
    }

    /// Names, and fields that every object has.
    fn metadata(&mut self, object: &Value) {
        let empty = Value::Object(Map::new());
        let metadata = object.get("metadata").unwrap_or(&empty);
        if let Err(error) = ObjectMeta::deserialize(metadata) {
            return self.block("metadata", format!("Invalid value: {error}"));
        }
        for name in metadata.as_object().into_iter().flat_map(Map::keys) {
            if !METADATA.contains(&name.as_str()) {
                self.said.push(format!("unknown field {:?}", child("metadata", name)));
            }
        }
        for (field, name, trouble) in names::troubles(metadata) {
            self.say(&child("metadata", field), format!("Invalid value: {}: {trouble}", shown(&name.into())));
        }
    }

    /// Types and bounds.
    fn value(&mut self, schema: &JSONSchemaProps, value: &Value, path: &str) {
        let (wanted, found) = (schema.type_.as_deref().unwrap_or_default(), type_of(value));
        if wanted != found && !(wanted == "number" && found == "integer") {
            let hint = match (wanted, found) {
                ("string", "boolean" | "integer" | "number") => {
                    " (put it in quotes: bare, YAML reads yes, no, on, off and numbers as no text)"
                }
                _ => "",
            };
            let body = body(path);
            self.block(
                path,
                format!("Invalid value: {found:?}: {body} must be of type {wanted}: {found:?}{hint}"),
            );
            return;
        }
        if let Some(allowed) = &schema.enum_
            && !allowed.iter().any(|allowed| allowed.0 == *value)
        {
            let allowed: Vec<String> = allowed.iter().map(|allowed| shown(&allowed.0)).collect();
            self.block(
                path,
                format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", ")),
            );
        }
        match value {
            Value::String(text) => self.length(schema, text, path),
            Value::Number(_) => self.range(schema, value, path),
            Value::Array(entries) => {
                self.size(schema, entries.len(), path);
                for (position, entry) in entries.iter().enumerate() {
                    if let Some(items) = items(schema) {
                        self.value(items, entry, &format!("{path}[{position}]"));
                    }
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let Some(schema) = schema.properties.as_ref().and_then(|known| known.get(name)) {
                        self.value(schema, value, &child(path, name));
                    }
                }
                for name in schema.required.iter().flatten().filter(|name| !fields.contains_key(*name)) {
                    self.block(&child(path, name), "Required value".to_owned());
                }
            }
            Value::Bool(_) | Value::Null => {}
        }
    }

    /// Lengths count code points, although the API server's own sentence says bytes.
    fn length(&mut self, schema: &JSONSchemaProps, text: &str, path: &str) {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(most) = schema.max_length.filter(|most| length > *most) {
            self.block(path, format!("Too long: may not be more than {most} bytes"));
        }
        if let Some(least) = schema.min_length.filter(|least| length < *least) {
            let (text, body) = (shown(&text.into()), body(path));
            self.say(path, format!("Invalid value: {text}: {body} should be at least {least} chars long"));
        }
    }

    fn range(&mut self, schema: &JSONSchemaProps, value: &Value, path: &str) {
        let number = value.as_f64().unwrap_or_default();
        let body = body(path);
        if let Some(most) = schema.maximum.filter(|most| number > *most) {
            self.say(path, format!("Invalid value: {value}: {body} should be less than or equal to {most}"));
        }
        if let Some(least) = schema.minimum.filter(|least| number < *least) {
            self.say(
                path,
                format!("Invalid value: {value}: {body} should be greater than or equal to {least}"),
            );
        }
    }

    fn size(&mut self, schema: &JSONSchemaProps, size: usize, path: &str) {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if let Some(most) = schema.max_items.filter(|most| size > *most) {
            self.block(path, format!("Too many: {size}: must have at most {most} items"));
        }
        if let Some(least) = schema.min_items.filter(|least| size < *least) {
            self.say(
                path,
                format!("Invalid value: {size}: {} should have at least {least} items", body(path)),
            );
        }
    }

    /// No entry of a set, and no key of a map, twice.
    fn lists(&mut self, schema: &JSONSchemaProps, value: &Value, path: &str) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let Some(schema) = schema.properties.as_ref().and_then(|known| known.get(name)) {
                        self.lists(schema, value, &child(path, name));
                    }
                }
            }
            Value::Array(entries) => {
                self.repeated(schema, entries, path);
                if let Some(items) = items(schema) {
                    for (position, entry) in entries.iter().enumerate() {
                        self.lists(items, entry, &format!("{path}[{position}]"));
                    }
                }
            }
            _ => {}
        }
    }

    /// The first repetition of each is told.
    fn repeated(&mut self, schema: &JSONSchemaProps, entries: &[Value], path: &str) {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for (position, entry) in entries.iter().enumerate() {
            let key = match schema.x_kubernetes_list_type.as_deref() {
                Some("set") => shown(entry),
                Some("map") => shown(&key_of(schema, entry)),
                _ => return,
            };
            let times = times.entry(key.clone()).or_default();
            *times += 1;
            if *times == 2 {
                self.say(&format!("{path}[{position}]"), format!("Duplicate value: {key}"));
            }
        }
    }
}

/// The key of an entry of a map.
fn key_of(schema: &JSONSchemaProps, entry: &Value) -> Value {
    let names = schema.x_kubernetes_list_map_keys.iter().flatten();
    let fields = names.filter_map(|name| Some((name.clone(), entry.get(name)?.clone())));
    Value::Object(fields.collect())
}

fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(items) => Some(items),
        // A structural schema has none of these.
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn body(path: &str) -> String {
    format!("{path} in body")
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as the API server prints it: text as Go quotes it.
fn shown(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if c == '\'' || c.escape_debug().count() == 1 => quoted.push(c),
            _ if c.is_ascii() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// The value at a path such as `spec.dns.mx[0].host`.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split(['.', '[']).try_fold(object, |value, step| match step.strip_suffix(']') {
        Some(position) => value.get(position.parse::<usize>().ok()?),
        None => value.get(step),
    })
}

#[cfg(test)]
mod tests;
