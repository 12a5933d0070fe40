//! Putting a domain's MX into PowerDNS and taking it out again. Both may be called at any time, any
//! number of times: they look, plan, write only what the plan says, and read back.

use std::collections::BTreeSet;
use std::time::SystemTime;

use tracing::{info, warn};

use super::error::DnsError;
use super::plan::{Claim, Found, FoundMx, OwnerState, Plan, Wanted, plan};
use super::powerdns::{Change, PowerDns};
use super::record::{Mx, MxSet, Owner, owner_name};
use super::zone::{self, Site};

/// Asked right before anything is written; an error is passed on and nothing is written. It is where
/// the lease is checked.
pub type Guard<'a> = &'a (dyn Fn() -> Result<(), DnsError> + Send + Sync);

/// What shall be published, and by whom.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// The domain, without a trailing dot.
    pub domain: String,
    /// The zone to write to; by default the closest one that encloses the domain.
    pub zone: Option<String>,
    /// The records.
    pub mx: MxSet,
    /// The owner id in the configuration.
    pub owner_id: String,
    /// This installation.
    pub instance: String,
    /// Whether this installation remembers having published this domain's MX.
    pub previously_published: bool,
    /// Whether what is not ours may be replaced.
    pub adopt: bool,
}

/// What stands in PowerDNS now, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedMx {
    /// The zone that holds it.
    pub zone: String,
    /// The records.
    pub mx: MxSet,
    /// The longest time to live, in seconds, with which a resolver may hold an MX of the domain now.
    pub held_ttl: u32,
    /// Seconds that the zone's secondaries may need to follow.
    pub lag_seconds: u32,
    /// Whether anything had to be written.
    pub wrote: bool,
    /// What the administrator should know although it worked; told by the call that wrote.
    pub warning: Option<String>,
}

/// Whose MX shall be taken away.
#[derive(Clone, Debug)]
pub struct WithdrawRequest {
    /// The domain, without a trailing dot.
    pub domain: String,
    /// The zone that it was published in; by default the closest one that encloses the domain.
    pub zone: Option<String>,
    /// The owner id in the configuration.
    pub owner_id: String,
    /// This installation.
    pub instance: String,
}

/// The domain has no MX of ours any more, read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawal {
    /// Whether this call took it away.
    pub removed: bool,
    /// The longest time to live, in seconds, with which a resolver may still hold an MX of the domain,
    /// as far as the zone tells. After an earlier call took it away that is 0: remember what that said.
    pub held_ttl: u32,
    /// Seconds that the zone's secondaries may need to follow.
    pub lag_seconds: u32,
    /// An MX that is not ours and stays, quoted.
    pub foreign: Option<String>,
    /// The hosts that the foreign MX names.
    pub foreign_hosts: BTreeSet<String>,
    /// PowerDNS says that it has no zone for the domain. Only DNS itself knows whether that is so.
    pub no_zone: bool,
    /// What the administrator should know although it worked; told by the call that wrote.
    pub warning: Option<String>,
}

