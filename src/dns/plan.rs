//! What is to be done about the MX record of one domain. Pure: no client, no clock.

use super::record::{MxSet, Owner};

/// On whose behalf is planned.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The owner id in the configuration.
    pub owner_id: &'a str,
    /// This installation.
    pub instance: &'a str,
    /// Whether this installation remembers having published this domain's MX.
    pub previously_published: bool,
    /// Whether what is not ours may be replaced.
    pub adopt: bool,
}

/// What shall stand in DNS.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The MX records.
    pub mx: MxSet,
    /// Seconds that the zone's secondaries may need to follow.
    pub lag: u32,
}

/// An MX RRset as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundMx {
    /// There is none.
    None,
    /// These records.
    Set(MxSet),
    /// Something that is no plain MX RRset (unreadable, or switched off in PowerDNS).
    Unreadable {
        /// The contents, quoted.
        text: String,
        /// Time to live in seconds.
        ttl: u32,
    },
}

impl FoundMx {
    /// Time to live in seconds; 0 for none.
    pub fn ttl(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Set(mx) => mx.ttl,
            Self::Unreadable { ttl, .. } => *ttl,
        }
    }

    /// What stands there, quoted.
    pub fn describe(&self) -> String {
        match self {
            Self::None => "no MX".to_owned(),
            Self::Set(mx) => mx.to_string(),
            Self::Unreadable { text, ttl } => format!("MX {text} with TTL {ttl}"),
        }
    }
}

/// The ownership record as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// There is none.
    None,
    /// One that a vmail-operator wrote.
    Known(Owner),
    /// Something else at that name.
    Foreign(String),
}

/// What stands in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The MX RRset.
    pub mx: FoundMx,
    /// The ownership record.
    pub owner: OwnerState,
    /// The target of a CNAME or DNAME at the name.
    pub cname: Option<String>,
    /// The wildcard that answers for the name today.
    pub wildcard: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All is as it should be.
    Nothing,
    /// MX and ownership record are written, in one transaction.
    Write,
    /// MX and ownership record are deleted, in one transaction.
    Delete,
    /// Taking away is wanted, but what stands there is not ours. It stays; the text quotes it.
    NotOurs(String),
    /// Something that is not ours is in the way. It stays; the text quotes it.
    Conflict(String),
    /// What this installation published belongs to another one with the same owner id now.
    TakenOver(String),
    /// The wildcard with this name would be hidden.
    Shadowed(String),
}

/// Who, seen from the claim, holds the MX.
enum Holder<'a> {
    Nobody,
    Us(&'a Owner),
    /// Our owner id, another installation.
    Twin(&'a Owner),
    Other(String),
}

fn holder<'a>(claim: &Claim<'_>, state: &'a OwnerState) -> Holder<'a> {
    match state {
        OwnerState::None => Holder::Nobody,
        OwnerState::Known(owner) if owner.owner_id != claim.owner_id => {
            Holder::Other(format!("owned by \"{}\"", owner.owner_id))
        }
        OwnerState::Known(owner) if owner.instance == claim.instance => Holder::Us(owner),
        OwnerState::Known(owner) => Holder::Twin(owner),
        OwnerState::Foreign(text) => {
            Holder::Other(format!("with an ownership record that is not readable: {text}"))
        }
    }
}

/// Decides. To publish (`wanted`):
///
/// | ownership record | MX found | published before | plan |
/// |---|---|---|---|
/// | ours | equal, and the record's times suffice | | `Nothing` |
/// | ours | anything else | | `Write` |
/// | our owner id, another instance | | no | `Write` |
/// | our owner id, another instance | | yes | `TakenOver` |
/// | another owner id, or not readable | | | `Conflict` |
/// | none | none, and no wildcard answers | | `Write` |
/// | none | none, and a wildcard answers | | `Shadowed` |
/// | none | equal | | `Write` (the ownership record comes back) |
/// | none | anything else | | `Conflict` |
///
/// With `adopt`, `Conflict` and `Shadowed` are `Write`. What another owner id holds is adopted only as long as nothing was
/// published before: two that adopt would take the MX from each other for ever.
///
/// A CNAME or DNAME at the name is a `Conflict`, unless another row says `TakenOver`.
///
/// To withdraw (`wanted` is `None`):
///
/// | ownership record | MX found | plan |
/// |---|---|---|
/// | ours | | `Delete` |
/// | anything else | none | `Nothing` |
/// | anything else | some | `NotOurs` |
pub fn plan(claim: &Claim<'_>, wanted: Option<&Wanted>, found: &Found) -> Plan {
    let holder = holder(claim, &found.owner);
    match wanted {
        Some(wanted) => publish(claim, &holder, wanted, found),
        None => withdraw(&holder, found),
    }
}

fn publish(claim: &Claim<'_>, holder: &Holder<'_>, wanted: &Wanted, found: &Found) -> Plan {
    let standing = found.mx.describe();
    if let Holder::Twin(owner) = holder
        && claim.previously_published
    {
        return Plan::TakenOver(format!("{standing}, written by instance \"{}\"", owner.instance));
    }
    if let Some(target) = &found.cname {
        return Plan::Conflict(format!(
            "CNAME or DNAME \"{target}\", beside which no MX and ownership record can stand"
        ));
    }
    let equal = matches!(&found.mx, FoundMx::Set(mx) if *mx == wanted.mx);
    match holder {
        Holder::Us(owner) if equal && owner.ttl >= wanted.mx.ttl && owner.lag >= wanted.lag => Plan::Nothing,
        Holder::Us(_) | Holder::Twin(_) => Plan::Write,
        Holder::Other(_) if claim.adopt && !claim.previously_published => Plan::Write,
        Holder::Other(whose) => Plan::Conflict(format!("{standing}, {whose}")),
        Holder::Nobody if equal || claim.adopt => Plan::Write,
        Holder::Nobody => match (&found.mx, &found.wildcard) {
            (FoundMx::None, None) => Plan::Write,
            (FoundMx::None, Some(wildcard)) => Plan::Shadowed(wildcard.clone()),
            _ => Plan::Conflict(standing),
        },
    }
}

fn withdraw(holder: &Holder<'_>, found: &Found) -> Plan {
    let standing = found.mx.describe();
    match (holder, &found.mx) {
        (Holder::Us(_), _) => Plan::Delete,
        (_, FoundMx::None) => Plan::Nothing,
        (Holder::Nobody, _) => Plan::NotOurs(standing),
        (Holder::Twin(owner), _) => {
            Plan::NotOurs(format!("{standing}, written by instance \"{}\"", owner.instance))
        }
        (Holder::Other(whose), _) => Plan::NotOurs(format!("{standing}, {whose}")),
    }
}

#[cfg(test)]
mod tests;
