//! The reference page of metrics.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};

/// The programs. Each registers its own metrics in `src/metrics.rs`.
const PROGRAMS: [&str; 4] = ["operator", "issuer", "consumer", "redeemer"];
/// Metrics of every program.
const SHARED: &str = "libs/runtime/src/health.rs";

/// Reads the registrations from the source code: programs cannot start without servers, and a registry omits metrics
/// without values.
pub(super) fn generate(read: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut page = String::from("Metrics of `/metrics` on the monitor port of each program.\n");
    for program in PROGRAMS {
        let _ = write!(page, "\n## {program}\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
        for file in [&format!("{program}/src/metrics.rs"), SHARED] {
            let source = read(file)?;
            let source = source.split("#[cfg(test)]").next().unwrap_or_default();
            let metrics = metrics(program, source).with_context(|| format!("cannot read the metrics of {file}"))?;
            ensure!(!metrics.is_empty(), "no metrics found in {file}");
            for Metric { name, kind, labels, help } in metrics {
                ensure!(!help.contains(['\n', '|', '\\']), "the help text of {name} breaks its table: {help:?}");
                let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
                let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
            }
        }
    }
    Ok(page)
}

#[derive(Debug, PartialEq, Eq)]
struct Metric {
    name: String,
    kind: &'static str,
    labels: Vec<String>,
    help: String,
}

/// A registration is two adjacent string literals, name and help, an optional unit, and the field with the metric.
fn metrics(program: &str, source: &str) -> Result<Vec<Metric>> {
    let types = types(source);
    let literals: Vec<(usize, &str)> = source.match_indices('"').collect();
    let mut metrics = Vec::new();
    for quotes in literals.chunks_exact(2).collect::<Vec<_>>().windows(2) {
        let ([(start, _), (end, _)], [(help_start, _), (help_end, _)]) = (quotes[0], quotes[1]) else { continue };
        let (name, help) = (&source[start + 1..*end], &source[help_start + 1..*help_end]);
        // Adjacent labels are not a registration: a help text is a sentence.
        if source[end + 1..*help_start].trim() != "," || !help.contains(' ') {
            continue;
        }
        let rest = source[help_end + 1..].split([')', ';']).next().unwrap_or_default();
        let has_seconds = rest.contains("Unit::Seconds");
        let field = rest.split([',', '.', '(']).map(str::trim).rfind(|part| !matches!(*part, "" | "clone"));
        let field = field.with_context(|| format!("{name} has no field"))?;
        let definition = types.get(field).with_context(|| format!("the field {field} has no type"))?;
        let kind = ["Counter", "Gauge", "Histogram"].into_iter().find(|kind| definition.contains(kind));
        let kind = kind.with_context(|| format!("{name} has an unknown type: {definition}"))?;
        let unit = if has_seconds { "_seconds" } else { "" };
        let suffix = if kind == "Counter" { "_total" } else { "" };
        metrics.push(Metric {
            name: format!("couponry_{program}_{name}{unit}{suffix}"),
            kind: match kind {
                "Counter" => "counter",
                "Gauge" => "gauge",
                _ => "histogram",
            },
            labels: labels(source, definition),
            help: join_continuations(help),
        });
    }
    Ok(metrics)
}

/// The text of a string literal whose lines end with a backslash.
fn join_continuations(literal: &str) -> String {
    let mut lines = literal.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

/// The types of fields and local variables, with the definitions of type aliases.
fn types(source: &str) -> BTreeMap<&str, String> {
    let aliases: Vec<(&str, &str)> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("type ")?.strip_suffix(';')?.split_once(" = "))
        .collect();
    let mut types = BTreeMap::new();
    for line in source.lines() {
        let line = line.trim().trim_start_matches("pub(crate) ").trim_end_matches(',');
        let Some((name, definition)) = line.split_once(": ") else { continue };
        let alias = aliases.iter().find(|(alias, _)| *alias == definition).map(|(_, definition)| *definition);
        let definition = alias.unwrap_or(definition);
        if ["Counter", "Gauge", "Histogram"].iter().any(|kind| definition.contains(kind)) {
            types.entry(name).or_insert_with(|| definition.to_owned());
        }
    }
    types
}

/// The fields of the label struct in `Family<Labels, _>`.
fn labels(source: &str, definition: &str) -> Vec<String> {
    let Some(name) = definition.strip_prefix("Family<").and_then(|rest| rest.split(',').next()) else {
        return Vec::new();
    };
    let body = source.split(&format!("struct {name} {{")).nth(1).and_then(|rest| rest.split('}').next());
    let fields = body.unwrap_or_default().lines().filter_map(|line| line.trim().split_once(": "));
    fields.map(|(name, _)| name.trim_start_matches("pub(crate) ").to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Metric, metrics};

    #[test]
    fn registrations_are_read_with_type_and_labels() {
        let source = r#"
struct Labels {
    event: String,
}
type EventGauge = Family<Labels, Gauge>;
const REASONS: [&str; 2] = ["unknown", "late"];
struct Metrics {
    pub(crate) sent: Counter,
    balance: EventGauge,
    duration: Histogram,
    age: Gauge<f64, AtomicU64>,
}
fn register() {
    registry.register("sent", "Sent records", metrics.sent.clone());
    registry.register_with_unit("duration", "Time of a request", Unit::Seconds, duration);
    [("balance", "Coupons, by event", balance)];
    registry.register_with_unit(
        "age",
        "Age of the first record; 0 \
         without one",
        Unit::Seconds,
        age,
    );
}
"#;
        let metric = |name: &str, kind, labels: &[&str], help: &str| Metric {
            name: format!("couponry_issuer_{name}"),
            kind,
            labels: labels.iter().map(ToString::to_string).collect(),
            help: help.to_owned(),
        };
        let expected = [
            metric("sent_total", "counter", &[], "Sent records"),
            metric("duration_seconds", "histogram", &[], "Time of a request"),
            metric("balance", "gauge", &["event"], "Coupons, by event"),
            metric("age_seconds", "gauge", &[], "Age of the first record; 0 without one"),
        ];
        assert_eq!(metrics("issuer", source).unwrap(), expected);
    }
}
