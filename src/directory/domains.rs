//! Which MailDomain owns which domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capacity::{self, Shares};
use super::{Object, ObjectId, Objects, Refusal, Rules, ServedDomain, Verdict, Verdicts, by_age, named};
use crate::api::MailDomainSpec;
use crate::api::address::is_domain;
use crate::api::conditions::Reason;
use crate::config::Right;
use crate::records::Record;
use crate::revision::DomainState;

type Domains = BTreeMap<String, ServedDomain>;

/// The served domains: those with an accepted MailDomain, and those that are not yet withdrawn.
pub fn judge(objects: &Objects, rules: Rules<'_>, shares: &mut Shares<'_>) -> (Domains, Verdicts) {
    let mut served = Domains::new();
    let mut verdicts = Verdicts::new();
    // What is served stays where it is, and is not pushed out by what an older object grows to.
    let mut in_order = by_age(&objects.domains);
    in_order.sort_by_key(|(id, object)| !object.spec.as_ref().is_ok_and(|spec| rules.owns(id, spec)));
    for (id, object) in in_order {
        let accepted = match &object.spec {
            Err(message) => Err(Refusal::new(Reason::Invalid, message)),
            Ok(_) if object.deleting => Err(Refusal::new(
                Reason::Pending,
                "the MailDomain is being deleted; the domain is being withdrawn",
            )),
            Ok(spec) => in_service(&spec.domain, rules)
                .and_then(|()| permitted(id, spec, rules))
                .and_then(|()| free(id, spec, rules, &served))
                .and_then(|()| same_tables(spec, rules))
                .and_then(|()| fits(id, spec, rules, shares))
                .map(|()| spec),
        };
        if let Ok(spec) = &accepted {
            let domain = ServedDomain {
                state: DomainState::Serving,
                claim: Some(id.clone()),
                namespace: id.namespace().to_owned(),
                spec: (*spec).clone(),
            };
            served.insert(spec.domain.clone(), domain);
        }
        let warning = accepted.as_ref().ok().and_then(|spec| no_longer_permitted(id, spec, rules));
        let accepted = accepted.map(drop).map_err(|refusal| and_that_it_is_held(refusal, id, object, rules));
        let verdict = Verdict { accepted, warning, resolved_refs: Ok(()), domain: None };
        verdicts.insert(id.clone(), Arc::new(verdict));
    }
    // Not decoded is not gone: what the record says goes on.
    for (id, domain) in &objects.undecodable {
        let kept = rules
            .records
            .get(domain)
            .filter(|record| record.namespace == id.namespace() && record.in_tables() && !record.withdraw);
        if let Some(record) = kept.filter(|_| !served.contains_key(domain)) {
            let domain_served = ServedDomain {
                state: DomainState::Serving,
                claim: Some(id.clone()),
                namespace: record.namespace.clone(),
                spec: record.spec.clone(),
            };
            served.insert(domain.clone(), domain_served);
        }
    }
    for (domain, record) in rules.records {
        if record.in_tables() && !served.contains_key(domain) {
            served.insert(
                domain.clone(),
                ServedDomain {
                    state: if record.held { DomainState::Serving } else { DomainState::Draining },
                    claim: None,
                    namespace: record.namespace.clone(),
                    spec: record.spec.clone(),
                },
            );
        }
    }
    (served, verdicts)
}

impl Rules<'_> {
    /// Whether the domain belongs to the object's namespace already.
    fn owns(&self, id: &ObjectId, spec: &MailDomainSpec) -> bool {
        self.records.get(&spec.domain).is_some_and(|record| record.namespace == id.namespace())
    }

    /// Whether the object's namespace has a right on the domain.
    pub(crate) fn grants(&self, namespace: &str, domain: &str, right: Right) -> bool {
        namespace == self.namespace || self.config.tenancy.grants(namespace, domain, right)
    }

    /// Whether the domain is being served for the object's namespace.
    fn serves(&self, id: &ObjectId, spec: &MailDomainSpec) -> bool {
        self.owns(id, spec) && self.records.get(&spec.domain).is_some_and(Record::in_tables)
    }
}

/// Adds to a refusal that what was served stays.
fn and_that_it_is_held(
    mut refusal: Refusal,
    id: &ObjectId,
    object: &Object<MailDomainSpec>,
    rules: Rules<'_>,
) -> Refusal {
    let record = object.spec.as_ref().ok().and_then(|spec| rules.records.get(&spec.domain));
    if record.is_some_and(|record| record.held && record.namespace == id.namespace()) {
        refusal.message.push_str(
            "; the domain is served as before, because too much would leave service at once, until the administrator confirms it",
        );
    }
    refusal
}

