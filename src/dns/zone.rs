//! Which zone holds a domain, and whether what is written to it would be served.

use super::error::DnsError;
use super::powerdns::{PowerDns, Record, RrSet, Zone};

/// The zone that a domain's records go to, as it was before anything was written.
pub(super) struct Site {
    zone: Zone,
}

/// Finds the zone to publish in, and refuses one in which the records would not be served. A zone that
/// is named must also be the closest one, since PowerDNS answers from that.
pub(super) async fn for_publishing(
    pdns: &PowerDns,
    domain: &str,
    named: Option<&str>,
) -> Result<Site, DnsError> {
    let Some(site) = closest(pdns, domain, named).await? else {
        pdns.check_server().await?;
        return Err(DnsError::ZoneNotFound {
            domain: domain.to_owned(),
            server: pdns.base_url().to_owned(),
            detail: match named {
                Some(zone) if !encloses(zone, domain) => {
                    format!("spec.dns.zone is {zone}, and {domain} does not lie in that")
                }
                Some(zone) => {
                    format!("spec.dns.zone is {zone}, and PowerDNS has no such zone: create it there")
                }
                None => "PowerDNS has neither it nor a zone above it: create one there".to_owned(),
            },
        });
    };
    if let Some(named) = named.filter(|named| !named.eq_ignore_ascii_case(site.name())) {
        return Err(DnsError::ZoneDelegated {
            zone: named.to_owned(),
            domain: domain.to_owned(),
            at: site.name().to_owned(),
        });
    }
    site.check_kind(domain)?;
    for name in ancestors(domain).take_while(|name| encloses(site.name(), name)) {
        let is_apex = name.eq_ignore_ascii_case(site.name());
        if is_apex && name == domain {
            break;
        }
        // Nothing below a DNAME is served (RFC 6672 2.4).
        let away = |kind: &str| (kind == "NS" && !is_apex) || (kind == "DNAME" && name != domain);
        if site.rrsets(pdns, domain, name).await?.iter().any(|rrset| away(&rrset.kind)) {
            return Err(DnsError::ZoneDelegated {
                zone: site.name().to_owned(),
                domain: domain.to_owned(),
                at: name.to_owned(),
            });
        }
    }
    Ok(site)
}

/// The zone that may hold an MX of ours; `None` when PowerDNS, asked for certain, has no such zone.
pub(super) async fn for_withdrawing(
    pdns: &PowerDns,
    domain: &str,
    named: Option<&str>,
) -> Result<Option<Site>, DnsError> {
    let site = match named {
        Some(zone) => pdns.zone(zone).await?.map(|zone| Site { zone }),
        None => closest(pdns, domain, None).await?,
    };
    if site.is_none() {
        pdns.check_server().await?;
    }
    Ok(site)
}

/// The closest zone that encloses the domain, not looking above `top`.
async fn closest(pdns: &PowerDns, domain: &str, top: Option<&str>) -> Result<Option<Site>, DnsError> {
    for name in ancestors(domain).take_while(|name| top.is_none_or(|top| encloses(top, name))) {
        if let Some(zone) = pdns.zone(name).await? {
            return Ok(Some(Site { zone }));
        }
    }
    Ok(None)
}

impl Site {
    pub(super) fn name(&self) -> &str {
        self.zone.name()
    }

    /// Refuses a zone whose records are made elsewhere.
    pub(super) fn check_kind(&self, domain: &str) -> Result<(), DnsError> {
        if self.zone.is_writable() {
            return Ok(());
        }
        Err(self.not_writable(domain, format!("it is of kind {} here, a copy", self.zone.kind())))
    }

    /// The RRsets at a name.
    pub(super) async fn rrsets(
        &self,
        pdns: &PowerDns,
        domain: &str,
        name: &str,
    ) -> Result<Vec<RrSet>, DnsError> {
        match pdns.rrsets(self.name(), name).await? {
            Some(rrsets) => Ok(rrsets),
            None => Err(DnsError::ZoneNotFound {
                domain: domain.to_owned(),
                server: pdns.base_url().to_owned(),
                detail: format!("{} was there a moment ago and is gone", self.name()),
            }),
        }
    }

