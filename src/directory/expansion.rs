//! Where aliases lead: cycles, sizes, catch-alls, and targets with nobody behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::addresses::{Aliases, Candidate};
use super::capacity::{self, Shares};
use super::{ObjectId, Refusal, ServedDomain, Verdicts};
use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::config::Config;

/// Postfix defers a whole message, other recipients' included, when an alias expands to more addresses, or over as many
/// aliases one after the other (postconf(5) virtual_alias_expansion_limit, virtual_alias_recursion_limit; measured).
const EXPANSION_LIMIT: usize = 1000;

/// The live aliases, and what is said of those who declared them.
pub struct Expanded {
    pub live: BTreeMap<Address, BTreeSet<Address>>,
    /// Aliases that lead nowhere.
    pub dead: BTreeSet<Address>,
    pub verdicts: Verdicts,
    /// MailDomains with a catch-all or a role address that leads nowhere.
    pub unresolved: BTreeMap<ObjectId, Refusal>,
}

pub fn expand(
    domains: &BTreeMap<String, ServedDomain>,
    mailboxes: &BTreeMap<Address, ObjectId>,
    aliases: Aliases,
    config: &Config,
    shares: &mut Shares<'_>,
) -> Expanded {
    let hosts: BTreeSet<&str> = config.cells.values().map(|cell| cell.hostname.as_str()).collect();
    let ours = domains.keys().map(String::as_str).chain(hosts.iter().copied()).collect();
    let mut graph =
        Graph { ours, mailboxes, edges: BTreeMap::new(), sizes: Sizes::new(), referrers: BTreeMap::new() };
    let mut verdicts = aliases.refused;
    let mut objects = Vec::new();
    for mut candidate in aliases.candidates {
        let Candidate { id, cell, spec, .. } = &candidate;
        let added = graph.add(&spec.address, &spec.targets, || {
            shares.take(id.namespace(), cell, spec.targets.len(), capacity::alias(spec))
        });
        match added {
            Ok(()) => objects.push(candidate),
            Err(refusal) => {
                Arc::make_mut(&mut candidate.verdict).accepted = Err(refusal);
                verdicts.insert(candidate.id, candidate.verdict);
            }
        }
    }
    // What a MailDomain makes by itself comes last: whatever somebody declared wins.
    let mut unresolved = BTreeMap::new();
    let mut implied = Vec::new();
    for alias in
        roles(domains, &hosts, mailboxes, &graph.edges, config).into_iter().chain(catch_alls(domains))
    {
        if alias.address.is_catch_all() && !graph.declares(&alias.target) {
            let refusal = alias.dangling();
            alias.complain(refusal, &mut unresolved);
            continue;
        }
        let added = graph.add(&alias.address, &BTreeSet::from([alias.target.clone()]), || {
            match domains.get(alias.address.domain()) {
                Some(domain) if alias.address.is_catch_all() => {
                    let beside = capacity::lines_beside(&alias.address, mailboxes);
                    shares.take_room(&domain.spec.cell, capacity::catch_all(&alias.target) + beside)
                }
                _ => Ok(()),
            }
        });
        match added {
            Ok(()) => implied.push(alias),
            Err(refusal) => alias.complain(refusal, &mut unresolved),
        }
    }

    let (mut live, mut dead) = graph.live();
    // postmaster@ is answered wherever an MX leads (RFC 5321 4.5.1), also when its Mailbox was deleted.
    let declared = graph.ours.iter().filter_map(|domain| Address::role("postmaster", domain));
    let mut replaced: BTreeSet<Address> =
        implied.iter().map(|alias| alias.address.clone()).chain(declared).collect();
    let default = Address::target(&config.postmaster);
    replaced.retain(|address| {
        dead.contains(address) && default.as_ref().is_some_and(|default| graph.replace(address, default))
    });
    if !replaced.is_empty() {
        (live, dead) = graph.live();
    }
    for mut candidate in objects {
        let kept = live.get(&candidate.spec.address);
        let missing: Vec<String> = candidate
            .spec
            .targets
            .iter()
            .filter(|target| !kept.is_some_and(|kept| kept.contains(target)))
            .map(Address::to_string)
            .collect();
        if !missing.is_empty() {
            Arc::make_mut(&mut candidate.verdict).resolved_refs = Err(dangling(&missing, kept.is_none()));
        }
        verdicts.insert(candidate.id, candidate.verdict);
    }
    for alias in implied {
        if !live.contains_key(&alias.address) || replaced.contains(&alias.address) {
            let refusal = alias.dangling();
            alias.complain(refusal, &mut unresolved);
        }
    }
    Expanded { live, dead, verdicts, unresolved }
}

