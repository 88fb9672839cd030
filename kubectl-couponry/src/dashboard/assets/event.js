// One event: its figures, plots, conditions, checks and buttons.

import { ChangeDialog, request } from "/change.js";
import { Plot } from "/plot.js";
import { verdict } from "/verdict.js";
import { at, bar, count, discount, duration, element, kind, percent, rate, seconds, setChildren, setText, stock, stockBar, timeOfDay, timer, words } from "/words.js";

const REFRESH_INTERVAL = 5000;
const CHECK_TIMEOUT = 70_000;
const MAX_UNRESPONSIVE_PODS = 5;
const byId = (id) => document.getElementById(id);

const OUTCOMES = {
  issued: "issued", duplicate: "already had a coupon", sold_out: "sold out", not_started: "not started", ended: "ended",
  wait: "waiting for admission", paused: "paused", voided: "coupon voided", unverified: "Redis unverified", undecodable: "undecodable",
  unknown_event: "unknown event", unknown_outcome: "outcome unknown (503)", overloaded: "overloaded (503)",
};
const FAILURES = ["unverified", "undecodable", "unknown_outcome", "overloaded"];

/** Classes of the results of the check. */
const MARKS = { OK: "good", WARN: "warning", FAIL: "bad" };

const row = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

export class EventView {
  constructor(model) {
    this.model = model;
    this.issuedPlot = new Plot(byId("issued-plot"), { label: "Issued per second", series: ["coupons per second"], format: rate });
    this.latencyPlot = new Plot(byId("latency-plot"), { label: "Latency of issuers", series: ["median", "99th percentile"], format: seconds });
    this.dialog = new ChangeDialog();
    for (const button of byId("actions").children) {
      button.addEventListener("click", () => this.dialog.ask(button.dataset.action, this.last));
    }
    byId("check").addEventListener("click", () => this.check());
    setInterval(() => this.refresh(), REFRESH_INTERVAL);
  }

  select(name) {
    this.dialog.close();
    Object.assign(this, { name, last: null });
    this.refresh();
  }

  async refresh() {
    const { name } = this;
    if (!name || document.hidden) return;
    try {
      const found = await request(`/api/events/${encodeURIComponent(name)}`);
      if (name === this.name) this.renderKubernetesEvents(found.kubernetesEvents);
    } catch {
      // The notices report a lost contact.
    }
  }

  render(name) {
    const current = this.model.events.get(name);
    // A deleted event is shown as it was.
    this.last = current ?? this.last;
    const event = this.last;
    const isGone = !current && this.model.isConnected;
    byId("gone").hidden = !isGone;
    if (isGone) setText(byId("gone"), event ? `${name} was deleted. This is what it was before.` : `The namespace has no event ${name}.`);
    setText(byId("event-title").firstChild, name);
    byId("event").classList.toggle("unknown", !event);
    if (!event) return;
    this.renderHead(event, Boolean(current));
    if (event.error) return;
    this.renderFigures(event);
    this.renderStock(event);
    this.renderConditions(event);
    this.renderPlots(event);
    this.renderInstallation();
  }

  renderHead(event, exists) {
    setText(byId("event-state"), words(event.state));
    byId("event-state").className = `badge ${kind(event)}`;
    const [label, span] = timer(event, this.model.now());
    setChildren(byId("event-timer"), span ? [element("span", {}, label), element("strong", {}, span)] : [element("span", {}, label)]);
    const times = [["from", event.startTime], ["until", event.endTime]].filter(([, time]) => time).map(([word, time]) => `${word} ${at(time)}`);
    setText(byId("event-about"), event.error ?? [event.policyName, ...times].join(" · "));
    const can = {
      pause: event.issuance === "Auto", resume: event.issuance === "Paused",
      topup: event.issuance !== "Closed", close: event.issuance !== "Closed",
    };
    for (const button of byId("actions").children) button.disabled = !exists || Boolean(event.error) || event.isDeleting || !can[button.dataset.action];
  }

