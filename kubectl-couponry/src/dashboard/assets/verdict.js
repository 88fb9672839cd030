// Whether an event can start or go on: go, no-go, or unknown.

import { at, count, timeOfDay, words } from "/words.js";

/** An older check says little about now. */
const CHECK_VALID_MILLIS = 10 * 60 * 1000;

/** Reasons of the condition Scaled outside of the time in which the event requires issuers. */
const NOT_REQUIRED = ["ScalingScheduled", "ScaledDown"];

const FINISHED = { SoldOut: "All coupons are issued", Ended: "The event has ended", Closed: "The event is closed" };

/** Whether the event itself permits issuing. */
function state(event, now) {
  const open = event.conditions.find(({ type }) => type === "Open");
  if (event.isDeleting) return ["bad", "The event is being deleted"];
  if (FINISHED[event.state]) return ["bad", FINISHED[event.state]];
  if (event.issuance === "Closed") return ["bad", FINISHED.Closed];
  if (event.endTime && event.endTime <= now) return ["bad", FINISHED.Ended];
  if (event.state === "Held" || event.hold) return ["bad", `The event is held: ${event.hold || open?.message || "no reason is given"}`];
  if (event.state === "Paused" || event.issuance === "Paused") return ["bad", "The event is paused"];
  if (event.state === "Open") return ["good", "The event is open"];
  if (event.state === "Scheduled") return ["good", `The event opens at ${at(event.startTime)}`];
  if (event.state === "Loading") return ["pending", "The coupons are being loaded"];
  if (event.state === "Unknown") return ["unknown", "No operator has reported the state of the event"];
  return ["bad", `Issuing is blocked: ${words(event.state)}`];
}

function issuers({ pods, sources }) {
  if (!sources.pods?.at || sources.pods.problem) return ["unknown", "It is not known whether issuers are ready"];
  const all = pods.filter(({ component }) => component === "issuer");
  const ready = all.filter(({ isReady }) => isReady).length;
  if (all.length === 0) return ["bad", "No issuer is running"];
  const mark = ready === 0 ? "bad" : ready < all.length ? "warning" : "good";
  return [mark, `${count(ready)} of ${count(all.length)} issuers are ready`];
}

/** Failures of the check that concern this event. */
function check(event, checked, now) {
  if (!checked) return [["unknown", "The check has not run"]];
  if (checked.error) return [["unknown", "The check could not run"]];
  if (now - checked.at > CHECK_VALID_MILLIS) return [["unknown", `The check is that of ${timeOfDay(checked.at)}: run it again`]];
  const isOther = ({ about }) => about.startsWith("event ") && about !== `event ${event.name}`;
  const failed = checked.results.filter((result) => result.severity === "FAIL" && !isOther(result));
  if (failed.length === 0) return [["good", `The check at ${timeOfDay(checked.at)} has found no failure`]];
  return failed.map(({ about, found }) => ["bad", `${about}: ${found}`]);
}

/** A point in words: `good` if it is as expected, otherwise `bad`. */
function point(mark, good, bad) {
  if (mark === "good") return [mark, good];
  return mark === "unknown" ? [mark, `Not known: ${good.charAt(0).toLowerCase()}${good.slice(1)}`] : [mark, bad];
}

/** The points as [mark, text], and their sum. `checked` is the latest check, if one has run. */
export function verdict(event, model, checked) {
  const now = model.now();
  const find = (condition) => event.conditions.find(({ type }) => type === condition);
  const mark = (condition, bad = "bad") => ({ bad })[find(condition)?.health] ?? find(condition)?.health ?? "unknown";
  const list = [
    state(event, now),
    issuers(model),
    point(event.isObserved ? "good" : "bad", "The operator has applied the latest change of the manifest", "The operator has not applied the latest change of the manifest"),
    point(mark("Stalled"), "The operator can make progress", "The operator cannot make progress"),
    point(mark("Preloaded"), "All coupons are loaded into Redis", "Not all coupons are loaded into Redis"),
    point(mark("Balanced"), "Redis and Postgres have the same coupons", "Redis and Postgres do not have the same coupons"),
    // A setting of Redis, which its administrator may have chosen.
    point(mark("Durable", "warning"), "Issued coupons survive a crash of Redis", "Issued coupons may be lost in a crash of Redis"),
  ];
  const scaled = find("Scaled");
  if (scaled && !NOT_REQUIRED.includes(scaled.reason)) {
    list.push(point(mark("Scaled"), "As many issuers are ready as the event requires", "Fewer issuers are ready than the event requires"));
  }
  list.push(...check(event, checked, now));
  if (model.isStale()) list.unshift(["unknown", "The dashboard has no current data"]);
  return { list, ...sum(list, model.isStale()) };
}

function sum(list, isStale) {
  const first = (kind) => {
    const found = list.filter(([mark]) => mark === kind).map(([, text]) => text);
    return found.length > 1 ? `${found[0]}, and ${found.length - 1} more` : found[0];
  };
  const has = (kind) => list.some(([mark]) => mark === kind);
  if (isStale) return { kind: "warn", text: "Unknown: the dashboard has no current data" };
  if (has("bad")) return { kind: "bad", text: `No-go: ${first("bad")}` };
  if (has("unknown")) return { kind: "warn", text: `Unknown: ${first("unknown")}` };
  if (has("pending")) return { kind: "warn", text: `Not yet: ${first("pending")}` };
  return { kind: "good", text: "Go" };
}
