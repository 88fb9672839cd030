// The overview of all events, and the stream of changes.

import { EventView } from "/event.js";
import { count, duration, element, kind, rate, setChildren, setText, stock, stockBar, timeOfDay, timer, words } from "/words.js";

const MAX_SAMPLES = 900;
/** After this time without a new count, nothing was issued. */
const IDLE_MILLIS = 6000;
/** Fewer events need no filter. */
const FILTERED_FROM = 9;

const byId = (id) => document.getElementById(id);

const model = {
  events: new Map(),
  /** Lists of [time, issued]. */
  counts: new Map(),
  samples: [],
  pods: [],
  problems: [],
  staleSince: null,
  isConnected: false,
  /** Difference of the clock of the plugin to that of the browser. */
  offset: 0,
  now() { return Date.now() + this.offset; },
  /** Coupons per second, or null if unknown. */
  rate(name) {
    const [before, last] = (this.counts.get(name) ?? []).slice(-2);
    if (!last) return null;
    if (this.now() - last[0] > IDLE_MILLIS) return this.staleSince ? null : 0;
    return Math.max(0, ((last[1] - before[1]) / (last[0] - before[0])) * 1000);
  },
};

const view = new EventView(model);
const cards = new Map();

function receive(message) {
  model.offset = message.now - Date.now();
  Object.assign(model, { isConnected: true, staleSince: message.staleSince, problems: message.problems, pods: message.pods });
  for (const event of message.events) model.events.set(event.name, event);
  for (const name of message.removed) {
    model.events.delete(name);
    model.counts.delete(name);
  }
  for (const [name, counts] of Object.entries(message.counts)) {
    const known = model.counts.get(name) ?? [];
    const newer = counts.filter(([time]) => time > (known.at(-1)?.[0] ?? 0));
    model.counts.set(name, [...known, ...newer].slice(-2));
  }
  model.samples = [...model.samples, ...message.samples].slice(-MAX_SAMPLES);
  render();
}

function connect() {
  const stream = new EventSource("/api/stream");
  stream.addEventListener("open", () => {
    // After a reconnection the stream starts with everything.
    for (const map of [model.events, model.counts]) map.clear();
    model.samples = [];
  });
  stream.addEventListener("message", (message) => receive(JSON.parse(message.data)));
  stream.addEventListener("error", () => {
    model.isConnected = false;
    render();
  });
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
  const wanted = byId("filter").value.trim().toLowerCase();
  const all = [...model.events.values()].sort(compare);
  const shown = all.filter((event) => `${event.name} ${event.policyName ?? ""}`.toLowerCase().includes(wanted));
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

function renderNotices() {
  const notices = model.problems.map((problem) => ["warn", problem]);
  if (model.staleSince) {
    notices.unshift(["bad", `No contact with the Kubernetes API server since ${timeOfDay(model.staleSince)}. All values are from before. Reconnecting…`]);
  }
  if (!model.isConnected) {
    notices.unshift(["bad", "No contact with the dashboard's program: it has ended, or the computer was asleep. If it does not return, start kubectl couponry dashboard again."]);
  }
  setChildren(byId("notices"), notices.map(([name, text]) => element("p", { class: `notice ${name}` }, text)));
  document.body.classList.toggle("stale", !model.isConnected || Boolean(model.staleSince));
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
setInterval(render, 1000);
navigate();
showIdentity();
connect();
