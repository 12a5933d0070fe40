//! Which Mailbox and which MailAlias owns which address.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capacity::{self, Shares};
use super::{
    AliasSpec, Object, ObjectId, Objects, Refusal, ServedDomain, Ties, Verdict, Verdicts, dense, named,
};
use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::api::{DomainClass, NamespacesFrom};
use crate::revision::DomainState;

/// Names that belong to whoever answers for the domain: role addresses (RFC 2142), and those that
/// certificate authorities take as proof of control (CA/Browser Forum Baseline Requirements 3.2.2.4.4).
const RESTRICTED: [&str; 7] =
    ["admin", "administrator", "hostmaster", "postmaster", "webmaster", "abuse", "root"];

type Domains = BTreeMap<String, ServedDomain>;

/// The mailboxes that are live, and what is said of each Mailbox.
pub struct Mailboxes {
    pub live: BTreeMap<Address, ObjectId>,
    pub verdicts: Verdicts,
    pub ties: Ties,
}

/// A MailAlias that may be live, before its targets are looked at.
pub struct Candidate {
    pub id: ObjectId,
    /// When its targets were last changed.
    pub changed: i64,
    /// That of its domain.
    pub cell: String,
    pub spec: AliasSpec,
    /// What will be said, unless its targets forbid it.
    pub verdict: Arc<Verdict>,
}

/// Candidates in the order in which they win, and what is said of the MailAliases that are none.
pub struct Aliases {
    pub candidates: Vec<Candidate>,
    pub refused: Verdicts,
}

/// Judges both kinds in one order of age, because an address belongs to the namespace that declared it first: a
/// younger Mailbox must not take the mail of somebody's alias, nor an alias that of somebody's Mailbox. Of two that
/// are equally old, the Mailbox wins.
pub fn judge(objects: &Objects, domains: &Domains, shares: &mut Shares<'_>) -> (Mailboxes, Aliases) {
    let mut order: Vec<(i64, bool, &ObjectId)> = Vec::new();
    order.extend(objects.mailboxes.iter().map(|(id, object)| (object.created, false, id)));
    order.extend(objects.aliases.iter().map(|(id, object)| (object.created, true, id)));
    order.sort();

    let joined: Joined<'_> =
        domains.iter().map(|(name, domain)| (name.as_str(), Arc::new(verdict_in(domain)))).collect();
    let mut live = BTreeMap::new();
    let mut verdicts = BTreeMap::new();
    let mut ties = Ties::default();
    let mut declared = BTreeMap::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut refusals = BTreeMap::new();
    for (_, is_alias, id) in order {
        if is_alias {
            match alias(id, &objects.aliases[id], domains, &joined, &live, &declared) {
                Ok(candidate) => {
                    declared.insert(candidate.spec.address.clone(), id.clone());
                    candidates.push(candidate);
                }
                Err(refusal) => {
                    refusals.insert(id.clone(), refused(refusal));
                }
            }
        } else {
            let object = &objects.mailboxes[id];
            let judged = mailbox(id, object, domains, &live, &declared, shares);
            if let Err(refusal) = &judged {
                ties.contested.extend(object.spec.as_ref().ok().cloned());
                ties.full |= refusal.reason == Reason::CapacityExceeded;
            }
            let verdict = judged.map(|address| {
                live.insert(address.clone(), id.clone());
                joined[address.domain()].clone()
            });
            verdicts.insert(id.clone(), verdict.unwrap_or_else(refused));
        }
    }
    // A Mailbox of the same namespace may have come later.
    candidates.retain(|Candidate { id, spec, .. }| match leaves_the_mailbox_its_mail(id, spec, &live) {
        Ok(()) => true,
        Err(refusal) => {
            refusals.insert(id.clone(), refused(refusal));
            false
        }
    });
    // Of those that are too much together, the one that was left alone for longer wins: an older alias that grows
    // must not push out a younger one.
    candidates.sort_by(|a, b| (a.changed, &a.id).cmp(&(b.changed, &b.id)));
    let mailboxes = Mailboxes { live: dense(live), verdicts: dense(verdicts), ties };
    (mailboxes, Aliases { candidates, refused: refusals })
}

type Owners = BTreeMap<Address, ObjectId>;
/// What is said of all that joined a domain, by its name.
type Joined<'a> = BTreeMap<&'a str, Arc<Verdict>>;

fn mailbox<'a>(
    id: &ObjectId,
    object: &'a Object<Address>,
    domains: &Domains,
    live: &Owners,
    declared: &Owners,
    shares: &mut Shares<'_>,
) -> Result<&'a Address, Refusal> {
    let (address, domain) = joined(id, object, domains)?;
    undeclared("Mailbox", address, live.get(address), id)?;
    let alias = declared.get(address).filter(|alias| alias.namespace() != id.namespace());
    undeclared("MailAlias", address, alias, id)?;
    shares.take(id.namespace(), &domain.spec.cell, 1, capacity::mailbox(address, id.namespace()))?;
    Ok(address)
}

/// The address of a Mailbox, and the domain that takes it.
pub fn joined<'a, 'd>(
    id: &ObjectId,
    object: &'a Object<Address>,
    domains: &'d Domains,
) -> Result<(&'a Address, &'d ServedDomain), Refusal> {
    let address = present("Mailbox", object)?;
    let domain = joins(id, address, domains)?;
    takes_mailboxes(domain)?;
    Ok((address, domain))
}

