// The overview of all events, and the stream of changes.

import { EventView } from "/event.js";
import { count, duration, element, kind, rate, setChildren, setText, stock, stockBar, timeOfDay, timer, words } from "/words.js";

const MAX_SAMPLES = 300;
/** After this time without a new sample, rates and latencies are unknown. */
const FRESH_MILLIS = 8000;
/** The API server confirms the events every few seconds. After this time without, they may be outdated. */
const STALE_MILLIS = 10_000;
/** The program sends a message at least every two seconds. */
const MESSAGE_TIMEOUT_MILLIS = 8000;
/** Fewer events need no filter. */
const FILTERED_FROM = 9;

const byId = (id) => document.getElementById(id);

const model = {
  events: new Map(),
  /** What all pods did every two seconds. */
  samples: [],
  pods: [],
  /** For each source, the time of the last contact and the problem. */
  sources: {},
  /** Whether the program of the dashboard responds; null until that is known. */
  isConnected: null,
  /** Difference of the clock of the plugin to that of the browser. */
  offset: 0,
  freshMillis: FRESH_MILLIS,
  now() { return Date.now() + this.offset; },
  /** The current sample, if there is one. */
  sample() {
    const last = this.samples.at(-1);
    return last && this.now() - last.at < FRESH_MILLIS ? last : null;
  },
  /** Coupons per second in a sample, or null if unknown. */
  rateIn(sample, name) { return sample && sample.issuers.rated > 0 ? sample.issued[name] ?? 0 : null; },
  /** Coupons per second now, or null if unknown. */
  rate(name) { return this.rateIn(this.sample(), name); },
  /** Whether the events may be outdated. */
  isStale() {
    const { at, problem } = this.sources.events ?? {};
    return !this.isConnected || Boolean(problem) || !at || this.now() - at > STALE_MILLIS;
  },
};

const view = new EventView(model);
const cards = new Map();

function receive(message) {
  model.offset = message.now - Date.now();
  Object.assign(model, { isConnected: true, sources: message.sources, pods: message.pods });
  for (const event of message.events) model.events.set(event.name, event);
  for (const name of message.removed) model.events.delete(name);
  model.samples = [...model.samples, ...message.samples].slice(-MAX_SAMPLES);
  render();
}

let stream = null;
/** When the stream was opened, or the last message was received. */
let lastMessageAt = 0;

/** A hidden page has no stream: browsers permit six connections to the program, for all tabs. */
function connect() {
  stream?.close();
  stream = null;
  if (document.hidden) return;
  lastMessageAt = Date.now();
  const opened = new EventSource("/api/stream");
  let isFirst = true;
  stream = opened;
  opened.addEventListener("open", () => { isFirst = true; });
  opened.addEventListener("message", (message) => {
    lastMessageAt = Date.now();
    if (isFirst) {
      // A new stream starts with everything.
      model.events.clear();
      model.samples = [];
      isFirst = false;
    }
    receive(JSON.parse(message.data));
  });
  opened.addEventListener("error", () => {
    model.isConnected = false;
    render();
  });
}

/** A connection can be dead without an error. */
function supervise() {
  if (document.hidden || Date.now() - lastMessageAt < MESSAGE_TIMEOUT_MILLIS) return;
  model.isConnected = false;
  connect();
}

const RANKS = ["Open", "Held", "Paused", "Loading", "Scheduled", "SoldOut", "Ended", "Closed"];

/** Events that need attention first, then those that issue, then those that come next. */
function compare(a, b) {
  const rank = (event) => RANKS.indexOf(event.state);
  return rank(a) - rank(b) || (a.startTime ?? 0) - (b.startTime ?? 0) || a.name.localeCompare(b.name);
}

function card(event) {
  const link = element("a", { href: `#/${encodeURIComponent(event.name)}` }, element("bdi"));
  const parts = {
    name: link.firstChild,
    badge: element("span", { class: "badge" }),
    about: element("p", { class: "about", dir: "auto" }),
    bar: element("div"),
    figures: element("p", { class: "card-figures" }),
    timer: element("p", { class: "card-timer" }),
  };
  const item = element("li", { class: "card" },
    element("div", { class: "card-head" }, element("h2", {}, link), parts.badge), parts.about, parts.timer, parts.bar, parts.figures);
  return { item, ...parts };
}

