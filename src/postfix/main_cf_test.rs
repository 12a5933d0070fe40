use std::collections::BTreeSet;

use super::*;

fn value<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(n, _)| n.trim() == name)
        .map(|(_, value)| value.trim())
        .collect()
}

#[test]
fn defaults_that_would_open_something_are_set_to_nothing() {
    let text = main_cf(&MainCf::new("mx.example.net")).unwrap();
    for name in ["mydestination", "mynetworks", "relay_domains", "local_recipient_maps", "alias_maps"] {
        assert_eq!(value(&text, name), [""], "{name}");
    }
    assert_eq!(value(&text, "smtpd_relay_restrictions"), ["reject_unauth_destination"]);
    assert_eq!(value(&text, "myhostname"), ["mx.example.net"]);
}

#[test]
fn every_table_is_referred_to() {
    let text = main_cf(&MainCf::new("mx.example.net")).unwrap();
    for table in TABLES {
        assert!(text.contains(&format!("cdb:$config_directory/tables/{table}\n")), "{table}");
    }
}

#[test]
fn limits_follow_the_message_size() {
    let text = main_cf(&MainCf { message_size_limit: 1000, ..MainCf::new("mx.example.net") }).unwrap();
    assert_eq!(value(&text, "message_size_limit"), ["1000"]);
    assert_eq!(value(&text, "virtual_mailbox_limit"), ["2000"]);
    assert_eq!(value(&text, "queue_minfree"), ["2000"]);
}

#[test]
fn an_administrators_value_replaces_ours_and_no_name_stands_twice() {
    let parameters: BTreeMap<_, _> =
        ALLOWED_PARAMETERS.iter().map(|name| (name.to_string(), "$myhostname 7".to_string())).collect();
    let text = main_cf(&MainCf { parameters, ..MainCf::new("mx.example.net") }).unwrap();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split_once('=').unwrap().0.trim();
        assert!(seen.insert(name), "{name} stands twice");
    }
    for name in ALLOWED_PARAMETERS {
        assert_eq!(value(&text, name), ["$myhostname 7"]);
    }
}

#[test]
fn what_is_not_on_the_list_is_refused_with_the_list() {
    for name in ["relay_domains", "mynetworks", "virtual_transport", "smtpd_relay_restrictions", "no such"] {
        let parameters = BTreeMap::from([(name.to_string(), "x".to_string())]);
        let error = main_cf(&MainCf { parameters, ..MainCf::new("mx.example.net") }).unwrap_err();
        assert!(error.to_string().contains("smtpd_banner"), "{error}");
    }
}

#[test]
fn a_value_cannot_begin_a_line_of_its_own() {
    for value in ["a\nrelay_domains = static:all", "a\r\nb", "a\0b"] {
        let parameters = BTreeMap::from([("smtpd_banner".to_string(), value.to_string())]);
        let result = main_cf(&MainCf { parameters, ..MainCf::new("mx.example.net") });
        assert_eq!(result, Err(MainCfError::ControlCharacter("smtpd_banner".into())));
    }
}

#[test]
fn a_host_name_cannot_set_another_parameter() {
    for name in ["mx", "mx.example.net\nrelay_domains = static:all", "$x.y", "", ".a.b"] {
        assert!(matches!(main_cf(&MainCf::new(name)), Err(MainCfError::Hostname(_))), "{name}");
    }
}

#[test]
fn the_probe_listener_differs_from_the_public_one_in_error_limits_and_its_cleanup_alone() {
    let text = master_cf(false);
    let services: Vec<String> = text.replace("\n  ", " ").lines().map(str::to_owned).collect();
    let probe = services.iter().find(|line| line.starts_with(PROBE_LISTENER)).unwrap();
    let (service, options) = probe.split_once(" -o ").unwrap();
    assert_eq!(service, format!("{PROBE_LISTENER} inet n - n - - smtpd"));
    assert!(services.contains(&"smtp inet n - n - - smtpd".to_string()));
    for option in options.split(" -o ") {
        let name = option.trim().split('=').next().unwrap();
        let others = ["smtpd_junk_command_limit", "cleanup_service_name"];
        assert!(name.contains("error") || others.contains(&name), "{name}");
    }
    // Which differs in how long it waits.
    assert!(services.contains(&"cleanup unix n - n - 0 cleanup".to_string()));
    assert!(services.contains(&"probe unix n - n - 0 cleanup -o in_flow_delay=0".to_string()));
}

/// `default_process_limit` is for sessions, and as many deliveries would not fit into the pod's memory.
#[test]
fn what_delivers_has_a_limit_of_its_own() {
    let text = master_cf(true);
    let services = text.lines().filter(|line| !line.starts_with(['#', ' ']));
    let unlimited: BTreeSet<&str> = services
        .filter(|line| line.split(' ').nth(6) == Some("-"))
        .map(|line| line.split(' ').nth(7).unwrap())
        .collect();
    assert_eq!(unlimited, BTreeSet::from(["proxymap", "showq", "smtpd", "trivial-rewrite"]));
}

#[test]
fn nothing_runs_in_a_chroot() {
    for line in master_cf(false).lines().filter(|line| !line.starts_with(['#', ' '])) {
        assert_eq!(line.split(' ').nth(4), Some("n"), "{line}");
    }
}
