//! What a metric is called and means, in one place for the program and for its reference.

use std::fmt::Write as _;

use prometheus_client::registry::{Metric, Registry};

/// Labels of one series: name and value.
pub type Labels = Vec<(&'static str, String)>;

/// One metric, as Prometheus shows it (<https://prometheus.io/docs/practices/naming/>).
#[derive(Debug)]
pub struct Described {
    /// Its name; that of a counter ends with `_total`.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// A sentence.
    pub help: &'static str,
}

impl Described {
    /// Registers `metric` under this name, and gives it back.
    pub fn register<M: Metric + Clone>(&self, registry: &mut Registry, metric: M) -> M {
        // The registry adds what the exposition wants: `_total` to a counter, a full stop to the help.
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        registry.register(name, self.help.trim_end_matches('.'), metric.clone());
        metric
    }
}

/// One constant for each metric, and all of them as `ALL`: constant, name, kind, labels, help.
macro_rules! described {
    ($($constant:ident $name:literal $kind:literal [$($label:literal),*] $help:literal)*) => {
        $(const $constant: $crate::metrics::Described =
            $crate::metrics::Described { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        /// All of them, as in the reference.
        pub const ALL: &[&$crate::metrics::Described] = &[$(&$constant),*];
    };
}
pub(crate) use described;

/// Content type of what [`exposition`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A count as a gauge takes it.
pub fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// All metrics of a registry as text.
pub fn exposition(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String does not fail, and an encoder of ours would be found by its test.
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        tracing::error!("the metrics cannot be written as text");
    }
    text
}

/// docs/metrics.md.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n<!-- Written by `make metrics-reference` from the source; do not edit. -->\n\n\
         Operator and Postfix pods serve them under `/metrics`, without a token, in the text format of OpenMetrics. They hold counts and\n\
         the cell, and no domain, address or revision; those are in the logs. The chart's values `monitoring.podMonitor`,\n\
         `monitoring.prometheusRule` and `monitoring.dashboard` bring them to a Prometheus and a Grafana in the cluster.\n\
         Alerts have a page each in [runbooks](runbooks/README.md).\n",
    );
    let sides = [
        ("Operator, port 8080", crate::operator::metrics::ALL),
        ("Agent in the Postfix pod, port 8025", crate::agent::metrics::ALL),
    ];
    for (side, metrics) in sides {
        let _ = write!(text, "\n## {side}\n\n| metric | kind | labels | what it says |\n|---|---|---|---|\n");
        for metric in metrics {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind) = (metric.name, metric.kind);
            let _ = writeln!(text, "| `{name}` | {kind} | {} | {} |", labels.join(", "), metric.help);
        }
    }
    text
}

/// Holds an exposition against what is described: every described metric is there with its kind and labels, and nothing else.
#[cfg(test)]
pub fn compare(text: &str, described: &[&Described]) {
    use std::collections::{BTreeMap, BTreeSet};
    let of_help: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let full = |line: &str| match line.split_once(' ') {
        Some((name, "counter")) => format!("{name}_total counter"),
        _ => line.to_owned(),
    };
    let found: BTreeSet<String> = of_help.into_iter().map(full).collect();
    let wanted: BTreeSet<String> =
        described.iter().map(|metric| format!("{} {}", metric.name, metric.kind)).collect();
    assert_eq!(found, wanted, "{text}");
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, inside) = series.split_once('{').unwrap_or((series, ""));
        let name =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let names = inside.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once('='));
        let names = names.map(|(name, _)| name.to_owned()).filter(|name| name != "le");
        labels.entry(name.to_owned()).or_default().extend(names);
    }
    for metric in described {
        let wanted: BTreeSet<String> = metric.labels.iter().map(|label| label.to_string()).collect();
        assert_eq!(labels.get(metric.name), Some(&wanted), "{}", metric.name);
    }
}