/// Whether the administrator did not take the domain out of service.
fn in_service(domain: &str, rules: Rules<'_>) -> Result<(), Refusal> {
    if !rules.records.get(domain).is_some_and(|record| record.withdraw) {
        return Ok(());
    }
    let message = format!(
        "the administrator takes {domain} out of service; `vmail-operator withdraw --undo {domain}` brings it back"
    );
    Err(Refusal::new(Reason::Withdrawn, message))
}

/// Whether nobody else has the domain. What is still in the tables belongs to whom it belonged to: mail on disk does
/// not change hands.
fn free(id: &ObjectId, spec: &MailDomainSpec, rules: Rules<'_>, served: &Domains) -> Result<(), Refusal> {
    let domain = &spec.domain;
    if let Some(winner) = served.get(domain).and_then(|served| served.claim.as_ref()) {
        let owner = named("MailDomain", winner, id.namespace());
        let message = format!("{domain} is already served for {owner}; delete one of the two");
        return Err(Refusal::new(Reason::DomainConflict, message));
    }
    match rules.records.get(domain).filter(|record| record.namespace != id.namespace()) {
        None => Ok(()),
        Some(record) => {
            let message = format!(
                "{domain} is still being withdrawn for namespace {}; it can be served here as soon as no resolver holds its MX any more",
                record.namespace
            );
            Err(Refusal::new(Reason::DomainConflict, message))
        }
    }
}

/// Whether the domain stays in the tables that it is in. Another class or cell, which only a deleted and re-created
/// MailDomain can bring, waits until it left them: mail queued for a mailbox would bounce in an alias domain, where its
/// recipient is looked up no more (ADDRESS_CLASS_README, "The virtual alias domain class"), and from the old cell it
/// would go where DNS says, while resolvers still lead senders there.
fn same_tables(spec: &MailDomainSpec, rules: Rules<'_>) -> Result<(), Refusal> {
    let record = rules.records.get(&spec.domain).filter(|record| record.in_tables());
    let Some(record) = record else { return Ok(()) };
    let (before, after) = if record.spec.class != spec.class {
        (format!("class {:?}", record.spec.class), format!("class {:?}", spec.class))
    } else if record.spec.cell != spec.cell {
        (format!("cell {:?}", record.spec.cell), format!("cell {:?}", spec.cell))
    } else {
        return Ok(());
    };
    let message = format!(
        "{} is being withdrawn with {before}; it can be served with {after} as soon as that is done, so that no queued mail bounces",
        spec.domain
    );
    Err(Refusal::new(Reason::Pending, message))
}

fn fits(
    id: &ObjectId,
    spec: &MailDomainSpec,
    rules: Rules<'_>,
    shares: &mut Shares<'_>,
) -> Result<(), Refusal> {
    let result = shares.take(
        id.namespace(),
        &spec.cell,
        1,
        capacity::domain(spec, id.namespace(), &rules.config.postmaster),
    );
    // A lowered quota takes no mail away.
    if rules.serves(id, spec) { Ok(()) } else { result }
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
        let message = format!("spec.cell: there is no cell {:?}; cells are: {}", spec.cell, cells.join(", "));
        return Err(Refusal::new(Reason::CellNotFound, message));
    }
    // A rule gates new claims: on a served domain a changed rule must not take mail away.
    let permits = id.namespace() == rules.namespace || rules.config.tenancy.permits(id.namespace(), domain);
    if !permits && !rules.serves(id, spec) {
        let message = format!(
            "namespace {} may not claim {domain}: the administrator has to add a rule for it to the chart's value tenancy.rules",
            id.namespace()
        );
        return Err(Refusal::new(Reason::DomainNotPermitted, message));
    }
    // Of a domain that is served, the DNS half alone says so, and leaves what is published.
    if !spec.dns.managed && !rules.grants(id.namespace(), domain, Right::Unmanaged) && !rules.serves(id, spec)
    {
        return Err(unmanaged(id.namespace(), domain));
    }
    Ok(())
}

/// What is said of a domain that is served although no rule permits it any more.
fn no_longer_permitted(id: &ObjectId, spec: &MailDomainSpec, rules: Rules<'_>) -> Option<String> {
    let permits =
        id.namespace() == rules.namespace || rules.config.tenancy.permits(id.namespace(), &spec.domain);
    (!permits).then(|| {
        format!(
            "the chart's value tenancy.rules no longer lets namespace {} claim {}; it is served until the MailDomain is deleted, and cannot be claimed again after that",
            id.namespace(), spec.domain
        )
    })
}

/// What is said of `spec.dns.managed: false` without the right to it.
pub(crate) fn unmanaged(namespace: &str, domain: &str) -> Refusal {
    let message = format!(
        "namespace {namespace} may not have {domain} served without its MX being published here: leave out spec.dns.managed, or ask the administrator for the right `unmanaged` in the chart's value tenancy.rules"
    );
    Refusal::new(Reason::DomainNotPermitted, message)
}