  renderFigures(event) {
    const { total, issued, available, unrecorded } = stock(event);
    const figure = (name, value, note) => element("div", {}, element("dt", {}, name), element("dd", {}, element("strong", {}, value), element("span", {}, note)));
    const figures = [
      figure("Issued", count(issued), `of ${count(total)} · ${percent(issued, total)}`),
      figure("Available", count(available), percent(available, total)),
      figure("Per second", rate(this.model.rate(event.name)), this.rateNote()),
      figure("Not recorded yet", count(unrecorded), "in Postgres"),
    ];
    if (event.redeemed != null) figures.push(figure("Redeemed", count(event.redeemed), percent(event.redeemed, issued)));
    setChildren(byId("figures"), figures);
    const sample = this.model.sample();
    setText(byId("figures-source"), `Counts: status of the event, received at ${timeOfDay(event.receivedAt)}. `
      + (sample ? `Per second: metrics of the issuers, at ${timeOfDay(sample.at)}.` : "Per second: no current metrics of the issuers."));
  }

  /** What the rate covers. */
  rateNote() {
    const sample = this.model.sample();
    if (!sample || sample.issuers.rated === 0) return "unknown: no metrics of issuers";
    const { rated, running } = sample.issuers;
    return rated < running ? `of ${count(rated)} of ${count(running)} issuers` : "coupons issued now";
  }

  renderStock(event) {
    const { total, recorded, unrecorded, available, withheld } = stock(event);
    const entry = (part, name, value) => element("span", {}, element("span", { class: `key part-${part}` }), `${name} `, element("strong", {}, count(value)));
    const entries = [entry("recorded", "issued and recorded", recorded), entry("unrecorded", "issued, not recorded yet", unrecorded), entry("available", "available", available)];
    if (withheld > 0) entries.push(entry("withheld", "withheld", withheld));
    const missing = total - recorded - unrecorded - available - withheld;
    if (missing > 0) entries.push(entry("missing", "not loaded yet", missing));
    setChildren(byId("stock"), [stockBar(event), element("p", { class: "legend" }, ...entries)]);
    const names = event.discounts.map((it) => discount(it, event.currency));
    const label = event.discounts.map((it, index) => `${count(it.count)} with ${names[index]}`).join(", ");
    const parts = event.discounts.map((it, index) => [`discount-${index % 6}`, it.count]);
    const legend = event.discounts.map((it, index) => entry(`discount-${index % 6}`, names[index], it.count));
    setChildren(byId("discounts"), [bar(parts, total, label), element("p", { class: "legend" }, ...legend)]);
  }

  renderConditions(event) {
    const item = ({ health, type, reason, message, since }) => element("li", { class: health },
      element("p", {}, element("strong", {}, words(type)), ` ${words(reason)} `, element("span", { class: "muted" }, `for ${duration(this.model.now() - since)}`)),
      element("p", { class: "muted", dir: "auto" }, message));
    const conditions = event.conditions.filter(({ type, health }) => type !== "Stalled" || health !== "good");
    const none = element("li", { class: "bad" }, "No operator has observed this event yet.");
    setChildren(byId("conditions"), conditions.length > 0 ? conditions.map(item) : [none]);
    this.renderGo(event);
  }

  renderGo(event) {
    const { kind: kindOf, text, list } = verdict(event, this.model, this.checked);
    setChildren(byId("go-list"), list.map(([mark, line]) => element("li", { class: mark }, line)));
    byId("verdict").className = `verdict ${kindOf}`;
    setText(byId("verdict"), text);
  }

  renderPlots(event) {
    const { samples } = this.model;
    const now = this.model.now();
    this.issuedPlot.update([samples.map((sample) => [sample.at, this.model.rateIn(sample, event.name)])], now);
    this.latencyPlot.update(["p50", "p99"].map((key) => samples.map((sample) => [sample.at, sample[key]])), now);
  }