/// Makes the domain's MX what is wanted, unless what stands there is not ours.
pub async fn publish(
    pdns: &PowerDns,
    request: &PublishRequest,
    guard: Guard<'_>,
) -> Result<PublishedMx, DnsError> {
    let domain = request.domain.as_str();
    let site = zone::for_publishing(pdns, domain, request.zone.as_deref()).await?;
    let mut found = look(pdns, &site, domain).await?;
    if !request.adopt && found.mx == FoundMx::None && found.owner == OwnerState::None {
        let disabled = pdns.disabled_mx(site.name(), domain).await?;
        if !disabled.is_empty() {
            found.mx = FoundMx::Unreadable { text: zone::quote(&disabled), ttl: 0 };
        }
    }
    let lag = site.lag_seconds(pdns, domain).await?;
    let now = now();

    let claim = Claim {
        owner_id: &request.owner_id,
        instance: &request.instance,
        previously_published: request.previously_published,
        adopt: request.adopt,
    };
    let wanted = Wanted { mx: request.mx.clone(), lag };
    let held = held_ttl(&found, now).max(request.mx.ttl);
    let published = |wrote, warning| PublishedMx {
        zone: site.name().to_owned(),
        mx: request.mx.clone(),
        held_ttl: held,
        lag_seconds: lag,
        wrote,
        warning,
    };
    match plan(&claim, Some(&wanted), &found) {
        Plan::Write => {}
        Plan::Conflict(found) => {
            return Err(DnsError::RecordConflict { domain: domain.to_owned(), found });
        }
        Plan::TakenOver(found) => return Err(DnsError::TakenOver { domain: domain.to_owned(), found }),
        Plan::Shadowed(wildcard) => {
            return Err(DnsError::WildcardShadowed { domain: domain.to_owned(), wildcard });
        }
        Plan::Nothing | Plan::Delete | Plan::NotOurs(_) => return Ok(published(false, None)),
    }

    let owner = Owner {
        owner_id: request.owner_id.clone(),
        instance: request.instance.clone(),
        ttl: held,
        lag,
        at: now,
    };
    check_writable(&site, request, &owner)?;
    let changes = [
        Change::replace(
            domain,
            "MX",
            request.mx.ttl,
            request.mx.records.iter().map(ToString::to_string).collect(),
        ),
        Change::replace(&owner_name(domain), "TXT", request.mx.ttl, vec![owner.to_string()]),
    ];
    let unrectified = write(pdns, &site, domain, &changes, guard).await?;

    let after = look(pdns, &site, domain).await?;
    if after.mx != FoundMx::Set(request.mx.clone()) || after.owner != OwnerState::Known(owner) {
        return Err(no_effect(&site, domain, &after));
    }
    info!(domain, zone = site.name(), mx = %request.mx, instead_of = found.mx.describe(), "MX published");
    Ok(published(true, unrectified.or(site.serial_warning(pdns).await)))
}

/// Takes the domain's MX away, if it is ours.
pub async fn withdraw(
    pdns: &PowerDns,
    request: &WithdrawRequest,
    guard: Guard<'_>,
) -> Result<Withdrawal, DnsError> {
    let domain = request.domain.as_str();
    let Some(site) = zone::for_withdrawing(pdns, domain, request.zone.as_deref()).await? else {
        return Ok(Withdrawal { no_zone: true, ..Withdrawal::default() });
    };
    let found = look(pdns, &site, domain).await?;
    let claim = Claim {
        owner_id: &request.owner_id,
        instance: &request.instance,
        previously_published: true,
        adopt: false,
    };
    match plan(&claim, None, &found) {
        Plan::Delete => {}
        Plan::NotOurs(text) => return Ok(Withdrawal { foreign: Some(text), ..foreign(&found) }),
        _ => return Ok(Withdrawal::default()),
    }

    site.check_kind(domain)?;
    let recorded = match &found.owner {
        OwnerState::Known(owner) => owner.lag,
        _ => 0,
    };
    let lag_seconds = site.lag_seconds(pdns, domain).await?.max(recorded);
    let changes = [Change::delete(domain, "MX"), Change::delete(&owner_name(domain), "TXT")];
    let unrectified = write(pdns, &site, domain, &changes, guard).await?;

    let after = look(pdns, &site, domain).await?;
    let still_there = after.mx != FoundMx::None && after.mx == found.mx;
    let after_text = match plan(&claim, None, &after) {
        Plan::Delete => return Err(no_effect(&site, domain, &after)),
        _ if still_there => return Err(no_effect(&site, domain, &after)),
        Plan::NotOurs(text) => Some(text),
        _ => None,
    };
    info!(domain, zone = site.name(), mx = found.mx.describe(), "MX withdrawn");
    let warning = unrectified.or(site.serial_warning(pdns).await);
    if let Some(warning) = &warning {
        // The object that could say so is gone.
        warn!(domain, "{warning}");
    }
    Ok(Withdrawal {
        removed: true,
        held_ttl: held_ttl(&found, now()),
        lag_seconds,
        foreign: after_text,
        warning,
        ..foreign(&after)
    })
}