fn dangling(missing: &[String], all: bool) -> Refusal {
    let list = missing.join(", ");
    let effect = if all { "mail for this alias is refused" } else { "they are left out" };
    Refusal::new(
        Reason::TargetNotFound,
        format!(
            "no Mailbox or MailAlias is behind {list} in a domain served here, so {effect}; create it or remove it from spec.targets"
        ),
    )
}

/// A role address that nobody declared, or a catch-all.
struct Implied {
    address: Address,
    target: Address,
    claim: Option<ObjectId>,
}

impl Implied {
    fn complain(self, refusal: Refusal, to: &mut BTreeMap<ObjectId, Refusal>) {
        if let Some(claim) = self.claim {
            to.entry(claim).or_insert(refusal);
        }
    }

    fn dangling(&self) -> Refusal {
        let Self { address, target, .. } = self;
        let message = if address.is_catch_all() {
            format!(
                "spec.catchAll: no Mailbox or MailAlias that is served here is behind {target}, so mail to unknown addresses of {} is refused; create one, or name another address",
                address.domain()
            )
        } else {
            format!(
                "mail for {address} goes to {target}, which is in a domain served here and has no Mailbox or MailAlias; the postmaster of the installation gets it until you create one, or set spec.postmaster"
            )
        };
        Refusal::new(Reason::TargetNotFound, message)
    }
}

/// The catch-alls of the served domains.
fn catch_alls(domains: &BTreeMap<String, ServedDomain>) -> impl Iterator<Item = Implied> {
    domains.iter().filter_map(|(domain, served)| {
        let target = Address::own(served.spec.catch_all.as_deref()?)?;
        Some(Implied { address: Address::catch_all(domain), target, claim: served.claim.clone() })
    })
}

/// Role addresses of the served domains and of the hosts themselves: RFC 5321 4.5.1 wants a postmaster
/// for both.
fn roles(
    domains: &BTreeMap<String, ServedDomain>,
    hosts: &BTreeSet<&str>,
    mailboxes: &BTreeMap<Address, ObjectId>,
    declared: &BTreeMap<Address, BTreeSet<Address>>,
    config: &Config,
) -> Vec<Implied> {
    let default = Address::target(&config.postmaster);
    let mut roles = Vec::new();
    let exists = |address: &Address| mailboxes.contains_key(address) || declared.contains_key(address);
    let mut add = |domain: &str, locals: &[&str], postmaster: Option<Address>, claim: Option<&ObjectId>| {
        let own = Address::role("postmaster", domain).filter(exists);
        let Some(target) = own.or(postmaster) else { return };
        for address in locals.iter().filter_map(|local| Address::role(local, domain)) {
            if !exists(&address) {
                roles.push(Implied { address, target: target.clone(), claim: claim.cloned() });
            }
        }
    };
    for (domain, served) in domains {
        let locals: Vec<&str> = served.spec.role_addresses.iter().map(String::as_str).collect();
        let postmaster = served.spec.postmaster.as_deref().and_then(Address::target).or(default.clone());
        add(domain, &locals, postmaster, served.claim.as_ref());
    }
    for host in hosts {
        add(host, &["postmaster", "abuse", "root"], default.clone(), None);
    }
    roles
}

/// What Postfix finds behind an address.
enum Behind<'a> {
    Alias(&'a Address),
    Mailbox,
    /// In a domain served here, and refused.
    Nobody,
    Remote,
}

