use super::*;
use proptest::prelude::*;

use crate::api::{MailAlias, MailAliasSpec, MailDomain, MailDomainSpec, Mailbox, MailboxSpec, MailboxStatus};
use crate::operator::compact_status::CompactStatus;
use crate::operator::guarded::Guarded;
use kube::core::ObjectMeta;

fn listed(index: &mut Index, maps: Vec<ConfigMap>) {
    index.see(Seen::ConfigMap(Event::Init));
    for map in maps {
        index.see(Seen::ConfigMap(Event::InitApply(map)));
    }
    index.see(Seen::ConfigMap(Event::InitDone));
}

fn record(domain: &str, version: &str) -> ConfigMap {
    let spec: MailDomainSpec = serde_yaml::from_str(&format!("domain: {domain}")).expect("valid");
    let record = Record::new(domain, "mail", spec);
    let mut map = objects::record_config_map("vmail", &record, Some(version), false).expect("valid");
    map.metadata.namespace = Some("mail".to_owned());
    map
}

#[test]
fn a_list_is_what_is_there() {
    let mut index = Index::new("mail");
    listed(&mut index, vec![record("example.org", "5"), record("example.net", "6")]);
    assert!(index.records.keys().eq(["example.net", "example.org"]));
    listed(&mut index, vec![record("example.org", "5")]);
    assert!(index.records.keys().eq(["example.org"]), "what a later list does not name is gone");
}

#[test]
fn a_late_echo_changes_nothing() {
    let mut index = Index::new("mail");
    listed(&mut index, vec![record("example.org", "5")]);
    index.apply_config_map(record("example.org", "7"));
    index.see(Seen::ConfigMap(Event::Apply(record("example.org", "6"))));
    assert_eq!(index.records["example.org"].resource_version, "7");
}

#[test]
fn what_is_seen_from_before_a_status_was_written_changes_nothing() {
    let seen = |version: &str| {
        let mailbox = serde_json::json!({
            "metadata": { "namespace": "a", "name": "you", "resourceVersion": version, "generation": 1 },
            "spec": { "address": "you@example.org" },
        });
        Seen::mailbox(Event::Apply(Guarded::decoded(serde_json::from_value(mailbox).expect("valid"))))
    };
    let id = ObjectId::new("a", "you");
    let mut index = Index::new("mail");
    index.see(seen("5"));
    let known = index.mailboxes.get_mut(&id).expect("seen");
    let written = MailboxStatus { path: Some("as written".to_owned()), ..MailboxStatus::default() };
    (known.version, known.status) = (7, CompactStatus::from(&written));
    index.see(seen("6"));
    assert!(index.mailboxes[&id].status.same_rest(&CompactStatus::from(&written)));
    index.see(seen("8"));
    assert!(!index.mailboxes[&id].status.same_rest(&CompactStatus::from(&written)), "somebody took it away");
}

#[test]
fn only_what_the_rules_look_at_is_a_change() {
    let seen = |version: &str, policy: &str| {
        let mailbox = serde_json::json!({
            "metadata": { "namespace": "a", "name": "you", "resourceVersion": version, "generation": 1 },
            "spec": { "address": "you@example.org", "deletionPolicy": policy },
        });
        Seen::mailbox(Event::Apply(Guarded::decoded(serde_json::from_value(mailbox).expect("valid"))))
    };
    let mut index = Index::new("mail");
    assert!(std::mem::take(&mut index.changes).other, "hosts have addresses without any object");
    let id = ObjectId::new("a", "you");
    for (version, policy, news, changed) in [
        ("5", "Retain", true, Some(None)),
        ("5", "Retain", false, None),
        ("6", "Retain", true, None),
        ("7", "Delete", true, Some(Address::own("you@example.org"))),
    ] {
        assert_eq!(index.see(seen(version, policy)), news, "{version} {policy}");
        let changes = std::mem::take(&mut index.changes);
        assert_eq!(changes.mailboxes.get(&id).cloned(), changed, "{version} {policy}");
        assert!(!changes.other && !changes.records);
    }
    listed(&mut index, vec![record("example.org", "5")]);
    assert!(std::mem::take(&mut index.changes).records);
    assert!(!index.see(Seen::ConfigMap(Event::Apply(record("example.org", "5")))), "it is known");
    assert!(index.see(Seen::ConfigMap(Event::Delete(record("example.org", "5")))));
    assert!(index.changes.records);
}

