//! Generated sets of objects: few names, so that everything collides with everything.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::select;
use vmail_operator::api::MailDomainSpec;
use vmail_operator::api::address::Address;
use vmail_operator::config::Config;
use vmail_operator::directory::{AliasSpec, Object, ObjectId, Objects};

/// The mail server's own host name.
pub const HOST: &str = "mail.example.test";

/// Domains that objects declare, `other.example` without permission for most.
pub const DOMAINS: [&str; 4] = ["one.example", "two.example", "other.example", HOST];

/// Local parts that objects declare.
pub const LOCALS: [&str; 6] = ["u", "v", "w", "x-1", "postmaster", "abuse"];

pub fn config() -> &'static Config {
    static CONFIG: LazyLock<Config> = LazyLock::new(|| Config::parse(CONFIG_YAML).expect("valid"));
    &CONFIG
}

const CONFIG_YAML: &str = "
name: vmail
postmaster: hostmaster@elsewhere.example
cells: {default: {hostname: mail.example.test, pod: vmail-postfix-default-0}}
tenancy:
  rules:
  - {namespaces: ['*'], domains: [one.example, two.example]}
  - {namespaces: [b], domains: ['*.example']}
dns: {powerdns: {url: 'http://pdns:8081', apiKeyFile: /etc/pdns/api-key}}
";

/// Any set of objects. Most have one object at least for each of the two domains that anybody may claim.
pub fn sets() -> impl Strategy<Value = Objects> {
    let first = prop::option::weighted(0.9, objects(domain("one.example"), 1..2));
    let second = prop::option::weighted(0.9, objects(domain("two.example"), 1..2));
    let any = select(&DOMAINS[..]).prop_flat_map(domain);
    (first, second, objects(any, 0..3), objects(own_address(), 0..12), objects(alias(), 0..12)).prop_map(
        |(first, second, more, mailboxes, aliases)| {
            let domains = first.into_iter().chain(second).chain([more]).flatten().collect();
            Objects { domains, mailboxes, aliases, ..Objects::default() }
        },
    )
}

/// Objects of one kind, with few names, and ages and changes that are often equal.
fn objects<S: Clone + std::fmt::Debug + 'static>(
    spec: impl Strategy<Value = S> + 'static,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = BTreeMap<ObjectId, Object<S>>> {
    let spec = prop_oneof![
        49 => spec.prop_map(Ok),
        1 => Just(Err("this version cannot decode it".to_owned())),
    ];
    let deleting = prop::bool::weighted(0.02);
    let namespace = prop_oneof![1 => Just("a"), 1 => Just("b"), 3 => Just("mail")];
    let one = (namespace, 0..20u8, 0..6i64, 0..3i64, deleting, spec);
    prop::collection::vec(one, count).prop_map(|all| {
        let object = |(namespace, name, created, later, deleting, spec): (&str, u8, i64, i64, bool, _)| {
            let id = ObjectId::new(namespace, format!("o{name}"));
            (id, Object { created, changed: created + later * 2, deleting, spec })
        };
        all.into_iter().map(object).collect()
    })
}

fn domain(name: &'static str) -> impl Strategy<Value = MailDomainSpec> {
    let class = prop_oneof![3 => Just("Mailbox"), 1 => Just("Alias")];
    let allowed = select(vec!["{}", "{from: All}", "{from: All}", "{from: Names, names: [b]}"]);
    let postmaster = prop_oneof![
        2 => Just(String::new()),
        1 => target().prop_map(|address| format!(", postmaster: '{address}'")),
    ];
    let catch_all = prop_oneof![
        1 => Just(String::new()),
        1 => own_address().prop_map(|address| format!(", catchAll: '{address}'")),
    ];
    let roles = select(vec!["", ", roleAddresses: []", ", roleAddresses: [postmaster, u, hostmaster]"]);
    let cell = prop_oneof![49 => Just(""), 1 => Just(", cell: moon")];
    (class, allowed, postmaster, catch_all, roles, cell).prop_map(
        move |(class, allowed, postmaster, catch_all, roles, cell)| {
            let spec = format!(
                "{{domain: {name}, class: {class}, allowedNamespaces: {allowed}{postmaster}{catch_all}{roles}{cell}}}"
            );
            serde_yaml::from_str(&spec).expect(&spec)
        },
    )
}

fn own_address() -> impl Strategy<Value = Address> {
    let domain = prop_oneof![14 => select(&DOMAINS[..2]), 1 => select(&DOMAINS[2..])];
    (select(&LOCALS[..]), domain)
        .prop_map(|(local, domain)| Address::own(&format!("{local}@{domain}")).expect("valid"))
}

fn alias() -> impl Strategy<Value = AliasSpec> {
    (own_address(), prop::collection::btree_set(target(), 1..4), prop::bool::ANY).prop_map(
        |(address, mut targets, copy)| {
            if copy {
                targets.insert(address.clone());
            }
            AliasSpec { address, targets }
        },
    )
}

fn target() -> impl Strategy<Value = Address> {
    let tagged =
        (select(&LOCALS[..]), select(vec!["", "+t", "+"])).prop_map(|(local, tag)| format!("{local}{tag}"));
    let local = prop_oneof![6 => tagged, 1 => Just("W".to_owned()), 1 => Just("nobody".to_owned())];
    let domain = prop_oneof![
        8 => select(&DOMAINS[..2]),
        1 => select(&DOMAINS[2..]),
        1 => Just("remote.example"),
    ];
    (local, domain).prop_map(|(local, domain)| Address::target(&format!("{local}@{domain}")).expect("valid"))
}

/// Addresses to ask about: every declared one and what is beside it.
pub fn probes() -> Vec<Address> {
    let mut all = Vec::new();
    for domain in DOMAINS.into_iter().chain(["nowhere.example"]) {
        for local in
            LOCALS.into_iter().chain(["u+tag", "W+a+b", "V", "root", "hostmaster", "nobody", "nobody+x"])
        {
            all.push(Address::target(&format!("{local}@{domain}")).expect("valid"));
        }
    }
    all
}
