//! YAML text → documents as JSON values, read as kubectl reads them.
//!
//! kubectl has the rules of YAML 1.1 for plain scalars (sigs.k8s.io/yaml): a bare `yes` or `on` is a truth value
//! and `0644` is octal, unlike in YAML 1.2. What it forgives but would change the meaning of a manifest, a key
//! that stands twice, is an error here.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag, options};
use serde_json::{Map, Number, Value};

/// Values that the aliases of one document may stand for: a few lines can be made to mean billions.
const EXPANSION_LIMIT: usize = 100_000;

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Counted from 1.
    pub number: usize,
    /// The line of its first value, or of what is wrong with it, counted from 1.
    pub line: usize,
    /// Its value, or what is wrong with it. An empty document is null.
    pub content: Result<Value, String>,
}

/// Reads every document of a text. One that cannot be read does not keep the ones after it from being read.
pub fn documents(text: &str) -> Vec<Document> {
    let mut parser = Parser::new_from_str_with_options(text, options! { emit_comments: false });
    let mut documents = Vec::new();
    loop {
        let mut reader =
            Reader { events: &mut parser, anchors: BTreeMap::new(), room: EXPANSION_LIMIT, line: 1 };
        let read = reader.document();
        let line = reader.line;
        let content = match read {
            Ok(None) => return documents,
            Ok(Some(value)) => Ok(value),
            Err(Trouble(message)) => Err(explained(message, text)),
        };
        let broken = content.is_err();
        documents.push(Document { number: documents.len() + 1, line, content });
        if broken && !parser.proceed_next_document().unwrap_or(false) {
            return documents;
        }
    }
}

/// Most of what is no YAML in a repository is a template of it.
fn explained(message: String, text: &str) -> String {
    match text.contains("{{") {
        true => {
            format!("{message}; this looks like a template: render it first, for instance by `helm template`")
        }
        false => message,
    }
}

/// What is wrong, in words.
struct Trouble(String);

impl From<ScanError> for Trouble {
    fn from(error: ScanError) -> Self {
        Self(format!("this is no YAML: {}", error.info()))
    }
}

/// Reads one document.
struct Reader<'a, 'text> {
    events: &'a mut Parser<'text, StrInput<'text>>,
    /// Complete values by the number of their anchor.
    anchors: BTreeMap<usize, Value>,
    /// How many more values aliases may stand for.
    room: usize,
    /// Where the document begins; after an error, where that is.
    line: usize,
}

impl<'text> Reader<'_, 'text> {
    /// The next document, or `None` at the end.
    fn document(&mut self) -> Result<Option<Value>, Trouble> {
        loop {
            match self.next()? {
                (Event::DocumentStart(..), _) => break,
                (Event::StreamEnd, _) => return Ok(None),
                _ => {}
            }
        }
        let (event, span) = self.next()?;
        let begin = span.start.line();
        let value = self.value(event, begin)?;
        self.line = begin;
        Ok(Some(value))
    }

    fn next(&mut self) -> Result<(Event<'text>, Span), Trouble> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok((event, span))
            }
            Some(Err(error)) => {
                self.line = error.marker().line();
                Err(error.into())
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn value(&mut self, event: Event<'text>, line: usize) -> Result<Value, Trouble> {
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag.as_deref())?, anchor),
            Event::SequenceStart(_, anchor, _) => (self.sequence()?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping()?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, line),
            other => return Err(Trouble(format!("this is no YAML: {other:?} where a value was expected"))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Value, Trouble> {
        let Some(value) = self.anchors.get(&anchor) else {
            self.line = line;
            return Err(Trouble("an alias stands inside of what it stands for".to_owned()));
        };
        match self.room.checked_sub(count(value)) {
            Some(room) => {
                self.room = room;
                Ok(value.clone())
            }
            None => Err(Trouble(format!("the aliases stand for more than {EXPANSION_LIMIT} values"))),
        }
    }

    fn sequence(&mut self) -> Result<Value, Trouble> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, span) => items.push(self.value(event, span.start.line())?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value, Trouble> {
        let mut entries = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = match event {
                Event::MappingEnd => break,
                event => self.value(event, line)?,
            };
            let (event, span) = self.next()?;
            let value = self.value(event, span.start.line())?;
            // What goes wrong from here on is about the key.
            self.line = line;
            if merge {
                merged.push(value);
                continue;
            }
            let key = key_text(key)?;
            if entries.insert(key.clone(), value).is_some() {
                return Err(Trouble(format!("the key {key:?} stands twice in the same mapping")));
            }
        }
        for value in merged {
            merge(&mut entries, value)?;
        }
        Ok(Value::Object(entries))
    }
}

/// `<<: *anchor`: what the mapping does not say itself, it takes from there (YAML 1.1, merge key).
fn merge(entries: &mut Map<String, Value>, from: Value) -> Result<(), Trouble> {
    match from {
        Value::Object(from) => {
            for (key, value) in from {
                entries.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) => list.into_iter().try_for_each(|from| merge(entries, from)),
        _ => Err(Trouble("the key << needs a mapping, or a list of them".to_owned())),
    }
}

fn key_text(key: Value) -> Result<String, Trouble> {
    match key {
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Number(_) => Ok(key.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(Trouble("a key has to be text, and this is none".to_owned()))
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, Trouble> {
    match tag {
        None if style == ScalarStyle::Plain => plain(text),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix() != "str" => plain(text),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// A plain scalar, as go-yaml's `resolve` takes it.
fn plain(text: &str) -> Result<Value, Trouble> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => false.into(),
        _ => match number(text) {
            Some(Ok(number)) => Value::Number(number),
            Some(Err(trouble)) => return Err(trouble),
            None => Value::String(text.to_owned()),
        },
    })
}

/// A number as go-yaml takes it: with `_` inside, in any of Go's bases, and `0` in front of an octal one.
fn number(text: &str) -> Option<Result<Number, Trouble>> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    let digits = text.replace('_', "");
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Some(Err(Trouble(format!("{text} is a number that JSON does not have; put it in quotes"))));
    }
    let (radix, rest) = match unsigned.get(..2) {
        Some("0x" | "0X") => (16, &unsigned[2..]),
        Some("0o" | "0O") => (8, &unsigned[2..]),
        Some("0b" | "0B") => (2, &unsigned[2..]),
        Some(two) if two.starts_with('0') => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    let integer = i128::from_str_radix(rest, radix).ok().filter(|_| !rest.starts_with(['+', '-']));
    let integer = integer.map(|value| if digits.starts_with('-') { -value } else { value });
    if let Some(number) = integer.and_then(Number::from_i128) {
        return Some(Ok(number));
    }
    let decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.chars().all(|c| c.is_ascii_digit() || ".eE+-".contains(c));
    let value = digits.parse::<f64>().ok().filter(|value| decimal && value.is_finite())?;
    // JSON knows no difference between 60 and 60.0.
    #[allow(clippy::cast_possible_truncation)]
    let whole = (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64);
    whole.map(Number::from).or_else(|| Number::from_f64(value)).map(Ok)
}
