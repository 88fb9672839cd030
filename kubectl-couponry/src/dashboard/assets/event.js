// One event: its figures, plots, conditions, checks and buttons.

import { Plot } from "/plot.js";
import { at, bar, count, discount, duration, element, kind, percent, rate, seconds, setChildren, setText, stock, stockBar, timeOfDay, timer, words } from "/words.js";

const REFRESH_INTERVAL = 5000;
const byId = (id) => document.getElementById(id);

const OUTCOMES = {
  issued: "issued", duplicate: "already had a coupon", sold_out: "sold out", not_started: "not started", ended: "ended",
  wait: "waiting for admission", paused: "paused", voided: "coupon voided", unverified: "Redis unverified", undecodable: "undecodable",
  unknown_event: "unknown event", unknown_outcome: "outcome unknown (503)", overloaded: "overloaded (503)",
};
const FAILURES = ["unverified", "undecodable", "unknown_outcome", "overloaded"];

/** Reasons of the condition Scaled outside of the time in which the event requires issuers. */
const NOT_REQUIRED = ["ScalingScheduled", "ScaledDown"];

const DIALOGS = {
  pause: { title: "Pause the event?", text: "Users receive no coupons until the event is resumed. Coupons that they have stay valid.", submit: "Pause" },
  resume: { title: "Resume the event?", text: "Users receive coupons again, between the start and the end of the event.", submit: "Resume" },
  topup: { title: "Add coupons?", text: "The coupons are split over the discounts as before. They cannot be removed again once the event has opened.", submit: "Add coupons" },
  close: { title: "Close the event?", text: "Closing is final: the event ends at once and cannot be reopened.", submit: "Close for good" },
};

async function request(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const text = await response.text();
  let json = {};
  try { json = JSON.parse(text); } catch { json = { error: text }; }
  if (!response.ok) throw new Error(json.error || `status ${response.status}`);
  return json;
}

/** Rates between consecutive counts, at the time of the later one. */
function rates(counts) {
  return counts.slice(1).map(([time, issued], index) => {
    const [before, issuedBefore] = counts[index];
    return [time, Math.max(0, ((issued - issuedBefore) / Math.max(1, time - before)) * 1000)];
  });
}

const row = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

export class EventView {
  constructor(model) {
    this.model = model;
    this.issuedPlot = new Plot(byId("issued-plot"), { label: "Issued per second", series: ["coupons per second"], format: rate });
    this.latencyPlot = new Plot(byId("latency-plot"), { label: "Latency of issuers", series: ["median", "99th percentile"], format: seconds });
    for (const button of byId("actions").children) button.addEventListener("click", () => this.ask(button.dataset.action));
    byId("dialog-form").addEventListener("submit", (event) => this.submit(event));
    byId("dialog-cancel").addEventListener("click", () => byId("dialog").close());
    byId("check").addEventListener("click", () => this.check());
    setInterval(() => this.refresh(), REFRESH_INTERVAL);
  }

  select(name) {
    if (byId("dialog").open) byId("dialog").close();
    Object.assign(this, { name, last: null, history: [] });
    this.refresh();
  }