/// It is in no ConfigMap, and a record that is written goes on being held.
#[test]
fn what_the_brake_holds_is_held_until_it_decides_anew() {
    let mut index = Index::new("mail");
    listed(&mut index, vec![record("example.org", "5")]);
    index.records.get_mut("example.org").expect("listed").record.held = true;
    std::mem::take(&mut index.changes);
    assert!(index.apply_config_map(record("example.org", "6")), "somebody wrote to it");
    assert!(index.records["example.org"].record.held && index.changes.is_empty());
    let mut withdrawn = record("example.org", "7");
    let order = (objects::WITHDRAW_ANNOTATION.to_owned(), objects::TRUE.to_owned());
    withdrawn.metadata.annotations = Some([order].into());
    index.apply_config_map(withdrawn);
    assert!(index.records["example.org"].record.held && index.changes.records);
}

#[test]
fn nothing_is_complete_before_every_list_and_readable_records() {
    let mut index = Index::new("mail");
    listed(&mut index, vec![]);
    index.see(Seen::domain(Event::InitDone));
    index.see(Seen::mailbox(Event::InitDone));
    assert!(!index.complete());
    index.see(Seen::alias(Event::InitDone));
    assert!(index.complete());
    let mut broken = record("example.org", "9");
    broken.data = None;
    index.see(Seen::ConfigMap(Event::Apply(broken.clone())));
    assert!(!index.complete(), "a record that cannot be read may hold anything");
    index.see(Seen::ConfigMap(Event::Delete(broken)));
    assert!(index.complete());
}

/// What is not there any more was deleted only if that was seen.
#[test]
fn only_a_deletion_that_is_seen_was_asked_for() {
    let mut index = Index::new("mail");
    for kind in [Kind::Domain, Kind::Mailbox, Kind::Alias] {
        index.see(seen(kind, 1, 1, How::Applied));
        index.see(seen(kind, 2, 2, How::Applied));
    }
    index.see(Seen::domain(Event::Init));
    index.see(Seen::mailbox(Event::Init));
    index.see(seen(Kind::Domain, 2, 2, How::Listed));
    index.see(seen(Kind::Mailbox, 2, 2, How::Listed));
    index.see(Seen::domain(Event::InitDone));
    index.see(Seen::mailbox(Event::InitDone));
    assert_eq!((index.objects.domains.len(), index.objects.mailboxes.len()), (1, 1));
    assert!(index.asked.domains.is_empty() && index.asked.addresses.is_empty());

    index.see(seen(Kind::Domain, 2, 2, How::Deleted));
    index.see(seen(Kind::Mailbox, 2, 2, How::Deleted));
    index.see(seen(Kind::Alias, 2, 2, How::Deleted));
    assert_eq!(index.asked.domains, ["d2.example".to_owned()].into());
    let own = |text| Address::own(text).expect("valid");
    assert_eq!(index.asked.addresses, [own("list@one.example"), own("m2@one.example")].into());

    // A finalizer of somebody's keeps it for a while; and a stranger's MailDomain says nothing about the domain.
    let deleting = |namespace: &str| {
        let spec = serde_yaml::from_str("domain: example.org").expect("valid");
        let mut metadata = meta(3, 1);
        metadata.namespace = Some(namespace.to_owned());
        metadata.deletion_timestamp = metadata.creation_timestamp.clone();
        Seen::domain(event(How::Applied, MailDomain { metadata, spec, status: None }))
    };
    index.apply_config_map(record("example.org", "5"));
    index.see(deleting("other"));
    assert!(!index.asked.domains.contains("example.org"));
    index.see(deleting("mail"));
    assert!(index.asked.domains.contains("example.org"));
}

/// One thing that happened to one object: what it then declares, or that it was deleted.
type Change = (Kind, u8, Option<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Domain,
    Mailbox,
    Alias,
}

fn meta(name: u8, variant: u8) -> ObjectMeta {
    let created = jiff::Timestamp::from_second(i64::from(name)).expect("valid");
    ObjectMeta {
        namespace: Some("mail".to_owned()),
        name: Some(format!("o{name}")),
        generation: Some(variant.into()),
        creation_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(created)),
        ..ObjectMeta::default()
    }
}