    /// The wildcard that answers for a name at which nothing stands: the one right below the closest ancestor that
    /// exists (RFC 4592 3.3.1). A name with something below it exists, be it empty (2.2.2).
    pub(super) async fn wildcard(&self, pdns: &PowerDns, domain: &str) -> Result<Option<String>, DnsError> {
        for name in ancestors(domain).skip(1).take_while(|name| encloses(self.name(), name)) {
            let wildcard = format!("*.{name}");
            if !self.rrsets(pdns, domain, &wildcard).await?.is_empty() {
                for closer in ancestors(domain).take_while(|closer| *closer != name) {
                    if pdns.has_below(self.name(), closer).await? {
                        return Ok(None);
                    }
                }
                return Ok(Some(wildcard));
            }
            if !self.rrsets(pdns, domain, name).await?.is_empty() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Seconds after which the zone's secondaries have followed, or know that they cannot.
    pub(super) async fn lag_seconds(&self, pdns: &PowerDns, domain: &str) -> Result<u32, DnsError> {
        if self.zone.is_native() {
            return Ok(0);
        }
        let apex = self.rrsets(pdns, domain, self.name()).await?;
        let soa = apex.iter().find(|rrset| rrset.kind == "SOA").and_then(|rrset| rrset.records.first());
        soa.and_then(|soa| refresh_and_retry(&soa.content))
            .ok_or_else(|| self.not_writable(domain, "it has no readable SOA record".to_owned()))
    }

    /// After a write: puts a signed zone in order that PowerDNS does not put in order by itself. Says so when that fails.
    pub(super) async fn rectify(&self, pdns: &PowerDns) -> Option<String> {
        if !self.zone.is_left_unrectified() {
            return None;
        }
        let error = pdns.rectify(self.name()).await.err()?;
        Some(format!(
            "zone {} is signed, its api_rectify is off, and it cannot be rectified ({error}), so that resolvers may deny what was \
             written: run `pdnsutil rectify-zone {}`",
            self.name(),
            self.name()
        ))
    }

    /// Says so when the serial is what it was before a write. What was written stands either way, so
    /// a server that cannot be asked is no error here.
    pub(super) async fn serial_warning(&self, pdns: &PowerDns) -> Option<String> {
        let after = pdns.zone(self.name()).await.ok().flatten()?;
        (after.serial == self.zone.serial).then(|| {
            format!(
                "the serial of zone {} stayed at {} although its records changed, so its secondaries do not \
                 follow: set soa_edit_api of the zone to DEFAULT",
                self.name(),
                after.serial,
            )
        })
    }

    fn not_writable(&self, domain: &str, detail: String) -> DnsError {
        DnsError::ZoneNotWritable { zone: self.name().to_owned(), domain: domain.to_owned(), detail }
    }
}

/// Records, for a message.
pub(super) fn quote(records: &[Record]) -> String {
    let records = records.iter().map(|record| {
        let note = if record.disabled { " (disabled)" } else { "" };
        format!("\"{}\"{note}", record.content)
    });
    records.collect::<Vec<_>>().join(", ")
}

/// Refresh and retry of an SOA content, added up.
fn refresh_and_retry(soa: &str) -> Option<u32> {
    let mut numbers = soa.split_ascii_whitespace().skip(3).map(|word| word.parse::<u32>().ok());
    Some(numbers.next()??.saturating_add(numbers.next()??))
}

/// The name, and each name above it but the root.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent))
}

/// Whether a name is the zone's, or lies below it.
fn encloses(zone: &str, name: &str) -> bool {
    ancestors(name).any(|ancestor| ancestor.eq_ignore_ascii_case(zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_above() {
        assert_eq!(ancestors("a.b.test").collect::<Vec<_>>(), ["a.b.test", "b.test", "test"]);
        assert!(encloses("b.test", "a.b.test") && encloses("b.test", "b.test"));
        assert!(!encloses("b.test", "ab.test") && !encloses("a.b.test", "b.test"));
    }

    #[test]
    fn soa_times() {
        let soa = "ns.ex.test. hostmaster.ex.test. 2026112301 10800 3600 604800 3600";
        assert_eq!(refresh_and_retry(soa), Some(14_400));
        assert_eq!(refresh_and_retry("ns. host. 1 4294967295 1 1 1"), Some(u32::MAX));
        assert_eq!(refresh_and_retry("ns. host. 1 10800"), None);
        assert_eq!(refresh_and_retry("ns. host. 1 x 1 1 1"), None);
    }
}