  async refresh() {
    const { name } = this;
    if (!name) return;
    try {
      const found = await request(`/api/events/${encodeURIComponent(name)}`);
      if (name !== this.name) return;
      this.history = found.counts;
      this.renderKubernetesEvents(found.kubernetesEvents, found.problem);
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
    this.renderPlots();
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
      figure("Per second", rate(this.model.rate(event.name)), "coupons issued now"),
      figure("Not recorded yet", count(unrecorded), "in Postgres"),
    ];
    if (event.redeemed != null) figures.push(figure("Redeemed", count(event.redeemed), percent(event.redeemed, issued)));
    setChildren(byId("figures"), figures);
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

  /** What speaks for and against the start, from the event and its pods. */
  renderGo(event) {
    const find = (condition) => event.conditions.find(({ type }) => type === condition);
    const mark = (condition, bad = "bad") => ({ bad })[find(condition)?.health] ?? find(condition)?.health ?? "unknown";
    const issuers = this.model.pods.filter(({ component }) => component === "issuer");
    const ready = issuers.filter(({ isReady }) => isReady).length;
    const list = [
      [event.isObserved ? "good" : "bad", "The operator has applied the latest change of the manifest"],
      [mark("Stalled"), "The operator can make progress"],
      [mark("Preloaded"), "All coupons are loaded into Redis"],
      [mark("Balanced"), "Redis and Postgres have the same coupons"],
      // A setting of Redis, which its administrator may have chosen.
      [mark("Durable", "warning"), "Issued coupons survive a crash of Redis"],
    ];
    if (this.model.pods.length > 0) list.push([ready > 0 ? "good" : "bad", `${count(ready)} of ${count(issuers.length)} issuers are ready`]);
    const scaled = find("Scaled");
    if (scaled && !NOT_REQUIRED.includes(scaled.reason)) list.push([mark("Scaled"), "As many issuers are ready as the event requires"]);
    for (const result of this.checkResults ?? []) if (result.severity === "FAIL") list.push(["bad", `${result.about}: ${result.found}`]);
    setChildren(byId("go-list"), list.map(([mark, text]) => element("li", { class: mark }, text)));
    const against = list.filter(([mark]) => mark === "bad").length;
    const open = list.filter(([mark]) => mark === "pending" || mark === "unknown").length;
    const [verdict, text] = against > 0 ? ["bad", `No-go: ${against} ${against === 1 ? "point" : "points"} against`]
      : open > 0 ? ["warn", `Wait: ${open} ${open === 1 ? "point is" : "points are"} open`] : ["good", "Go"];
    byId("verdict").className = `verdict ${verdict}`;
    setText(byId("verdict"), text);
  }

  renderPlots() {
    const { samples } = this.model;
    const now = this.model.now();
    this.issuedPlot.update([rates(this.history)], now);
    this.latencyPlot.update(["p50", "p99"].map((key) => samples.map((sample) => [sample.at, sample[key]])), now);
  }

  renderInstallation() {
    const sample = this.model.samples.at(-1);
    if (!sample) {
      setChildren(byId("outcomes"), [element("p", { class: "muted" }, "No metrics of issuers yet.")]);
      setChildren(byId("pipeline"), [row("Metrics", "none yet")]);
      return;
    }
    const outcomes = Object.entries(sample.outcomes).filter(([, value]) => value > 0).sort(([, a], [, b]) => b - a);
    const highest = Math.max(1, ...outcomes.map(([, value]) => value));
    const line = ([name, value]) => element("div", { class: "outcome" }, element("span", {}, OUTCOMES[name] ?? name),
      element("strong", {}, rate(value)), bar([[FAILURES.includes(name) ? "failed" : "recorded", value]], highest, `${rate(value)} per second`));
    setChildren(byId("outcomes"), outcomes.length > 0 ? outcomes.map(line) : [element("p", { class: "muted" }, "No requests at the moment.")]);
    const issuers = this.model.pods.filter(({ component }) => component === "issuer");
    const ready = sample.issuersReady ?? issuers.filter(({ isReady }) => isReady).length;
    setChildren(byId("pipeline"), [
      row("Errors (5xx) per second", rate(sample.errors)),
      row("Outbox entries in flight", count(sample.outbox)),
      row("Consumer lag, records", count(sample.lag)),
      row("Recorded per second", rate(sample.recorded)),
      row("Issuers ready", count(ready)),
      row("Issuers wanted", sample.issuersWanted ? `${count(sample.issuersWanted)} or more` : "–"),
    ]);
  }

  renderKubernetesEvents(events, problem) {
    byId("kubernetes-events-problem").hidden = !problem && events.length > 0;
    setText(byId("kubernetes-events-problem"), problem ?? "None in the last hour.");
    setChildren(byId("kubernetes-events"), events.map((entry) => element("li", { class: entry.isWarning ? "bad" : undefined },
      element("span", { class: "muted" }, entry.at ? timeOfDay(entry.at) : ""), element("strong", {}, words(entry.reason)), element("span", { dir: "auto" }, entry.message))));
  }

  async check() {
    const button = byId("check");
    button.disabled = true;
    setText(byId("check-time"), "Running…");
    try {
      this.checkResults = await request("/api/check", {});
      const marks = { OK: "good", WARN: "pending", FAIL: "bad" };
      const item = ({ severity, about, found, advice }) => element("li", { class: marks[severity] }, element("p", {}, element("strong", {}, about), ` ${found}`),
        advice ? element("p", { class: "muted" }, `→ ${advice}`) : "");
      setChildren(byId("check-result"), [element("ul", { class: "marks" }, ...this.checkResults.map(item))]);
      setText(byId("check-time"), `at ${timeOfDay(this.model.now())}`);
    } catch (error) {
      setChildren(byId("check-result"), [element("p", { class: "notice warn" }, `The check could not run: ${error.message}`)]);
      setText(byId("check-time"), "");
    }
    button.disabled = false;
  }

  ask(action) {
    const { title, text, submit } = DIALOGS[action];
    const unused = action === "close" ? ` ${count(stock(this.last).available)} coupons will not be issued.` : "";
    this.action = action;
    setText(byId("dialog-title"), title);
    setText(byId("dialog-text"), text + unused);
    setText(byId("dialog-expected"), this.name);
    setText(byId("dialog-submit"), submit);
    byId("dialog-submit").className = action === "close" ? "danger" : "primary";
    byId("dialog-add").hidden = action !== "topup";
    byId("dialog-error").hidden = true;
    byId("dialog-form").reset();
    byId("dialog").showModal();
    byId(action === "topup" ? "dialog-count" : "dialog-name").focus();
  }

  async submit(event) {
    event.preventDefault();
    const { name, action } = this;
    const submit = byId("dialog-submit");
    const typed = byId("dialog-name").value.trim();
    if (typed !== name) {
      this.fail(`Type ${name} to confirm.`);
      return;
    }
    const add = action === "topup" ? Number(byId("dialog-count").value) : null;
    submit.disabled = true;
    try {
      await request(`/api/events/${encodeURIComponent(name)}/${action}`, { name: typed, add });
      byId("dialog").close();
    } catch (error) {
      this.fail(error.message);
    }
    submit.disabled = false;
  }

  fail(text) {
    byId("dialog-error").hidden = false;
    setText(byId("dialog-error"), text);
  }
}
