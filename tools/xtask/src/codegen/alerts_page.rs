//! The reference page of alerts.

use std::fmt::Write;

use anyhow::{Result, ensure};

pub(super) const SOURCE: &str = "charts/couponry/templates/monitoring/prometheusrule.yaml";

/// Reads the rules of the chart's template line by line: the template is not valid YAML.
pub(super) fn generate(template: &str) -> Result<String> {
    let mut page = String::from(
        "The chart installs these alerts with `metrics.prometheusRule.enabled`. Each name links to its section of the\n\
         [runbook](../operate/runbook.md). N is the measured value.\n\n| Alert | Severity | After | Meaning |\n|---|---|---|---|\n",
    );
    let mut count = 0;
    for rule in template.split("- alert: ").skip(1) {
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            rule.lines().find_map(|line| line.trim().strip_prefix(&prefix)).map(plain_text)
        };
        let name = rule.lines().next().unwrap_or_default();
        let severity = rule.split("severity: ").nth(1).and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let (Some(summary), Some(description)) = (field("summary"), field("description")) else {
            anyhow::bail!("the alert {name} has no summary or no description");
        };
        let duration = field("for").unwrap_or_else(|| "0m".into());
        let anchor = name.to_lowercase();
        let _ = writeln!(
            page,
            "| [`{name}`](../operate/runbook.md#{anchor}) | {severity} | {duration} | **{summary}.** {description} |"
        );
        count += 1;
    }
    ensure!(count > 0, "no alerts found in {SOURCE}");
    Ok(page)
}

/// The text of a value: `{{ print "x {{ $labels.pod }} y" | quote }}` is `x POD y`.
fn plain_text(value: &str) -> String {
    let value = value.strip_prefix("{{ print \"").and_then(|rest| rest.strip_suffix("\" | quote }}")).unwrap_or(value);
    let mut text = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("{{ $") {
        let (expression, after) = after.split_once("}}").unwrap_or((after, ""));
        let name = expression.split_whitespace().next().unwrap_or_default();
        text.push_str(before);
        text.push_str(&name.strip_prefix("labels.").unwrap_or("N").to_uppercase());
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::plain_text;

    #[test]
    fn template_expressions_are_replaced_by_placeholders() {
        assert_eq!(plain_text("as it is"), "as it is");
        let value = r#"{{ print "{{ $value | humanizeDuration }} of {{ $labels.event }}." | quote }}"#;
        assert_eq!(plain_text(value), "N of EVENT.");
    }
}