function renderCard(event) {
  if (!cards.has(event.name)) cards.set(event.name, card(event));
  const parts = cards.get(event.name);
  setText(parts.name, event.name);
  setText(parts.about, event.error ?? event.policyName);
  setText(parts.badge, words(event.state));
  parts.badge.className = `badge ${kind(event)}`;
  const [label, span] = timer(event, model.now());
  setText(parts.timer, `${label} ${span}`.trim());
  if (event.error) return parts;
  const { issued, total } = stock(event);
  setChildren(parts.bar, [stockBar(event)]);
  const isOpen = event.state === "Open";
  setChildren(parts.figures, [
    element("span", {}, element("strong", {}, count(issued)), ` of ${count(total)} issued`),
    element("span", { class: "muted" }, isOpen ? `${rate(model.rate(event.name))} per second` : `${count(stock(event).available)} available`),
  ]);
  return parts;
}

function renderOverview() {
  const text = byId("filter").value.trim().toLowerCase();
  const all = [...model.events.values()].sort(compare);
  const shown = all.filter((event) => `${event.name} ${event.policyName ?? ""}`.toLowerCase().includes(text));
  for (const name of cards.keys()) if (!model.events.has(name)) cards.delete(name);
  const items = shown.map((event) => renderCard(event).item);
  const list = byId("cards");
  if (items.length !== list.children.length || items.some((item, index) => item !== list.children[index])) {
    const focused = document.activeElement;
    list.replaceChildren(...items);
    // A card that was moved has lost the focus of its link.
    if (list.contains(focused)) focused.focus({ preventScroll: true });
  }
  byId("filter-field").hidden = all.length < FILTERED_FROM;
  const open = all.filter((event) => event.state === "Open");
  const issuing = open.reduce((sum, event) => sum + (model.rate(event.name) ?? 0), 0);
  const summary = all.length === 0 ? "This namespace has no events." : `${count(all.length)} in the namespace, ${count(open.length)} open, ${rate(issuing)} coupons per second`;
  setText(byId("overview-summary"), model.isConnected || all.length > 0 ? summary : "Loading…");
}

/** What is wrong with the data, the most important first. */
function notices() {
  if (model.isConnected === null) return [];
  if (!model.isConnected) {
    const since = model.sources.events?.at;
    const age = since ? ` What is shown is that of ${timeOfDay(since)}.` : "";
    return [["bad", `No contact with the dashboard's program: it has ended, or the computer was asleep.${age} If it does not return, start kubectl couponry dashboard again.`]];
  }
  const { events, pods, metrics } = model.sources;
  const found = [];
  if (model.isStale()) {
    const problem = events?.problem ?? "No contact with the Kubernetes API server";
    const age = events?.at ? ` since ${timeOfDay(events.at)} (${duration(model.now() - events.at)} ago). All values are from before` : "";
    found.push(["bad", `${problem}${age}. Reconnecting…`]);
  }
  for (const source of [pods, metrics]) {
    if (source?.problem && source.problem !== events?.problem) found.push(["warn", `${source.problem}.`]);
  }
  if (pods?.at && !pods.problem && !model.pods.some(({ component, isRunning }) => component === "issuer" && isRunning)) {
    found.push(["warn", "No issuer is running in the namespace: no coupon can be issued."]);
  }
  return found;
}

function renderNotices() {
  setChildren(byId("notices"), notices().map(([name, text]) => element("p", { class: `notice ${name}` }, text)));
  document.body.classList.toggle("stale", model.isStale());
}

/** The name of the event in the address, or null. */
function selected() {
  return location.hash.startsWith("#/") && location.hash.length > 2 ? decodeURIComponent(location.hash.slice(2)) : null;
}

function render() {
  renderNotices();
  const name = selected();
  byId("overview").hidden = name !== null;
  byId("event").hidden = name === null;
  if (name === null) renderOverview();
  else view.render(name);
}

function navigate() {
  const name = selected();
  document.title = name === null ? "Couponry" : `${name} · Couponry`;
  view.select(name);
  render();
  byId("content").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

async function showIdentity() {
  const { user, namespace, server } = await (await fetch("/api/identity")).json();
  setText(byId("identity"), `${namespace} on ${new URL(server).host}${user ? `, as ${user}` : ""}`);
}

byId("filter").addEventListener("input", render);
window.addEventListener("hashchange", navigate);
document.addEventListener("visibilitychange", () => {
  model.isConnected = null;
  connect();
});
setInterval(() => {
  supervise();
  render();
}, 1000);
navigate();
showIdentity();
connect();
