//! The vocabulary of the project (docs/glossary.md): words which it replaces, and sentence patterns which it avoids.

use regex::{Regex, RegexBuilder};

use crate::files;

/// Files which quote old words, or whose text is not ours.
const SKIPPED_FILES: [&str; 6] = [
    "CHANGELOG.md",
    "docs/glossary.md",
    "LICENSE",
    "tools/xtask/tests/sources/vocabulary.rs",
    "Cargo.lock",
    "fuzz/Cargo.lock",
];

const EXTENSIONS: [&str; 16] =
    ["rs", "md", "lua", "sql", "yaml", "yml", "tpl", "txt", "toml", "json", "js", "ts", "html", "css", "py", "c"];

/// A pattern, its replacement, and where it is allowed.
struct Rule {
    pattern: &'static str,
    replacement: &'static str,
    /// Regexes of the text around a match (path and line) in which the match is allowed, each with the reason.
    exceptions: &'static [(&'static str, &'static str)],
}

const fn rule(pattern: &'static str, replacement: &'static str) -> Rule {
    Rule { pattern, replacement, exceptions: &[] }
}

const fn rule_except(
    pattern: &'static str,
    replacement: &'static str,
    exceptions: &'static [(&'static str, &'static str)],
) -> Rule {
    Rule { pattern, replacement, exceptions }
}

