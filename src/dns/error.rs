//! What can go wrong on the way to a published MX record.

use crate::api::conditions::Reason;

/// Why an MX record was not published, withdrawn or checked. Every message tells what happened, to
/// which domain or zone, and what to do about it; none holds the API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The provider's settings cannot be used at all.
    #[error("the PowerDNS settings cannot be used: {detail}")]
    ProviderMisconfigured {
        /// Which setting, and what is wrong with it.
        detail: String,
    },
    /// The API key is refused.
    #[error(
        "PowerDNS at {server} refuses the API key (HTTP {status}): put the server's `api-key` into the Secret, and this pod's address into its `webserver-allow-from`"
    )]
    ProviderDenied {
        /// The base URL.
        server: String,
        /// 401 or 403.
        status: u16,
    },
    /// No usable answer: no connection, no time left, a server error, or not a PowerDNS at all.
    #[error(
        "PowerDNS at {server} cannot be asked about {about}: {detail}; it is tried again, nothing was decided"
    )]
    ProviderUnreachable {
        /// The base URL.
        server: String,
        /// The zone or server that the request was about.
        about: String,
        /// What happened.
        detail: String,
    },
    /// No zone holds the domain.
    #[error("no zone for {domain} at {server}: {detail}")]
    ZoneNotFound {
        /// The domain.
        domain: String,
        /// The base URL.
        server: String,
        /// What was looked for, and what to do.
        detail: String,
    },
    /// The zone is not one that this server is the source of.
    #[error(
        "zone {zone} cannot take the MX of {domain}: {detail}; publish on its primary server, or make the zone Native or Primary"
    )]
    ZoneNotWritable {
        /// The zone.
        zone: String,
        /// The domain.
        domain: String,
        /// What the zone is.
        detail: String,
    },
    /// What is written to the zone would never be served.
    #[error(
        "zone {zone} does not answer for {domain}: {at} is delegated out of it, or redirected by a DNAME; write to the zone that it is delegated to (spec.dns.zone, or leave it out)"
    )]
    ZoneDelegated {
        /// The zone that was to be written to.
        zone: String,
        /// The domain.
        domain: String,
        /// The name at which authority ends.
        at: String,
    },
    /// A record at the name would hide what a wildcard answers for it today.
    #[error(
        "{domain} is answered by the wildcard {wildcard} today, and an MX of its own would hide all of that (A records too): give {domain} the records it needs in its own name first"
    )]
    WildcardShadowed {
        /// The domain.
        domain: String,
        /// The wildcard's name.
        wildcard: String,
    },
    /// What stands at the name belongs to somebody else.
    #[error(
        "left untouched at {domain}: {found}; if this domain's mail is to be received here, remove it from the zone, or set spec.dns.adopt"
    )]
    RecordConflict {
        /// The domain.
        domain: String,
        /// What stands there, quoted.
        found: String,
    },
    /// Another instance with the same owner id has written the record since.
    #[error(
        "the MX of {domain} was taken over by another instance with the same owner id: {found}; stop one of the two, or give them different `dns.ownerId`s"
    )]
    TakenOver {
        /// The domain.
        domain: String,
        /// What stands there, quoted.
        found: String,
    },
    /// PowerDNS does not accept the record.
    #[error("the MX of {domain} was not accepted for zone {zone}: {sentence}")]
    RecordRejected {
        /// The domain.
        domain: String,
        /// The zone.
        zone: String,
        /// The server's own words.
        sentence: String,
    },
    /// PowerDNS said yes, and reading back shows otherwise.
    #[error(
        "PowerDNS took the change of {domain} in zone {zone}, but reading back shows {found}; look for another writer of this zone, or a backend that is read-only"
    )]
    WriteHadNoEffect {
        /// The domain.
        domain: String,
        /// The zone.
        zone: String,
        /// What stands there, quoted.
        found: String,
    },
    /// The guard of [`super::publish`] or [`super::withdraw`] said no.
    #[error("nothing was written for {domain}: {why}")]
    NotWritten {
        /// The domain.
        domain: String,
        /// Why not, such as a lease that is lost.
        why: String,
    },
    /// The MX host is not one that senders can reach.
    #[error(
        "MX host {host} {detail}; senders would bounce mail at once, so the MX is not published before that is mended"
    )]
    MxHostUnresolvable {
        /// The host.
        host: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Whether the MX host is fit cannot be told.
    #[error("whether MX host {host} has an address cannot be told: {resolver} {detail}; it is asked again")]
    ResolverUnreachable {
        /// The host.
        host: String,
        /// Who was asked.
        resolver: String,
        /// What came back.
        detail: String,
    },
}

impl DnsError {
    /// The reason as it stands in the condition `Published`.
    pub fn reason(&self) -> Reason {
        match self {
            Self::ProviderMisconfigured { .. } | Self::ProviderUnreachable { .. } => {
                Reason::ProviderUnreachable
            }
            Self::ProviderDenied { .. } => Reason::ProviderDenied,
            Self::ZoneNotFound { .. } => Reason::ZoneNotFound,
            Self::ZoneNotWritable { .. } => Reason::ZoneNotWritable,
            Self::ZoneDelegated { .. } => Reason::ZoneDelegated,
            Self::WildcardShadowed { .. } => Reason::WildcardShadowed,
            Self::RecordConflict { .. } => Reason::RecordConflict,
            Self::TakenOver { .. } => Reason::TakenOver,
            Self::RecordRejected { .. } => Reason::RecordRejected,
            Self::WriteHadNoEffect { .. } => Reason::WriteHadNoEffect,
            Self::NotWritten { .. } => Reason::Pending,
            Self::MxHostUnresolvable { .. } => Reason::MXHostUnresolvable,
            Self::ResolverUnreachable { .. } => Reason::ResolverUnreachable,
        }
    }
}