#[derive(Clone, Copy)]
enum How {
    Applied,
    Deleted,
    Listed,
}

fn event<K: kube::Resource>(how: How, object: K) -> Event<Guarded<K>> {
    let guard = Guarded::decoded(object);
    match how {
        How::Applied => Event::Apply(guard),
        How::Deleted => Event::Delete(guard),
        How::Listed => Event::InitApply(guard),
    }
}

fn seen(kind: Kind, name: u8, variant: u8, how: How) -> Seen {
    let metadata = meta(name, variant);
    match kind {
        Kind::Domain => {
            let spec = serde_yaml::from_str(&format!("domain: d{variant}.example")).expect("valid");
            Seen::domain(event(how, MailDomain { metadata, spec, status: None }))
        }
        Kind::Mailbox => {
            let spec = MailboxSpec {
                address: format!("m{variant}@one.example"),
                deletion_policy: Default::default(),
            };
            Seen::mailbox(event(how, Mailbox { metadata, spec, status: None }))
        }
        Kind::Alias => {
            let targets = vec![format!("t{variant}@one.example")];
            let spec = MailAliasSpec { address: "list@one.example".to_owned(), targets };
            Seen::alias(event(how, MailAlias { metadata, spec, status: None }))
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let kind = prop::sample::select(vec![Kind::Domain, Kind::Mailbox, Kind::Alias]);
    prop::collection::vec((kind, 0..4u8, prop::option::weighted(0.7, 1..9u8)), 0..40)
}

/// Everything that is left in the end, as a list gives it.
fn list_all(left: &BTreeMap<(Kind, u8), u8>) -> Index {
    let mut index = Index::new("mail");
    list_into(&mut index, left);
    index
}

fn list_into(index: &mut Index, left: &BTreeMap<(Kind, u8), u8>) {
    index.see(Seen::domain(Event::Init));
    index.see(Seen::mailbox(Event::Init));
    index.see(Seen::alias(Event::Init));
    for ((kind, name), variant) in left {
        index.see(seen(*kind, *name, *variant, How::Listed));
    }
    index.see(Seen::domain(Event::InitDone));
    index.see(Seen::mailbox(Event::InitDone));
    index.see(Seen::alias(Event::InitDone));
}

proptest! {
    /// Events of different objects come in any order, some are missed until the next list: what is known in the end is
    /// what is there.
    #[test]
    fn the_order_of_events_never_matters(
        (changes, shuffled) in changes().prop_flat_map(|changes| (Just(changes.clone()), Just(changes).prop_shuffle())),
        missed in prop::collection::vec(prop::bool::ANY, 40),
        relist in prop::bool::ANY,
    ) {
        let mut left = BTreeMap::new();
        for (kind, name, variant) in &changes {
            match variant {
                Some(variant) => left.insert((*kind, *name), *variant),
                None => left.remove(&(*kind, *name)),
            };
        }
        // Another order between objects, the same for each of them.
        let mut queues: BTreeMap<(Kind, u8), Vec<Option<u8>>> = BTreeMap::new();
        for (kind, name, variant) in changes.iter().rev() {
            queues.entry((*kind, *name)).or_default().push(*variant);
        }
        let mut index = Index::new("mail");
        for ((kind, name, _), missed) in shuffled.iter().zip(missed) {
            let variant = queues.get_mut(&(*kind, *name)).and_then(Vec::pop).expect("as many as before");
            if missed && relist {
                continue;
            }
            let event = match variant {
                Some(variant) => seen(*kind, *name, variant, How::Applied),
                None => seen(*kind, *name, 1, How::Deleted),
            };
            index.see(event);
        }
        if relist {
            list_into(&mut index, &left);
        }
        let expected = list_all(&left);
        prop_assert_eq!(&index.objects.domains, &expected.objects.domains);
        prop_assert_eq!(&index.objects.mailboxes, &expected.objects.mailboxes);
        prop_assert_eq!(&index.objects.aliases, &expected.objects.aliases);
        let generations = |index: &Index| index.mailboxes.iter().map(|(id, known)| (id.clone(), known.generation)).collect::<Vec<_>>();
        prop_assert_eq!(generations(&index), generations(&expected));
    }
}

fn undecoded<K: serde::de::DeserializeOwned>(name: &str, spec: serde_json::Value) -> Event<Guarded<K>> {
    let object = serde_json::json!({ "metadata": { "namespace": "mail", "name": name }, "spec": spec });
    let guarded: Guarded<K> = serde_json::from_value(object).expect("guarded");
    assert!(guarded.object.is_err(), "it was to be undecodable");
    Event::InitApply(guarded)
}

/// After a roll-back and a restart: nothing but the objects and the records is known.
#[test]
fn what_cannot_be_decoded_is_not_gone() {
    let mut index = Index::new("mail");
    listed(&mut index, vec![record("one.example", "5")]);
    let domain = serde_json::json!({ "domain": "one.example", "class": "Later" });
    index.see(Seen::domain(undecoded("d", domain)));
    let mailbox = serde_json::json!({ "address": "you@one.example" });
    index.see(Seen::mailbox(Event::InitApply(
        serde_json::from_value(
            serde_json::json!({ "metadata": { "namespace": "mail", "name": "m" }, "spec": mailbox }),
        )
        .expect("guarded"),
    )));
    let targets = serde_json::json!(["you@one.example"]);
    let alias = serde_json::json!({ "address": "list@one.example", "targets": targets });
    index.see(Seen::alias(Event::InitApply(
        serde_json::from_value(
            serde_json::json!({ "metadata": { "namespace": "mail", "name": "a" }, "spec": alias }),
        )
        .expect("guarded"),
    )));
    let records =
        index.records.iter().map(|(domain, stored)| (domain.clone(), stored.record.clone())).collect();
    let config = crate::config::Config::parse(
        "{name: v, postmaster: p@remote.example, cells: {default: {hostname: mail.example.test, pod: p}}, dns: {powerdns: {url: '', apiKeyFile: k}}}",
    )
    .expect("valid");
    let rules = crate::directory::Rules { config: &config, namespace: "mail", records: &records };
    let directory = crate::directory::Directory::compute(&index.objects, rules);
    let served = &directory.domains["one.example"];
    assert_eq!(served.state, crate::revision::DomainState::Serving, "its record is not withdrawn");
    assert!(served.claim.is_some());
    for address in ["you@one.example", "list@one.example"] {
        assert!(directory.accepts(&Address::own(address).expect("valid")), "{address}");
    }
    let said = directory
        .domain_verdicts
        .values()
        .next()
        .expect("a verdict")
        .accepted
        .clone()
        .expect_err("undecodable");
    assert_eq!(said.reason, crate::api::conditions::Reason::Invalid);
    assert!(said.message.contains("Later"), "{}", said.message);
}

#[test]
fn a_pod_that_a_list_does_not_name_is_gone() {
    let mut index = Index::new("mail");
    let see =
        |index: &mut Index, event: Event<Pod>| index.see(Seen::Pod("default".to_owned(), Box::new(event)));
    for event in [Event::Init, Event::InitApply(Pod::default()), Event::InitDone] {
        see(&mut index, event);
    }
    assert!(index.pods.contains_key("default"));
    see(&mut index, Event::Init);
    assert!(index.pods.contains_key("default"), "not seen yet is not gone");
    see(&mut index, Event::InitDone);
    assert!(!index.pods.contains_key("default"));
}

#[test]
fn a_pod_says_why_it_waits() {
    let waiting =
        |status: &str| pod_seen(&serde_yaml::from_str(&format!("status: {status}")).expect("a pod")).waiting;
    let unscheduled = "{conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: 0/3 nodes are available}]}";
    assert_eq!(waiting(unscheduled).as_deref(), Some("Unschedulable 0/3 nodes are available"));
    let pulling = "{conditions: [{type: PodScheduled, status: 'True'}], containerStatuses: [{name: postfix, image: i, imageID: i, ready: false, restartCount: 0, state: {waiting: {reason: ErrImagePull}}}]}";
    assert_eq!(waiting(pulling).as_deref(), Some("ErrImagePull"));
    assert_eq!(waiting("{}"), None);
}