/// Aliases as edges. It never holds a cycle, nor an alias that leads to too much.
struct Graph<'a> {
    /// Served domains and our own host names: an address there is either known or refused.
    ours: BTreeSet<&'a str>,
    mailboxes: &'a BTreeMap<Address, ObjectId>,
    edges: BTreeMap<Address, BTreeSet<Address>>,
    /// How many addresses each alias leads to.
    sizes: Sizes,
    /// Looked-up address to the aliases that have it among their targets, the newest last.
    referrers: BTreeMap<Address, Vec<Address>>,
}

type Sizes = BTreeMap<Address, usize>;

impl Graph<'_> {
    /// Adds an alias that `fits`, or says why that would hurt. Aliases are added in the order in which they win, so
    /// the one that closes a cycle or bursts a limit was changed last, and nobody else's mail changes.
    fn add(
        &mut self,
        address: &Address,
        targets: &BTreeSet<Address>,
        fits: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.edges.insert(address.clone(), targets.clone());
        for key in targets.iter().flat_map(Address::lookup_order) {
            self.referrers.entry(key).or_default().push(address.clone());
        }
        match self.sizes_with(address).and_then(|sizes| fits().map(|()| sizes)) {
            Ok(sizes) => {
                self.sizes.extend(sizes);
                Ok(())
            }
            Err(refusal) => {
                self.edges.remove(address);
                for key in targets.iter().flat_map(Address::lookup_order) {
                    self.referrers.get_mut(&key).and_then(Vec::pop);
                }
                Err(refusal)
            }
        }
    }

    /// Lets mail for an alias that leads nowhere go to `target`, unless that leads back or to too much.
    fn replace(&mut self, address: &Address, target: &Address) -> bool {
        let before = self.edges.get(address).cloned();
        let added = self.add(address, &BTreeSet::from([target.clone()]), || Ok(())).is_ok();
        if let Some(targets) = before.filter(|_| !added) {
            self.edges.insert(address.clone(), targets);
        }
        added
    }

    /// What the sizes of an alias and of those that lead to it become, or why it cannot be there.
    fn sizes_with(&self, address: &Address) -> Result<Sizes, Refusal> {
        let mut changed = BTreeSet::from([address]);
        let mut open = vec![address];
        while let Some(next) = open.pop() {
            for referrer in self.referrers.get(next).into_iter().flatten() {
                let known = changed.contains(referrer);
                if (known && referrer != address) || !self.leads_to(referrer, next) {
                    continue;
                }
                if known {
                    let message = format!(
                        "mail for {address} would come back to {address} through its targets; remove the target that leads back"
                    );
                    return Err(Refusal::new(Reason::AliasLoop, message));
                }
                changed.insert(referrer);
                open.push(referrer);
            }
        }
        let mut sizes = Sizes::new();
        let too_large = |message| Refusal::new(Reason::AliasTooLarge, message);
        self.count(address, &changed, &mut sizes).ok_or_else(|| {
            too_large(format!(
                "{address} leads to {EXPANSION_LIMIT} addresses or more, at which Postfix defers the whole message; use a mailing list program, or fewer targets"
            ))
        })?;
        // Those that were left alone for longer must not become too large through this one.
        for referrer in &changed {
            self.count(referrer, &changed, &mut sizes).ok_or_else(|| {
                too_large(format!(
                    "another alias that leads to {address} would lead to {EXPANSION_LIMIT} addresses or more with it, at which Postfix defers the whole message; use fewer targets"
                ))
            })?;
        }
        Ok(sizes)
    }

    /// How many addresses an alias leads to, or `None` where these are too many. Counts anew, into `sizes`, those that
    /// are `changed`. Recursion is bounded by [`EXPANSION_LIMIT`], since there are no cycles.
    fn count(&self, address: &Address, changed: &BTreeSet<&Address>, sizes: &mut Sizes) -> Option<usize> {
        if let Some(size) = sizes.get(address) {
            return Some(*size);
        }
        if !changed.contains(address) {
            return self.sizes.get(address).copied();
        }
        let mut size = 0;
        for target in &self.edges[address] {
            size += 1;
            if let Some(next) = self.next(address, target) {
                let expanded = self.count(next, changed, sizes)?;
                size += if next == target { expanded } else { self.with_tag(next, expanded) };
            }
        }
        // Whoever writes to it may add a tag.
        if self.with_tag(address, size) >= EXPANSION_LIMIT {
            return None;
        }
        sizes.insert(address.clone(), size);
        Some(size)
    }

    /// What an alias of this size is asked with a `+tag`: where a copy is kept, Postfix finds the address itself among
    /// the targets and expands it once more (measured).
    fn with_tag(&self, address: &Address, size: usize) -> usize {
        if self.edges[address].contains(address) { 2 * size } else { size }
    }

    fn leads_to(&self, address: &Address, next: &Address) -> bool {
        self.edges[address].iter().any(|target| self.next(address, target) == Some(next))
    }

    /// The alias that a target of an alias leads to; none where it ends.
    fn next(&self, address: &Address, target: &Address) -> Option<&Address> {
        self.alias_behind(target).filter(|_| !self.is_copy(address, target))
    }

    /// Whether an address has a Mailbox or an alias of its own, and not only a catch-all.
    fn declares(&self, address: &Address) -> bool {
        self.edges.contains_key(address) || self.mailboxes.contains_key(address)
    }

    /// The alias that Postfix would find for a target; none where a Mailbox is found before.
    fn alias_behind(&self, target: &Address) -> Option<&Address> {
        match self.behind(target) {
            Behind::Alias(address) => Some(address),
            Behind::Mailbox | Behind::Nobody | Behind::Remote => None,
        }
    }

    /// What Postfix would find for a target. Mailboxes of a domain with a catch-all have lines of their own among the
    /// aliases, so that one order holds for both.
    fn behind(&self, target: &Address) -> Behind<'_> {
        for key in target.lookup_order() {
            if let Some((address, _)) = self.edges.get_key_value(&key) {
                return Behind::Alias(address);
            }
            if self.mailboxes.contains_key(&key) {
                return Behind::Mailbox;
            }
        }
        if self.ours.contains(target.domain()) { Behind::Nobody } else { Behind::Remote }
    }

    /// "Keep a copy and forward": an address that lists itself ends there (virtual(5)).
    fn is_copy(&self, address: &Address, target: &Address) -> bool {
        address == target && self.mailboxes.contains_key(address)
    }

    /// Each alias with the targets that mail can reach, and the aliases without any: these are left out, so that the
    /// sender is refused at once and no bounce is sent later.
    fn live(&self) -> (BTreeMap<Address, BTreeSet<Address>>, BTreeSet<Address>) {
        let mut known = BTreeMap::new();
        for address in self.edges.keys() {
            self.resolve(address, &mut known);
        }
        let (live, dead): (BTreeMap<_, BTreeSet<_>>, BTreeMap<_, _>) =
            known.into_iter().partition(|(_, targets)| !targets.is_empty());
        (live, dead.into_keys().filter(|address| !address.is_catch_all()).collect())
    }

    /// Recursion is bounded by [`EXPANSION_LIMIT`], since there are no cycles.
    fn resolve(&self, address: &Address, known: &mut BTreeMap<Address, BTreeSet<Address>>) -> bool {
        if let Some(targets) = known.get(address) {
            return !targets.is_empty();
        }
        let mut live = BTreeSet::new();
        for target in &self.edges[address] {
            let reached = self.is_copy(address, target)
                || match self.behind(target) {
                    Behind::Alias(next) => self.resolve(next, known),
                    Behind::Mailbox | Behind::Remote => true,
                    Behind::Nobody => false,
                };
            if reached {
                live.insert(target.clone());
            }
        }
        let reached = !live.is_empty();
        known.insert(address.clone(), live);
        reached
    }
}
