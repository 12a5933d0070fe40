//! Which MailDomain owns which domain.

use std::collections::BTreeMap;

use super::capacity::{self, Room};
use super::{Object, ObjectId, Refusal, Rules, ServedDomain, Verdict, by_age, named};
use crate::api::MailDomainSpec;
use crate::api::address::is_domain;
use crate::api::conditions::Reason;
use crate::revision::DomainState;

type Domains = BTreeMap<String, ServedDomain>;
type Verdicts = BTreeMap<ObjectId, Verdict>;

/// The served domains: those with an accepted MailDomain, and those that are not yet withdrawn.
pub fn judge(objects: &BTreeMap<ObjectId, Object<MailDomainSpec>>, rules: Rules<'_>) -> (Domains, Verdicts) {
    let mut claims: BTreeMap<&str, Vec<(&ObjectId, &MailDomainSpec)>> = BTreeMap::new();
    let mut verdicts = Verdicts::new();
    let mut say = |id: &ObjectId, accepted: Result<(), Refusal>| {
        verdicts.insert(id.clone(), Verdict { accepted, resolved_refs: Ok(()), domain: None });
    };
    let mut room = Room::for_domains();
    for (id, object) in by_age(objects) {
        match &object.spec {
            Err(message) => say(id, Err(Refusal::new(Reason::Invalid, message))),
            Ok(_) if object.deleting => {
                say(
                    id,
                    Err(Refusal::new(
                        Reason::Pending,
                        "the MailDomain is being deleted; the domain is being withdrawn",
                    )),
                );
            }
            Ok(spec) => match permitted(id, spec, rules).and_then(|()| fits(spec, rules, &mut room)) {
                Err(refusal) => say(id, Err(refusal)),
                Ok(()) => claims.entry(&spec.domain).or_default().push((id, spec)),
            },
        }
    }

    let mut served = Domains::new();
    for (domain, mut claimants) in claims {
        // What is still in the tables belongs to whom it belonged to: mail on disk does not change hands.
        let incumbent = rules.records.get(domain).map(|record| record.namespace.as_str());
        claimants.sort_by_key(|(id, _)| incumbent.is_some_and(|namespace| namespace != id.namespace));
        let winner = claimants[0];
        let blocked = incumbent.filter(|namespace| *namespace != winner.0.namespace);
        for (id, spec) in claimants {
            if let Some(namespace) = blocked {
                let message = format!(
                    "{domain} is still being withdrawn for namespace {namespace}; it can be served here as soon as no resolver holds its MX any more"
                );
                say(id, Err(Refusal::new(Reason::DomainConflict, message)));
            } else if id == winner.0 {
                say(id, Ok(()));
                served.insert(
                    domain.to_owned(),
                    ServedDomain {
                        state: DomainState::Serving,
                        claim: Some(id.clone()),
                        namespace: id.namespace.clone(),
                        spec: spec.clone(),
                    },
                );
            } else {
                let owner = named("MailDomain", winner.0, &id.namespace);
                let message = format!("{domain} is already served for {owner}; delete one of the two");
                say(id, Err(Refusal::new(Reason::DomainConflict, message)));
            }
        }
    }

    for (domain, record) in rules.records {
        if record.in_tables() && !served.contains_key(domain) {
            served.insert(
                domain.clone(),
                ServedDomain {
                    state: DomainState::Draining,
                    claim: None,
                    namespace: record.namespace.clone(),
                    spec: record.spec.clone(),
                },
            );
        }
    }
    (served, verdicts)
}

/// Whether there is room. Younger claims to the same domain take some too, which only errs to the safe side.
fn fits(spec: &MailDomainSpec, rules: Rules<'_>, room: &mut Room) -> Result<(), Refusal> {
    room.take(capacity::domain(spec, &rules.config.postmaster))
}

/// The rules that need one MailDomain and the configuration.
fn permitted(id: &ObjectId, spec: &MailDomainSpec, rules: Rules<'_>) -> Result<(), Refusal> {
    let domain = &spec.domain;
    if !is_domain(domain) || domain.len() > 239 {
        return Err(Refusal::new(
            Reason::Invalid,
            format!("spec.domain: {domain:?} is not a domain such as example.org"),
        ));
    }
    if rules.config.cells.values().any(|cell| cell.hostname == *domain) {
        let message = format!(
            "{domain} is the host name of the mail server itself, whose postmaster is set by the chart; use another domain"
        );
        return Err(Refusal::new(Reason::ReservedDomain, message));
    }
    if !rules.config.cells.contains_key(&spec.cell) {
        let cells: Vec<&str> = rules.config.cells.keys().map(String::as_str).collect();
        let message = format!("spec.cell: there is no cell {}; cells are: {}", spec.cell, cells.join(", "));
        return Err(Refusal::new(Reason::CellNotFound, message));
    }
    // A rule gates new claims: on a served domain a changed rule must not take mail away.
    let incumbent = rules
        .records
        .get(domain)
        .is_some_and(|record| record.namespace == id.namespace && record.in_tables());
    let permits = id.namespace == rules.namespace || rules.config.tenancy.permits(&id.namespace, domain);
    if !permits && !incumbent {
        let message = format!(
            "namespace {} may not claim {domain}: the administrator has to add a rule for it to the chart's value tenancy.rules",
            id.namespace
        );
        return Err(Refusal::new(Reason::DomainNotPermitted, message));
    }
    Ok(())
}
