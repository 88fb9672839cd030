// Values as text, and elements with text.

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const dateAndTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const time = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** An element. `properties` are attributes, of which `class` may be undefined. */
export function element(name, properties = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value !== undefined && value !== false) created.setAttribute(key, value === true ? "" : value);
  }
  created.append(...children);
  return created;
}

/** Sets the text only if it differs, so that screen readers and selections are not disturbed. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Replaces the children only if their text or marks differ. */
export function setChildren(target, children) {
  const next = element(target.localName, {}, ...children);
  if (target.innerHTML !== next.innerHTML) target.replaceChildren(...next.childNodes);
}

export const count = (value) => (value == null ? "–" : integer.format(value));
export const rate = (value) => (value == null ? "–" : value === 0 || value >= 10 ? integer.format(value) : precise.format(value));
export const percent = (part, all) => (all > 0 ? `${Math.floor((100 * part) / all)} %` : "–");
export const at = (millis) => dateAndTime.format(millis);
export const timeOfDay = (millis) => time.format(millis);

export function seconds(value) {
  if (value == null) return "–";
  return value < 1 ? `${precise.format(value * 1000)} ms` : `${precise.format(value)} s`;
}

/** A duration in its two largest units. */
export function duration(millis) {
  const total = Math.max(0, Math.floor(millis / 1000));
  const [days, hours, minutes, rest] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60, total % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes > 0) return `${minutes} min ${rest} s`;
  return `${rest} s`;
}

/** SoldOut -> Sold out. */
export function words(reason) {
  const spaced = reason.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

const KINDS = { Open: "good", Scheduled: "info", Loading: "info", Paused: "warn", Held: "warn", SoldOut: "done", Ended: "done", Closed: "done" };

/** Color of a state: states that are not in the list block issuing. */
export function kind(event) {
  return KINDS[event.state] ?? (event.state === "Unknown" ? "warn" : "bad");
}

/** What the event waits for, as a label and a time span. */
export function timer(event, now) {
  if (event.isDeleting) return ["being deleted", ""];
  const { state, startTime, endTime, openedAt, soldOutAt } = event;
  if (startTime > now && ["Scheduled", "Loading", "Paused", "Held"].includes(state)) return ["opens in", duration(startTime - now)];
  if (state === "SoldOut" && soldOutAt && openedAt) return ["sold out in", duration(soldOutAt - openedAt)];
  if (["Ended", "Closed", "SoldOut"].includes(state)) return ["", ""];
  if (endTime > now) return ["ends in", duration(endTime - now)];
  if (state === "Open" && openedAt) return ["open for", duration(now - openedAt)];
  return ["", ""];
}

export function discount({ type, value }, currency) {
  if (type === "PERCENT") return `${value} % off`;
  if (!currency) return `${count(value)} off`;
  const format = new Intl.NumberFormat("en", { style: "currency", currency });
  return `${format.format(value / 10 ** format.resolvedOptions().maximumFractionDigits)} off`;
}

const SVG = "http://www.w3.org/2000/svg";

/** A bar of parts: [class, number]. */
export function bar(parts, all, label) {
  const svg = document.createElementNS(SVG, "svg");
  const attributes = { class: "stock-bar", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": label };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  let left = 0;
  for (const [part, value] of parts) {
    const width = all > 0 ? (1000 * value) / all : 0;
    const rect = document.createElementNS(SVG, "rect");
    for (const [key, number] of Object.entries({ x: left, y: 0, width, height: 10 })) rect.setAttribute(key, Number(number).toFixed(2));
    rect.setAttribute("class", `part-${part}`);
    svg.append(rect);
    left += width;
  }
  return svg;
}

/** The numbers of coupons of an event by state. */
export function stock(event) {
  const total = event.total ?? 0;
  const issued = event.issued ?? 0;
  const recorded = Math.min(event.recorded ?? 0, issued);
  const withheld = event.balance?.withheld ?? 0;
  const available = event.available ?? Math.max(0, (event.loaded ?? 0) - issued - withheld);
  return { total, issued, recorded, unrecorded: issued - recorded, available, withheld };
}

export function stockBar(event) {
  const { total, issued, recorded, unrecorded, available, withheld } = stock(event);
  const parts = [["recorded", recorded], ["unrecorded", unrecorded], ["withheld", withheld], ["available", available]];
  return bar(parts, total, `${count(issued)} of ${count(total)} coupons issued, ${count(available)} available`);
}