  renderInstallation() {
    this.renderPods();
    const sample = this.model.sample();
    if (!sample || sample.issuers.rated === 0) {
      const last = this.model.samples.findLast(({ issuers }) => issuers.rated > 0);
      const none = `No current metrics of issuers${last ? `; the last ones are those of ${timeOfDay(last.at)}` : ""}.`;
      setChildren(byId("outcomes"), [element("p", { class: "muted" }, none)]);
    } else {
      this.renderOutcomes(sample);
    }
    const rated = sample?.issuers.rated > 0 ? sample : null;
    const issuers = this.model.pods.filter(({ component }) => component === "issuer");
    const ready = sample?.issuersReady ?? issuers.filter(({ isReady }) => isReady).length;
    setChildren(byId("pipeline"), [
      row("Errors (5xx) per second", rate(rated?.errors)),
      row("Outbox entries in flight", count(sample?.outbox)),
      row("Consumer lag, records", count(sample?.lag)),
      row("Recorded per second", rate(sample?.recorded)),
      row("Issuers ready", count(ready)),
      row("Issuers required", sample?.issuersRequired ? `${count(sample.issuersRequired)} or more` : "–"),
    ]);
  }

  /** The pods that do not contribute, with the age of what was read from them. */
  renderPods() {
    const now = this.model.now();
    const unresponsive = this.model.pods.filter(({ isRunning, readAt }) => isRunning && !(now - readAt < this.model.freshMillis));
    const line = ({ name, readAt }) => element("li", { class: "warning" }, `${name}: `, readAt ? `no metrics for ${duration(now - readAt)}` : "no metrics yet");
    setChildren(byId("unresponsive-pods"), unresponsive.slice(0, MAX_UNRESPONSIVE_PODS).map(line));
  }

  renderOutcomes(sample) {
    const outcomes = Object.entries(sample.outcomes).filter(([, value]) => value > 0).sort(([, a], [, b]) => b - a);
    const highest = Math.max(1, ...outcomes.map(([, value]) => value));
    const line = ([name, value]) => element("div", { class: "outcome" }, element("span", {}, OUTCOMES[name] ?? name),
      element("strong", {}, rate(value)), bar([[FAILURES.includes(name) ? "failed" : "recorded", value]], highest, `${rate(value)} per second`));
    setChildren(byId("outcomes"), outcomes.length > 0 ? outcomes.map(line) : [element("p", { class: "muted" }, "No requests at the moment.")]);
  }

  renderKubernetesEvents(events) {
    const problem = this.model.sources.kubernetesEvents?.problem;
    byId("kubernetes-events-problem").hidden = !problem && events.length > 0;
    setText(byId("kubernetes-events-problem"), problem ? `${problem}.` : "None in the last hour.");
    setChildren(byId("kubernetes-events"), events.map((entry) => element("li", { class: entry.isWarning ? "bad" : undefined },
      element("span", { class: "muted" }, entry.at ? timeOfDay(entry.at) : ""), element("strong", {}, words(entry.reason)), element("span", { dir: "auto" }, entry.message))));
  }

  async check() {
    const button = byId("check");
    button.disabled = true;
    setText(byId("check-time"), "Running…");
    try {
      const results = await request("/api/check", {}, CHECK_TIMEOUT);
      this.checked = { at: this.model.now(), results };
      const item = ({ severity, about, found, advice }) => element("li", { class: MARKS[severity] }, element("p", {}, element("strong", {}, about), ` ${found}`),
        advice ? element("p", { class: "muted" }, `→ ${advice}`) : "");
      setChildren(byId("check-result"), [element("ul", { class: "marks" }, ...results.map(item))]);
      setText(byId("check-time"), `at ${timeOfDay(this.checked.at)}`);
    } catch (error) {
      this.checked = { at: this.model.now(), error: error.message };
      setChildren(byId("check-result"), [element("p", { class: "notice warn" }, `The check could not run: ${error.message}`)]);
      setText(byId("check-time"), "");
    }
    button.disabled = false;
    if (this.last && !this.last.error) this.renderGo(this.last);
  }
}