/// The one place where something is written. Gives what the administrator should know although it worked.
async fn write(
    pdns: &PowerDns,
    site: &Site,
    domain: &str,
    changes: &[Change],
    guard: Guard<'_>,
) -> Result<Option<String>, DnsError> {
    let _turn = pdns.turn_to_write().await;
    guard()?;
    pdns.patch(site.name(), domain, changes).await?;
    Ok(site.rectify(pdns).await)
}

/// What stands at the domain.
async fn look(pdns: &PowerDns, site: &Site, domain: &str) -> Result<Found, DnsError> {
    let at_domain = site.rrsets(pdns, domain, domain).await?;
    let at_owner = site.rrsets(pdns, domain, &owner_name(domain)).await?;
    let of_kind = |kind: &str| at_domain.iter().find(|rrset| rrset.kind == kind);

    let mx = of_kind("MX").map_or(FoundMx::None, |rrset| {
        let contents = rrset.records.iter().map(|record| record.content.as_str());
        let served = rrset.records.iter().all(|record| !record.disabled);
        let set = served.then(|| MxSet::parse(rrset.ttl, contents)).flatten();
        set.map_or_else(
            || FoundMx::Unreadable { text: zone::quote(&rrset.records), ttl: rrset.ttl },
            FoundMx::Set,
        )
    });
    let owner = at_owner.iter().find(|rrset| rrset.kind == "TXT").map_or(OwnerState::None, |rrset| {
        let known = match rrset.records.as_slice() {
            [only] if !only.disabled => Owner::parse(&only.content),
            _ => None,
        };
        known.map_or_else(|| OwnerState::Foreign(zone::quote(&rrset.records)), OwnerState::Known)
    });
    let cname = of_kind("CNAME")
        .or_else(|| of_kind("DNAME"))
        .and_then(|rrset| rrset.records.first())
        .map(|record| record.content.clone());
    let wildcard = if at_domain.is_empty() { site.wildcard(pdns, domain).await? } else { None };
    Ok(Found { mx, owner, cname, wildcard })
}

/// What a resolver may hold of what was found.
fn held_ttl(found: &Found, now: u64) -> u32 {
    match &found.owner {
        OwnerState::Known(owner) => owner.held_ttl(now, found.mx.ttl()),
        _ => found.mx.ttl(),
    }
}

/// The part of a withdrawal that is about an MX that stays.
fn foreign(found: &Found) -> Withdrawal {
    let foreign_hosts = match &found.mx {
        FoundMx::Set(mx) => mx.records.iter().map(|mx| mx.host.clone()).collect(),
        _ => BTreeSet::new(),
    };
    Withdrawal { foreign_hosts, ..Withdrawal::default() }
}

/// Refuses what could never be read back as written.
fn check_writable(site: &Site, request: &PublishRequest, owner: &Owner) -> Result<(), DnsError> {
    // A record is text to PowerDNS. It refuses most of what is not one name by itself, but writes a host in upper case, and
    // what is then read back differs (measured).
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let one_name = |mx: &&Mx| !mx.host.is_empty() && mx.host.chars().all(letters);
    let sentence = if request.mx.records.is_empty() {
        "the list of MX hosts is empty".to_owned()
    } else if let Some(mx) = request.mx.records.iter().find(|mx| !one_name(mx)) {
        format!("spec.dns.mx: {:?} is no host name such as mail.example.org", mx.host)
    } else if Owner::parse(&owner.to_string()).as_ref() != Some(owner) {
        "the owner id (dns.ownerId) may not be empty or hold quotes, backslashes or semicolons".to_owned()
    } else {
        return Ok(());
    };
    Err(DnsError::RecordRejected { domain: request.domain.clone(), zone: site.name().to_owned(), sentence })
}

fn no_effect(site: &Site, domain: &str, after: &Found) -> DnsError {
    let owner = match &after.owner {
        OwnerState::None => "no ownership record".to_owned(),
        OwnerState::Known(owner) => owner.to_string(),
        OwnerState::Foreign(text) => text.clone(),
    };
    DnsError::WriteHadNoEffect {
        domain: domain.to_owned(),
        zone: site.name().to_owned(),
        found: format!("{}, {owner}", after.mx.describe()),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
