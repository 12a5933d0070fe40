//! Domains and addresses are judged twice: by CEL in the API server, and by a parser for what did not come through it.
//! Generated strings, most of them one or two slips away from a good one, must get the same answer from both.

use futures::{StreamExt as _, stream};
use kube::Client;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use vmail_operator::api::address::{Address, is_domain};

use crate::{object, try_out};

/// How many strings the API server is asked about.
const STRINGS: usize = 250;

/// Put into a good string, at any place.
const SLIPS: [&str; 40] = [
    "", "a", "7", "-", "_", ".", "..", "@", "+", "=", "~", "'", "$", "{", "}", "#", "&", "*", "?", "^", "%",
    "!", "/", "|", ":", ";", ",", "\"", "\\", "<", "(", "`", " ", "\n", "\t", "\0", "Z", "ü", "\u{212a}",
    "\u{17f}",
];

fn string() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        6 => "[a-z0-9]{1,5}",
        1 => "[a-z0-9_]{1,3}[._=~+&'-][A-Za-z0-9]{1,3}",
        // Around the limits of a label and of a local part.
        1 => "[a-z]{62,66}",
    ];
    let label =
        prop_oneof![6 => "[a-z][a-z0-9]{0,5}", 1 => "[a-z0-9][a-z0-9-]{0,3}[a-z0-9]", 1 => "[a-z]{62,65}"];
    let labels = (2..4usize).prop_flat_map(move |count| prop::collection::vec(label.clone(), count));
    let slip = (any::<prop::sample::Index>(), prop::sample::select(&SLIPS[..]));
    let slips = prop_oneof![2 => Just(0..1usize), 3 => Just(1..2), 1 => Just(2..3)]
        .prop_flat_map(move |count| prop::collection::vec(slip.clone(), count));
    (prop::option::weighted(0.7, word), labels, slips).prop_map(|(local, labels, slips)| {
        let mut text = local.map(|local| local + "@").unwrap_or_default() + &labels.join(".");
        for (place, slip) in slips {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            text.insert_str(places[place.index(places.len())], slip);
        }
        text
    })
}

/// A domain and an address of each length around the limits: 239 for a domain, 253 for a host name, 254 for an address.
fn long() -> impl Iterator<Item = String> {
    let domain = |length: usize| format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(length - 3 * 64));
    let addresses = (252..=256).map(move |length| format!("{}@{}", "c".repeat(15), domain(length - 16)));
    (237..=241).chain(251..=255).map(domain).chain(addresses)
}

/// Kind, spec, and whether the parser takes what is in it.
type Question = (&'static str, Value, bool);

fn questions(text: &str) -> Vec<Question> {
    let own = Address::own(text).is_some();
    let target = Address::target(text).is_some();
    let zone = is_domain(text) && text.len() <= 239;
    let domain = |field: &str, value: Value| json!({ "domain": "example.org", field: value });
    vec![
        ("Mailbox", json!({ "address": text }), own),
        ("MailDomain", domain("catchAll", json!(text)), own),
        ("MailDomain", domain("roleAddresses", json!([text])), Address::role(text, "example.org").is_some()),
        ("MailDomain", domain("postmaster", json!(text)), target),
        ("MailAlias", json!({ "address": "list@example.org", "targets": [text] }), target),
        ("MailDomain", json!({ "domain": text }), zone),
        ("MailDomain", domain("dns", json!({ "zone": text })), zone),
        ("MailDomain", domain("dns", json!({ "mx": [{ "host": text, "preference": 1 }] })), is_domain(text)),
    ]
}

/// Asks about the same strings each time: what fails once is found again.
pub async fn rules_and_parser_agree(client: &Client) {
    let mut runner = TestRunner::deterministic();
    let strings = (0..STRINGS).map(|_| string().new_tree(&mut runner).expect("a string").current());
    let questions: Vec<Question> = strings.chain(long()).flat_map(|text| questions(&text)).collect();
    let taken = questions.iter().filter(|(.., takes)| *takes).count();
    // A grammar that lets nothing in would agree with itself.
    assert!(
        taken * 10 > questions.len() && taken * 10 < questions.len() * 9,
        "{taken} of {}",
        questions.len()
    );
    let asked = stream::iter(&questions).map(|(kind, spec, takes)| async move {
        let refusal = try_out(client, kind, &object(kind, "string", spec)).await.err();
        (refusal.is_none() != *takes).then(|| match refusal {
            None => format!("the API server takes what the parser does not: {kind} {spec}"),
            Some(refusal) => {
                format!("the parser takes what the API server does not: {kind} {spec}: {refusal}")
            }
        })
    });
    let wrong: Vec<String> = asked.buffer_unordered(8).filter_map(std::future::ready).collect().await;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), questions.len(), wrong.join("\n"));
    println!("generated strings in {} objects, {taken} let in, as by the parser", questions.len());
}
