//! The few changes that the agent makes to a revision's `main.cf` and `master.cf` (pure).
//!
//! Both files consist of logical lines: a line that begins with white space continues the one before;
//! empty lines and comments do not count (postconf(5), master(5)).

use crate::postfix::main_cf::PROBE_LISTENER;

/// What unknown destinations and recipients are answered while a cell is filled from nothing: a
/// temporary refusal, since what is missing may only not have arrived yet.
pub const SETTLE: [(&str, &str); 3] = [
    ("smtpd_relay_restrictions", "defer_unauth_destination"),
    ("unknown_virtual_mailbox_reject_code", "450"),
    ("unknown_virtual_alias_reject_code", "450"),
];

/// `main.cf` with these parameters set, each exactly once: Postfix warns of a parameter that stands twice.
pub fn set_parameters(main_cf: &str, parameters: &[(&str, String)]) -> String {
    let keep = |first: &str| {
        let name = first.split('=').next().unwrap_or_default().trim();
        !parameters.iter().any(|(set, _)| *set == name)
    };
    let mut text = keep_logical_lines(main_cf, keep);
    for (name, value) in parameters {
        text.push_str(format!("{name} = {value}").trim_end());
        text.push('\n');
    }
    text
}

/// `master.cf` without network listeners other than the proof's own: what serves while nobody has asked
/// yet whether it relays.
pub fn without_public_listeners(master_cf: &str) -> String {
    keep_logical_lines(master_cf, |first| {
        let mut fields = first.split_whitespace();
        let (service, kind) = (fields.next(), fields.next());
        kind != Some("inet") || service == Some(PROBE_LISTENER)
    })
}

/// `master.cf` where the proof's listener greets with `mark`: a session that begins with it talks to a
/// process that was started after Postfix had read this very file.
pub fn mark_probe_listener(master_cf: &str, mark: &str) -> String {
    let mut result = String::with_capacity(master_cf.len() + 64);
    for line in master_cf.lines() {
        result.push_str(line);
        if line.split_whitespace().next() == Some(PROBE_LISTENER) && !line.starts_with([' ', '\t']) {
            result.push_str(&format!(" -o smtpd_banner={mark}"));
        }
        result.push('\n');
    }
    result
}

/// `master.cf` where virtual(8), and no other program, looks for mailboxes in these maps.
pub fn deliver_from(master_cf: &str, maps: &str) -> String {
    let mut result = String::with_capacity(master_cf.len() + 128);
    for line in master_cf.lines() {
        result.push_str(line);
        if !line.starts_with([' ', '\t', '#']) && line.split_whitespace().nth(7) == Some("virtual") {
            result.push_str(&format!(" -o virtual_mailbox_maps={maps}"));
        }
        result.push('\n');
    }
    result
}

/// Whether `master.cf` has the listener that the proof talks to.
pub fn has_probe_listener(master_cf: &str) -> bool {
    let mut found = false;
    keep_logical_lines(master_cf, |first| {
        let mut fields = first.split_whitespace();
        found |= fields.next() == Some(PROBE_LISTENER) && fields.next() == Some("inet");
        true
    });
    found
}

/// The program of each service in `master.cf`, with its arguments.
pub fn services(master_cf: &str) -> Vec<(String, Vec<String>)> {
    let service = |line: String| {
        let mut words = line.split_whitespace().skip(7).map(str::to_owned);
        Some((words.next()?, words.collect()))
    };
    logical_lines(master_cf).into_iter().filter_map(service).collect()
}

/// What `main.cf` sets, in its order.
pub fn parameters(main_cf: &str) -> Vec<(String, String)> {
    let parameter = |line: String| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    logical_lines(main_cf).into_iter().filter_map(parameter).collect()
}

fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match lines.last_mut().filter(|_| line.starts_with([' ', '\t'])) {
            Some(last) => last.push_str(line),
            None => lines.push(line.to_owned()),
        }
    }
    lines
}

fn keep_logical_lines(text: &str, mut keep: impl FnMut(&str) -> bool) -> String {
    let mut result = String::with_capacity(text.len());
    let mut keeping = true;
    for line in text.lines() {
        let begins = !line.trim().is_empty() && !line.starts_with('#') && !line.starts_with([' ', '\t']);
        if begins {
            keeping = keep(line);
        }
        if keeping || line.starts_with('#') {
            result.push_str(line);
            result.push('\n');
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_replaced_with_all_its_lines() {
        let before = "a = 1\n  2\n# about b\n\n 3\nb = 4\nab = 5\n";
        let after = set_parameters(before, &[("a", "9".into()), ("c", String::new())]);
        assert_eq!(after, "# about b\nb = 4\nab = 5\na = 9\nc =\n");
    }

    #[test]
    fn an_unfinished_last_line_does_not_swallow_what_is_set() {
        assert_eq!(set_parameters("a = 1", &[("b", "2".into())]), "a = 1\nb = 2\n");
    }

    #[test]
    fn lines_are_read_as_postfix_reads_them() {
        let text = "# about a\na = 1\n\n  2\n# b = 3\nc=\n";
        assert_eq!(parameters(text), [("a".into(), "1  2".into()), ("c".into(), String::new())]);
        let of = |name: &str| {
            let services = services(&crate::postfix::main_cf::master_cf(false));
            services
                .into_iter()
                .filter(|(program, _)| program == name)
                .map(|(_, rest)| rest)
                .collect::<Vec<_>>()
        };
        assert_eq!((of("virtual"), of("smtpd").len(), of("smtp").len()), (vec![vec![]], 2, 3));
        assert_eq!(of("smtpd")[1][..2], ["-o", "smtpd_soft_error_limit=100000"]);
    }

    #[test]
    fn only_virtual_has_another_table() {
        let master = crate::postfix::main_cf::master_cf(true);
        let edited = deliver_from(&master, "cdb:a,cdb:b");
        let added: Vec<_> =
            edited.lines().filter(|line| !master.lines().any(|known| known == *line)).collect();
        assert_eq!(added, ["virtual unix - n n - 100 virtual -o virtual_mailbox_maps=cdb:a,cdb:b"]);
    }

    #[test]
    fn only_the_probe_listener_is_left_of_the_network() {
        let full = crate::postfix::main_cf::master_cf(true) + "submission inet n - n - - smtpd\n  -o x=y\n";
        let private = without_public_listeners(&full);
        let inet: Vec<_> = private.lines().filter(|line| line.contains(" inet ")).collect();
        assert_eq!(inet.len(), 1, "{private}");
        assert!(inet[0].starts_with(PROBE_LISTENER));
        assert!(private.contains("\n  -o smtpd_soft_error_limit"), "{private}");
        assert!(!private.contains("x=y"), "{private}");
        assert!(private.contains("\nvirtual unix"), "{private}");
        assert_eq!(mark_probe_listener(&full, "m-1").matches(" -o smtpd_banner=m-1\n").count(), 1);
        assert!(has_probe_listener(&private) && !has_probe_listener("smtp inet n - n - - smtpd\n"));
    }
}