fn alias(
    id: &ObjectId,
    object: &Object<AliasSpec>,
    domains: &Domains,
    joined: &Joined<'_>,
    live: &Owners,
    declared: &Owners,
) -> Result<Candidate, Refusal> {
    let spec = present("MailAlias", object)?;
    let domain = joins(id, &spec.address, domains)?;
    leaves_the_mailbox_its_mail(id, spec, live)?;
    undeclared("MailAlias", &spec.address, declared.get(&spec.address), id)?;
    let verdict = joined[spec.address.domain()].clone();
    let cell = domain.spec.cell.clone();
    Ok(Candidate { id: id.clone(), changed: object.changed, cell, spec: spec.clone(), verdict })
}

fn present<'a, S>(kind: &str, object: &'a Object<S>) -> Result<&'a S, Refusal> {
    match &object.spec {
        Err(message) => Err(Refusal::new(Reason::Invalid, message)),
        Ok(_) if object.deleting => {
            Err(Refusal::new(Reason::Pending, format!("the {kind} is being deleted")))
        }
        Ok(spec) => Ok(spec),
    }
}

/// A domain of class Alias has no mailboxes: Postfix would not look for them (ADDRESS_CLASS_README).
fn takes_mailboxes(domain: &ServedDomain) -> Result<(), Refusal> {
    match domain.spec.class {
        DomainClass::Mailbox => Ok(()),
        DomainClass::Alias => {
            let message = format!(
                "the MailDomain of {} has class Alias, so that its addresses can only be MailAliases; declare a MailAlias to a Mailbox in another domain",
                domain.spec.domain
            );
            Err(Refusal::new(Reason::WrongDomainClass, message))
        }
    }
}

/// Whether no older object of the kind declares the address.
fn undeclared(kind: &str, address: &Address, older: Option<&ObjectId>, id: &ObjectId) -> Result<(), Refusal> {
    let Some(older) = older else { return Ok(()) };
    let owner = named(kind, older, id.namespace());
    let message = format!("{address} is already {owner}, which is older; delete one of the two");
    Err(Refusal::new(Reason::AddressConflict, message))
}

/// The domain that the address may join.
fn joins<'a>(id: &ObjectId, address: &Address, domains: &'a Domains) -> Result<&'a ServedDomain, Refusal> {
    let Some(domain) = domains.get(address.domain()) else {
        let message = format!(
            "no MailDomain serves {}; this heals by itself when one is created and accepted",
            address.domain()
        );
        return Err(Refusal::new(Reason::DomainNotFound, message));
    };
    let allowed = &domain.spec.allowed_namespaces;
    let joins = id.namespace() == domain.namespace
        || match allowed.from {
            NamespacesFrom::Same => false,
            NamespacesFrom::All => true,
            NamespacesFrom::Names => allowed.names.iter().any(|name| name == id.namespace()),
        };
    if !joins {
        let message = format!(
            "the MailDomain of {} does not let namespace {} join; its owner can add it to spec.allowedNamespaces",
            address.domain(),
            id.namespace()
        );
        return Err(Refusal::new(Reason::NotAllowedByDomain, message));
    }
    if id.namespace() != domain.namespace && RESTRICTED.contains(&address.local()) {
        let message = format!(
            "{address} can be declared only in namespace {}, which answers for the domain",
            domain.namespace
        );
        return Err(Refusal::new(Reason::RestrictedAddress, message));
    }
    Ok(domain)
}

/// Whether a Mailbox at the address keeps getting its mail, and whether a copy of it is the alias's to give.
fn leaves_the_mailbox_its_mail(id: &ObjectId, spec: &AliasSpec, live: &Owners) -> Result<(), Refusal> {
    let address = &spec.address;
    let Some(mailbox) = live.get(address) else { return Ok(()) };
    let owner = named("Mailbox", mailbox, id.namespace());
    let message = if mailbox.namespace() != id.namespace() {
        format!("{address} is {owner}; only that namespace can forward its mail")
    } else if !spec.targets.contains(address) {
        format!(
            "{address} is {owner}, which would get no more mail; add {address} to spec.targets to keep a copy there, or delete the Mailbox"
        )
    } else {
        return Ok(());
    };
    Err(Refusal::new(Reason::ShadowsMailbox, message))
}

/// Accepted, or kept alive without being accepted while the domain drains.
pub fn verdict_in(domain: &ServedDomain) -> Verdict {
    let accepted = match &domain.claim {
        Some(_) => Ok(()),
        // The brake holds it.
        None if domain.state == DomainState::Serving => Err(Refusal::new(
            Reason::DomainNotFound,
            format!(
                "no MailDomain claims {} any more, although none was deleted; mail is accepted as before until the administrator confirms that this is meant",
                domain.spec.domain
            ),
        )),
        None => Err(Refusal::new(
            Reason::DomainNotFound,
            format!(
                "the MailDomain of {} is gone and the domain is being withdrawn; mail is accepted until no resolver holds its MX",
                domain.spec.domain
            ),
        )),
    };
    Verdict { accepted, warning: None, resolved_refs: Ok(()), domain: domain.claim.clone() }
}

fn refused(refusal: Refusal) -> Arc<Verdict> {
    Arc::new(Verdict { accepted: Err(refusal), warning: None, resolved_refs: Ok(()), domain: None })
}
