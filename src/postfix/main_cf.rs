//! Postfix's `main.cf` and `master.cf`, rendered whole (pure).
//!
//! Every default that could accept, relay, rewrite or lose something is set explicitly, since the
//! defaults differ between builds and distributions. The parameters are those of postconf(5), the
//! services those of master(5).

use std::collections::BTreeMap;

/// Where the pod keeps the Postfix queue: a subdirectory of the `spool` volume.
pub const QUEUE_DIRECTORY: &str = "/var/spool/vmail/postfix";

/// Where Postfix keeps what it may lose (`data_directory`); the pod's memory file system will do.
pub const DATA_DIRECTORY: &str = "/run/vmail-operator/data";

/// Where the Maildirs are.
pub const MAILBOX_BASE: &str = "/var/vmail";

/// Address of the listener that the agent's proof talks to, as named in `master.cf`.
pub const PROBE_LISTENER: &str = "127.0.0.1:10025";

/// Port of the listener for load balancers that say by PROXY protocol who the client is.
pub const PROXY_PORT: u16 = 2525;

/// The lookup tables of a revision, each named after the parameter that refers to it.
pub const TABLES: [&str; 6] = [
    "check_recipient_access",
    "transport_maps",
    "virtual_alias_domains",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
];

/// What an administrator may set through the chart, and nothing else.
///
/// Each of these limits, delays, names or encrypts; none decides **who may send where**, so none can
/// open a relay, deliver somewhere else or run a program. `relay_domains = static:all`, for instance,
/// opens a relay whatever `smtpd_relay_restrictions` says (measured), and so is not here.
pub const ALLOWED_PARAMETERS: [&str; 53] = [
    "anvil_rate_time_unit",
    "bounce_queue_lifetime",
    "bounce_size_limit",
    "default_destination_concurrency_limit",
    "default_destination_rate_delay",
    "default_destination_recipient_limit",
    "default_process_limit",
    "delay_warning_time",
    "header_size_limit",
    "hopcount_limit",
    "line_length_limit",
    "maximal_backoff_time",
    "maximal_queue_lifetime",
    "mime_nesting_limit",
    "minimal_backoff_time",
    "notify_classes",
    "qmgr_message_active_limit",
    "qmgr_message_recipient_limit",
    "queue_run_delay",
    "relayhost",
    "smtp_address_preference",
    "smtp_connect_timeout",
    "smtp_destination_concurrency_limit",
    "smtp_destination_rate_delay",
    "smtp_helo_name",
    "smtp_tls_CAfile",
    "smtp_tls_loglevel",
    "smtp_tls_mandatory_ciphers",
    "smtp_tls_mandatory_protocols",
    "smtp_tls_protocols",
    "smtp_tls_security_level",
    "smtpd_banner",
    "smtpd_client_connection_count_limit",
    "smtpd_client_connection_rate_limit",
    "smtpd_client_ipv4_prefix_length",
    "smtpd_client_ipv6_prefix_length",
    "smtpd_client_message_rate_limit",
    "smtpd_client_recipient_rate_limit",
    "smtpd_error_sleep_time",
    "smtpd_forbid_unauth_pipelining",
    "smtpd_hard_error_limit",
    "smtpd_helo_required",
    "smtpd_junk_command_limit",
    "smtpd_peername_lookup",
    "smtpd_recipient_limit",
    "smtpd_soft_error_limit",
    "smtpd_starttls_timeout",
    "smtpd_timeout",
    "smtpd_tls_ciphers",
    "smtpd_tls_loglevel",
    "smtpd_tls_protocols",
    "transport_retry_time",
    "virtual_destination_concurrency_limit",
];

/// What a `main.cf` is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainCf {
    /// The server's host name (`myhostname`): what the MX records name.
    pub hostname: String,
    /// Largest message in bytes (`message_size_limit`).
    pub message_size_limit: u64,
    /// The administrator's own parameters; names out of [`ALLOWED_PARAMETERS`].
    pub parameters: BTreeMap<String, String>,
}