/// One word for one thing.
const WORDS: &[Rule] = &[
    rule(r"\b(stocked|coupons? (is|are|was|were|be) made)\b", "generated"),
    rule(r"\bpreloaded\b", "loaded (in Redis) or generated (in Postgres)"),
    rule_except(
        r"\b[Rr]emaining\b",
        "available",
        &[
            (r#"["`]remaining|\bremaining:|\.remaining\b"#, "the field of the HTTP API"),
            (r"[Rr]emaining ([a-bd-rt-z]|co[^u]|c[^o]|s[^t])|[Rr]emaining$", "not coupons"),
            (r"^libs/domain/src/allocation", "coupons of a remainder"),
            (r"let remaining|= remaining|\(remaining|\bremaining[?)]", "a variable which does not count coupons"),
        ],
    ),
    rule_except(
        r"\bcoupons?( \w+)? (is|are|was|were|be|been) (given|told|taken|held)\b",
        "issued",
        &[(r"\bheld back\b", "the coupons of a later drop")],
    ),
    rule(r"\b([Pp]ersisted|caught up)\b", "recorded"),
    rule_except(
        r"\bsettled?\b",
        "recorded, recovered",
        &[(
            r"^(adapters/redis|consumer|issuer/tests)/|[Ss]ettle\.|\bsettle\(|\bsettle[;:,`]|`settle|[Dd]rain, settle",
            "the script settle.lua and its callers",
        )],
    ),
    rule_except(
        r"\b[Ww]hole\b",
        "complete, all; verified (Redis)",
        &[(r"[Ww]hole (number|percent|second|minute|unit)", "an integer"), (r"as a whole\b", "an idiom")],
    ),
    rule(r"\b([Bb]elieved|adopt(s|ed|ion)?|Adopted)\b", "verified; taken over"),
    rule_except(
        r"\b([Ee]dition|server_token)\b",
        "stock epoch",
        &[
            (r"(Cargo|rustfmt)\.toml:", "the edition of Rust"),
            (r"--edition|edition = |[Ee]dition 20", "the edition of Rust"),
        ],
    ),
    rule(r"\b[Oo]vertaken\b", "fenced, stale, superseded"),
    rule(r"\b(sealed_before|unsealed|[Ss]eal(s|ed|ing)?)\b", "record cutoff"),
    rule(r"\b(Notices|notices\.rs)\b", "KubeEvent, kube_events.rs"),
    rule(r"\bstory\b", "Kubernetes Event; scenario"),
    rule_except(
        r"\b[Ss]ales?\b",
        "event",
        &[
            (r"(Summer|Autumn|Winter|Brief) (<b>|<|&lt;)?sale|\bSale\b", "names of promotions"),
            (r"^adapters/postgres/|adapters/postgres/src/sale\.rs", "names of types and files"),
        ],
    ),
    rule(r"\b[Cc]lash(es|ed|ing)?\b", "overlap, conflict"),
];

/// Names of types, functions and files which were replaced.
const NAMES: &[Rule] = &[
    rule(r"\b[Ff]arewell\b", "namespace_cleanup; uninstall"),
    rule(r"\barrival\.rs\b", "drain.rs"),
    rule(r"\bWanted\b|wanted\.rs", "DesiredState; RequiredProgram"),
    rule(r"\b(Seen|Rival|Obstacle|Hindrance)\b", "ObservedState, NameConflict, Blocker"),
    rule(r"\bPlan::(Do|Rest|Stuck)\b", "Plan::{Apply, Done, Blocked}"),
    rule_except(
        r"\b(Reporter|Promise)\b",
        "StatusWriter, DurabilityReport",
        &[(r"\.(js|ts):", "a type of JavaScript")],
    ),
    rule(r"\b([Ss]ightings?|give_up|Asked)\b", "ObservedLease, recent_events; release; ScalingReport"),
    rule(r"\b(Told|KeysAway)\b|identity/document\.rs", "Decided; JwksUnavailable; openapi.rs"),
    rule(
        r"\b([Bb]ury|[Bb]uries|[Bb]uried|Garbage|UNDER_WAY|patiently|PATIENCE)\b",
        "send_to_dlq, undecodable, FollowUps, MAX_IN_FLIGHT_BATCHES, retry_until_ok, _TIMEOUT",
    ),
    rule_except(r"\bConsequences\b", "FollowUps", &[(r"\.md:", "a section of decision records")]),
    rule(
        r"\b(Paced|left_behind|second_look)\b|\b(lasting|meaning|untrusted|prints|pace)\.rs\b",
        "head_timeout, recreating_producer, TopicReader, list_unconfirmed, recheck, conversions, fuzz_targets, FingerprintSet",
    ),
    rule(r"\b(EventId|LedgerError|Ledger)\b", "EventName, DatabaseError, Database"),
    rule(
        r"\b([Dd]eeds?|[Dd]ice|[Rr]uins|[Cc]rowd|Hands|Crew|Beside)\b",
        "inject, rng, cleanup, workload, Holders, Workers, ClusterBackends",
    ),
    rule(
        r"\b(adopt[-_]after|redis[-_]settle|max[-_]waiting|batch[-_]linger(`| |=|,|$))",
        "--outbox-takeover-seconds, --redis-recovery-grace-seconds, --max-queued-requests, unit suffix",
    ),
    rule(r"drain[-_]timeout|drainTimeout|balance_difference", "--deletion-timeout-seconds; balance_mismatch"),
    rule(
        r"\b(AddsUp|SettingsHidden|Unreadable|NameTaken|LeftBehind)\b",
        "CountsMatch, SettingsUnavailable, InvalidObject, NameConflict, CleanupIncomplete",
    ),
    rule(
        r"(issuers_floor|coupons_made|reconciliations(_total|\{)|identity_refused|[^_]request_seconds|batch_seconds)\b",
        "issuer_min_replicas, coupons_generated_total, reconcile_total, authentication_failures_total, issue_request_duration_seconds, batch_processing_duration_seconds",
    ),
    rule(
        r"\b(Couponry)?(ProgramDown|Unbalanced|Unrecorded|UnknownOutcomes)\b",
        "TargetDown, InventoryMismatch, RecordingStalled, HighErrorRate",
    ),
];

/// Sentence patterns: the subject is a component, a request or a record.
const PATTERNS: &[Rule] = &[
    rule_except(
        r"\b([Nn]obody|[Ww]hoever)\b",
        "name the component or the user",
        &[(r#""nobody"|//nobody:"#, "a name of a user")],
    ),
    rule(r"\b[Hh]ears?\b", "receives"),
    rule_except(
        r"\b(is|are|was|were|be|been) told\b|\b[Tt]ells? (of|so|its|it|how|whether|which|what|when|why|who)\b",
        "receives, is notified; returns, reports",
        &[(r"\btold apart\b", "an idiom")],
    ),
    rule_except(
        r"\b[Ww]ho (asks?|waits?|has|have|may|can|sends?|holds?|speaks?|reads?|writes?|gets?)\b",
        "a client which .., users with ..",
        &[(
            r"\b([Uu]sers?|administrators?|[Ee]veryone|anyone|people|those|all|callers?|and|or|[Ll]earn),? who\b",
            "a relative clause",
        )],
    ),
    rule(r"\b[Aa]sk(s|ed)? (again|once more)\b", "retry"),
    rule(r"\bstands? in the way\b", "blocks"),
    rule(
        r"\b(in (their|its|his) hands|gets on|got on with|is there again|(have|has) begun|makes? sense of)\b",
        "has, continues, is available again, has started, parses",
    ),
    rule(r"\b[Ss]ays? (so|that|how|what|whether|which|nothing)\b", "returns, reports, specifies"),
    rule_except(r"\bis no [a-z]+", "is not a ..", &[(r"\b[Tt]here is no\b|\bis no (longer|more)\b", "idioms")]),
    rule(r"\b(neither )?yes (or|nor) (a )?no\b", "the outcome is unknown"),
    rule(r"\bare nowhere\b", "are missing"),
    rule(r"\b([Ll]ooks|[Ll]ooking|[Ll]ooked) (at|into)\b|\bat a glance\b", "reads, checks, observes"),
    rule(r"\blets go\b|\bholds on\b", "deletes, acknowledges"),
    rule(r"^\s*(///?|//!|#|--|\*)?\s*What ([a-z]+ ){1,6}(is|are|was|were)\b", "start with the subject"),
    rule(r"\bwhat (is|was) given\b", "the argument"),
];

#[test]
fn replaced_words_and_sentence_patterns_do_not_occur() {
    let rules: Vec<_> = WORDS.iter().chain(NAMES).chain(PATTERNS).map(Matcher::new).collect();
    let mut errors = Vec::new();
    for file in files::all() {
        if SKIPPED_FILES.contains(&file.path.as_str()) || !is_checked(&file) {
            continue;
        }
        for rule in &rules {
            if let Some(found) = rule.find(&file.path, &file.path) {
                errors.push(format!("{}: the name has {found:?}: use {}", file.path, rule.replacement));
            }
        }
        // Most rules have no match in a file, and one search per file is faster than one per line.
        let selected: Vec<_> = rules.iter().filter(|rule| rule.pattern.is_match(&file.text)).collect();
        for (number, line) in (1..).zip(file.text.lines()).filter(|_| !selected.is_empty()) {
            for rule in &selected {
                if let Some(found) = rule.find(line, &format!("{}:{line}", file.path)) {
                    let line = line.trim().chars().take(110).collect::<String>();
                    errors.push(format!("{}:{number}: {found:?} -> {}\n    {line}", file.path, rule.replacement));
                }
            }
        }
    }
    assert!(errors.is_empty(), "{} violations of the vocabulary:\n{}", errors.len(), errors.join("\n"));
}

fn is_checked(file: &files::SourceFile) -> bool {
    EXTENSIONS.contains(&file.extension()) || file.path == "Dockerfile" || file.path == ".ci/run"
}

/// A compiled rule.
struct Matcher {
    pattern: Regex,
    exceptions: Vec<Regex>,
    replacement: &'static str,
}

impl Matcher {
    fn new(rule: &Rule) -> Self {
        let exceptions = rule.exceptions.iter().map(|(pattern, reason)| {
            assert!(!reason.is_empty());
            Regex::new(pattern).unwrap()
        });
        Self {
            pattern: RegexBuilder::new(rule.pattern).multi_line(true).build().unwrap(),
            exceptions: exceptions.collect(),
            replacement: rule.replacement,
        }
    }

    /// The match in `text`, unless an exception matches `context`.
    fn find<'a>(&self, text: &'a str, context: &str) -> Option<&'a str> {
        let found = self.pattern.find(text)?;
        (!self.exceptions.iter().any(|exception| exception.is_match(context))).then(|| found.as_str().trim())
    }
}

#[test]
fn rules_match_old_words_but_not_their_exceptions() {
    let find = |line: &str| {
        WORDS.iter().chain(NAMES).chain(PATTERNS).map(Matcher::new).any(|rule| rule.find(line, line).is_some())
    };
    for line in
        ["the whole stock", "who asks hears", "is no path", "the remaining coupons", "EventId", "after the sale"]
    {
        assert!(find(line), "{line}");
    }
    for line in
        ["a whole number", r#"{"remaining": 1}"#, "edition = \"2024\"", "is not a path", "EventName", "Summer sale"]
    {
        assert!(!find(line), "{line}");
    }
}
