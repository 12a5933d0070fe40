//! Which Mailbox and which MailAlias owns which address.

use std::collections::BTreeMap;

use super::capacity::{self, Room};
use super::{AliasSpec, Object, ObjectId, Refusal, ServedDomain, Verdict, by_age, named};
use crate::api::NamespacesFrom;
use crate::api::address::Address;
use crate::api::conditions::Reason;

/// Names that belong to whoever answers for the domain: role addresses (RFC 2142), and those that
/// certificate authorities take as proof of control (CA/Browser Forum Baseline Requirements 3.2.2.4.4).
const RESTRICTED: [&str; 7] =
    ["admin", "administrator", "hostmaster", "postmaster", "webmaster", "abuse", "root"];

type Domains = BTreeMap<String, ServedDomain>;

/// The mailboxes that are live, and what is said of each Mailbox.
pub struct Mailboxes {
    pub live: BTreeMap<Address, ObjectId>,
    pub verdicts: BTreeMap<ObjectId, Verdict>,
}

/// A MailAlias that may be live, before its targets are looked at. In the order in which they win.
pub struct Candidate {
    pub id: ObjectId,
    pub spec: AliasSpec,
    /// What will be said, unless its targets forbid it.
    pub verdict: Verdict,
}

/// Candidates, and what is said of the MailAliases that are none.
pub struct Aliases {
    pub candidates: Vec<Candidate>,
    pub refused: BTreeMap<ObjectId, Verdict>,
}

pub fn mailboxes(objects: &BTreeMap<ObjectId, Object<Address>>, domains: &Domains) -> Mailboxes {
    let mut live: BTreeMap<Address, ObjectId> = BTreeMap::new();
    let mut verdicts = BTreeMap::new();
    let mut room = Room::for_mailboxes();
    for (id, object) in by_age(objects) {
        let (verdict, address) = match &object.spec {
            Err(message) => (refused(Reason::Invalid, message), None),
            Ok(_) if object.deleting => (refused(Reason::Pending, "the Mailbox is being deleted"), None),
            Ok(address) => match (joins(id, address, domains), live.get(address)) {
                (Err(refusal), _) => (refused(refusal.reason, refusal.message), None),
                (Ok(_), Some(older)) => (conflict("Mailbox", address, older, id), None),
                (Ok(domain), None) => match room.take(capacity::mailbox(address)) {
                    Ok(()) => (verdict_in(domain, address), Some(address)),
                    Err(refusal) => (refused(refusal.reason, refusal.message), None),
                },
            },
        };
        if let Some(address) = address {
            live.insert(address.clone(), id.clone());
        }
        verdicts.insert(id.clone(), verdict);
    }
    Mailboxes { live, verdicts }
}

pub fn aliases(
    objects: &BTreeMap<ObjectId, Object<AliasSpec>>,
    domains: &Domains,
    mailboxes: &BTreeMap<Address, ObjectId>,
) -> Aliases {
    let mut owners: BTreeMap<Address, ObjectId> = BTreeMap::new();
    let mut candidates = Vec::new();
    let mut refusals = BTreeMap::new();
    let mut room = Room::for_aliases();
    for (id, object) in by_age(objects) {
        let verdict = match &object.spec {
            Err(message) => refused(Reason::Invalid, message),
            Ok(_) if object.deleting => refused(Reason::Pending, "the MailAlias is being deleted"),
            Ok(spec) => match (joins(id, &spec.address, domains), owners.get(&spec.address)) {
                (Err(refusal), _) => refused(refusal.reason, refusal.message),
                (Ok(_), Some(older)) => conflict("MailAlias", &spec.address, older, id),
                (Ok(domain), None) => {
                    match shadows(id, spec, mailboxes).or_else(|| room.take(capacity::alias(spec)).err()) {
                        Some(refusal) => refused(refusal.reason, refusal.message),
                        None => {
                            owners.insert(spec.address.clone(), id.clone());
                            let verdict = verdict_in(domain, &spec.address);
                            candidates.push(Candidate { id: id.clone(), spec: spec.clone(), verdict });
                            continue;
                        }
                    }
                }
            },
        };
        refusals.insert(id.clone(), verdict);
    }
    Aliases { candidates, refused: refusals }
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
    let joins = id.namespace == domain.namespace
        || match allowed.from {
            NamespacesFrom::Same => false,
            NamespacesFrom::All => true,
            NamespacesFrom::Names => allowed.names.contains(&id.namespace),
        };
    if !joins {
        let message = format!(
            "the MailDomain of {} does not let namespace {} join; its owner can add it to spec.allowedNamespaces",
            address.domain(),
            id.namespace
        );
        return Err(Refusal::new(Reason::NotAllowedByDomain, message));
    }
    if id.namespace != domain.namespace && RESTRICTED.contains(&address.local()) {
        let message = format!(
            "{address} can be declared only in namespace {}, which answers for the domain",
            domain.namespace
        );
        return Err(Refusal::new(Reason::RestrictedAddress, message));
    }
    Ok(domain)
}

/// A copy of somebody's mail is his to give.
fn shadows(id: &ObjectId, spec: &AliasSpec, mailboxes: &BTreeMap<Address, ObjectId>) -> Option<Refusal> {
    let mailbox = mailboxes.get(&spec.address)?;
    let address = &spec.address;
    let owner = named("Mailbox", mailbox, &id.namespace);
    if mailbox.namespace != id.namespace {
        let message = format!("{address} is {owner}; only that namespace can forward its mail");
        return Some(Refusal::new(Reason::ShadowsMailbox, message));
    }
    (!spec.targets.contains(address)).then(|| {
        let message = format!("{address} is {owner}, which would get no more mail; add {address} to spec.targets to keep a copy there, or delete the Mailbox");
        Refusal::new(Reason::ShadowsMailbox, message)
    })
}

/// Accepted, or kept alive without being accepted while the domain drains.
fn verdict_in(domain: &ServedDomain, address: &Address) -> Verdict {
    let accepted = match &domain.claim {
        Some(_) => Ok(()),
        None => Err(Refusal::new(
            Reason::DomainNotFound,
            format!(
                "the MailDomain of {} is gone and the domain is being withdrawn; mail is accepted until no resolver holds its MX",
                address.domain()
            ),
        )),
    };
    Verdict { accepted, resolved_refs: Ok(()), domain: domain.claim.clone() }
}

fn refused(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict { accepted: Err(Refusal::new(reason, message)), resolved_refs: Ok(()), domain: None }
}

fn conflict(kind: &str, address: &Address, older: &ObjectId, id: &ObjectId) -> Verdict {
    let owner = named(kind, older, &id.namespace);
    refused(
        Reason::AddressConflict,
        format!("{address} is already {owner}, which is older; delete one of the two"),
    )
}