impl MainCf {
    /// A server of this name with the default limit of 50 MiB for one message.
    pub fn new(hostname: &str) -> Self {
        Self { hostname: hostname.to_owned(), message_size_limit: 52_428_800, parameters: BTreeMap::new() }
    }
}

/// Why a `main.cf` was not rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MainCfError {
    /// The parameter is not on the list.
    #[error("Postfix parameter `{0}` may not be set here; allowed are: {list}", list = ALLOWED_PARAMETERS.join(", "))]
    NotAllowed(String),
    /// A value that would end its line and so could set any other parameter.
    #[error(
        "the value of Postfix parameter `{0}` contains a line break or control character; write it in one line"
    )]
    ControlCharacter(String),
    /// The host name cannot stand in `main.cf`.
    #[error("`{0}` is no host name: write a fully qualified one of lower-case letters, digits, `-` and `.`")]
    Hostname(String),
}

/// Renders `main.cf`: the same input always gives the same text, and no parameter stands twice.
pub fn main_cf(input: &MainCf) -> Result<String, MainCfError> {
    let MainCf { hostname, message_size_limit, parameters } = input;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !hostname.contains('.') || !hostname.chars().all(letters) || hostname.starts_with(['.', '-']) {
        return Err(MainCfError::Hostname(hostname.clone()));
    }
    for (name, value) in parameters {
        if !ALLOWED_PARAMETERS.contains(&name.as_str()) {
            return Err(MainCfError::NotAllowed(name.clone()));
        }
        if value.chars().any(char::is_control) {
            return Err(MainCfError::ControlCharacter(name.clone()));
        }
    }
    let limit = message_size_limit.to_string();
    let twice = message_size_limit.saturating_mul(2).to_string();
    let mut text = String::from("# Rendered by vmail-operator; what is edited here is overwritten.\n");
    let mut rest = parameters.clone();
    for (heading, settings) in SETTINGS {
        text.push_str(&format!("\n# {heading}\n"));
        for (name, value) in *settings {
            let value = match *value {
                "HOSTNAME" => hostname.clone(),
                "LIMIT" => limit.clone(),
                "TWICE" => twice.clone(),
                value => value.to_owned(),
            };
            let value = rest.remove(*name).unwrap_or(value);
            text.push_str(format!("{name} = {}", value.trim()).trim_end());
            text.push('\n');
        }
    }
    if !rest.is_empty() {
        text.push_str("\n# Of the administrator\n");
    }
    for (name, value) in rest {
        text.push_str(format!("{name} = {}", value.trim()).trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// Heading, then parameter and value, in the order of the file. `HOSTNAME`, `LIMIT` and `TWICE` stand
/// for what [`MainCf`] says.
type Settings = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const SETTINGS: Settings = &[
    (
        "The pod",
        &[
            ("compatibility_level", "3.6"),
            ("myhostname", "HOSTNAME"),
            ("myorigin", "$myhostname"),
            ("queue_directory", QUEUE_DIRECTORY),
            ("data_directory", DATA_DIRECTORY),
            ("maillog_file", "/dev/stdout"),
            ("inet_interfaces", "all"),
            ("inet_protocols", "all"),
            ("default_database_type", "cdb"),
            ("enable_long_queue_ids", "yes"),
            ("biff", "no"),
            ("smtp_host_lookup", "dns, native"),
            ("smtp_tls_security_level", "may"),
            ("smtp_tls_CAfile", "/etc/ssl/certs/ca-certificates.crt"),
            ("notify_classes", "resource, software"),
        ],
    ),
    (
        "Nobody is local: without all of these, user@[address] still reaches local delivery",
        &[
            ("mydestination", ""),
            ("local_transport", "error:5.1.1 no local mailboxes on this server"),
            ("local_recipient_maps", ""),
            ("alias_maps", ""),
            ("alias_database", ""),
            ("mailbox_size_limit", "0"),
        ],
    ),
    (
        "Nobody is trusted and nothing is relayed",
        &[
            ("mynetworks", ""),
            ("relay_domains", ""),
            ("smtpd_relay_restrictions", "reject_unauth_destination"),
            ("smtpd_relay_before_recipient_restrictions", "yes"),
            ("smtpd_sasl_auth_enable", "no"),
            ("smtpd_authorized_xclient_hosts", ""),
            ("smtpd_authorized_xforward_hosts", ""),
            ("smtpd_etrn_restrictions", "reject"),
            ("allow_percent_hack", "no"),
            ("swap_bangpath", "no"),
            ("allow_untrusted_routing", "no"),
            ("parent_domain_matches_subdomains", ""),
            ("fast_flush_domains", ""),
        ],
    ),
    (
        "Who is served",
        &[
            ("virtual_mailbox_domains", "cdb:$config_directory/tables/virtual_mailbox_domains"),
            ("virtual_mailbox_maps", "cdb:$config_directory/tables/virtual_mailbox_maps"),
            ("virtual_alias_domains", "cdb:$config_directory/tables/virtual_alias_domains"),
            ("virtual_alias_maps", "cdb:$config_directory/tables/virtual_alias_maps"),
            (
                "smtpd_recipient_restrictions",
                "check_recipient_access cdb:$config_directory/tables/check_recipient_access",
            ),
            ("smtpd_reject_unlisted_recipient", "yes"),
            // Else double-bounce@myhostname skips all restrictions (smtpd(8)), and its mail is bounced to whoever the
            // sender is said to be.
            ("address_verify_sender", "<>"),
            ("smtpd_delay_reject", "yes"),
            ("unknown_virtual_mailbox_reject_code", "550"),
            ("unknown_virtual_alias_reject_code", "550"),
            ("show_user_unknown_table_name", "no"),
            ("recipient_delimiter", "+"),
            ("propagate_unmatched_extensions", ""),
            ("append_dot_mydomain", "no"),
            ("append_at_myorigin", "yes"),
            ("local_header_rewrite_clients", ""),
            ("smtputf8_enable", "no"),
        ],
    ),
    (
        "Delivery",
        &[
            ("transport_maps", "cdb:$config_directory/tables/transport_maps"),
            ("virtual_transport", "virtual"),
            ("virtual_mailbox_base", MAILBOX_BASE),
            ("virtual_uid_maps", "static:2000"),
            ("virtual_gid_maps", "static:2000"),
            ("virtual_minimum_uid", "100"),
            // A permanent failure becomes a temporary one: mail once accepted is never bounced because
            // a table moved or a volume with a quota filled up.
            ("virtual_delivery_status_filter", r"regexp:{{/^5(\..*)/ 4$$1}}"),
            ("message_size_limit", "LIMIT"),
            ("virtual_mailbox_limit", "TWICE"),
            ("queue_minfree", "TWICE"),
        ],
    ),
    (
        "Manners",
        &[
            // After a configuration that no daemon can start with, the good one must not wait for a minute.
            ("service_throttle_time", "1s"),
            ("smtpd_banner", "$myhostname ESMTP"),
            ("smtpd_helo_required", "yes"),
            ("disable_vrfy_command", "yes"),
            ("smtpd_forbid_bare_newline", "normalize"),
            ("smtpd_forbid_bare_newline_exclusions", ""),
            ("smtpd_forbid_unauth_pipelining", "yes"),
            // The agent's own questions do not count against limits by client; this trusts nobody.
            ("smtpd_client_event_limit_exceptions", "127.0.0.0/8"),
            ("smtpd_soft_error_limit", "10"),
            ("smtpd_hard_error_limit", "20"),
            ("smtpd_error_sleep_time", "1s"),
        ],
    ),
    (
        "Whoever is silent or slow keeps nobody else out: 25 clients can hold all sessions, fewer cannot",
        &[
            // Of port 25; what delivers has numbers of its own in master.cf. A session takes up to 3.8 MiB, with TLS and its
            // cleanup(8), so that the chart's memory limit goes with this.
            ("default_process_limit", "500"),
            // What a Postfix with its defaults opens to one destination (default_destination_concurrency_limit).
            ("smtpd_client_connection_count_limit", "20"),
            // Who has one address of IPv6 has a whole /64.
            ("smtpd_client_ipv6_prefix_length", "64"),
            // A session counts against its client once the name is known, and the client's own name server says when.
            ("smtpd_peername_lookup", "no"),
            // Else every byte begins smtpd_timeout anew.
            ("smtpd_per_request_deadline", "yes"),
        ],
    ),
];

/// Renders `master.cf`.
///
/// The loopback listener has exactly the restrictions of the public one. It differs in error limits, since the public one
/// delays and then hangs up on a client that asks for what it refuses, which is what a proof does, and in the cleanup(8)
/// of its messages, which are never sent. There is no `local` service, and nothing is chrooted.
///
/// With `proxy_protocol` there is one more listener, on [`PROXY_PORT`], which takes nobody without a PROXY header
/// (`smtpd_upstream_proxy_protocol`, postconf(5); versions 1 and 2). Whoever reaches it may say that he is anybody, so
/// no address is spared the limits there.
pub fn master_cf(proxy_protocol: bool) -> String {
    let mut text = String::from(
        "# Rendered by vmail-operator; what is edited here is overwritten.\n\
         # service type private unpriv chroot wakeup maxproc command\n\
         smtp inet n - n - - smtpd\n",
    );
    text.push_str(PROBE_LISTENER);
    text.push_str(
        " inet n - n - - smtpd\n  \
           -o smtpd_soft_error_limit=100000 -o smtpd_hard_error_limit=100000\n  \
           -o smtpd_junk_command_limit=100000 -o smtpd_error_sleep_time=0\n  \
           -o cleanup_service_name=probe\n",
    );
    if proxy_protocol {
        text.push_str(&format!(
            "{PROXY_PORT} inet n - n - - smtpd\n  \
               -o smtpd_upstream_proxy_protocol=haproxy -o smtpd_client_event_limit_exceptions=\n",
        ));
    }
    for service in SERVICES {
        text.push_str(service);
        text.push('\n');
    }
    text
}

const SERVICES: [&str; 23] = [
    "pickup unix n - n 60 1 pickup",
    "cleanup unix n - n - 0 cleanup",
    // Of a proof: it begins a message that it never sends. For each message cleanup(8) takes one of as many tokens as
    // there may be processes, and waits for in_flow_delay when there is none; qmgr(8) puts them back when it has mail.
    // With as many domains as tokens, each further proof would take a second.
    "probe unix n - n - 0 cleanup\n  \
       -o in_flow_delay=0",
    "qmgr unix n - n 300 1 qmgr",
    "tlsmgr unix - - n 1000? 1 tlsmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "flush unix n - n 1000? 0 flush",
    "proxymap unix - - n - - proxymap",
    "proxywrite unix - - n - 1 proxymap",
    "smtp unix - - n - 100 smtp",
    "relay unix - - n - 100 smtp",
    // Mail to other cells, see `transport`: their names are those of Services, and they have no certificates. They
    // know their domains some time later or earlier than this one; what they refuse is tried again, as is what
    // virtual(8) refuses.
    "cell unix - - n - 100 smtp\n  \
       -o smtp_host_lookup=native -o smtp_tls_security_level=none\n  \
       -o smtp_delivery_status_filter=$virtual_delivery_status_filter",
    "showq unix n - n - - showq",
    "error unix - - n - 100 error",
    "retry unix - - n - 100 error",
    "discard unix - - n - 100 discard",
    "virtual unix - n n - 100 virtual",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
];

#[cfg(test)]
#[path = "main_cf_test.rs"]
mod main_cf_test;
