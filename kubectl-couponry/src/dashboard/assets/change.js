// The dialog that changes an event: what it shows is what the change applies to.

import { count, setText, stock } from "/words.js";

const CHANGE_TIMEOUT = 15_000;
const byId = (id) => document.getElementById(id);

const DIALOGS = {
  pause: { title: "Pause", text: "Users receive no coupons until the event is resumed. Coupons that they have stay valid.", submit: "Pause" },
  resume: { title: "Resume", text: "Users receive coupons again, between the start and the end of the event.", submit: "Resume" },
  topup: { title: "Add coupons to", text: "The coupons are split over the discounts as before. They cannot be removed again once the event has opened.", submit: "Add coupons" },
  close: { title: "Close", text: "Closing is final: the event ends at once and cannot be reopened.", submit: "Close for good" },
};

/** GET, or POST of a body. Fails with the reason in words. */
export async function request(path, body, timeout = CHANGE_TIMEOUT) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let response;
  let text;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(timeout) });
    text = await response.text();
  } catch (error) {
    const reason = error.name === "TimeoutError" ? "does not respond" : "cannot be reached";
    throw new Error(`the program of the dashboard ${reason}${body === undefined ? "" : ": it is unknown whether it has done this"}`);
  }
  let json = {};
  try { json = JSON.parse(text); } catch { json = { error: text }; }
  if (!response.ok) throw new Error(json.error || `status ${response.status}`);
  return json;
}

export class ChangeDialog {
  constructor() {
    byId("dialog-form").addEventListener("submit", (event) => this.submit(event));
    byId("dialog-cancel").addEventListener("click", () => this.close());
    byId("dialog-count").addEventListener("input", () => this.showTotal());
  }

  close() {
    if (byId("dialog").open) byId("dialog").close();
  }

  /** Opens the dialog for the event as it is shown now. */
  ask(action, event) {
    const { title, text, submit } = DIALOGS[action];
    this.asked = { action, name: event.name, uid: event.uid, total: event.total };
    const unused = action === "close" ? ` ${count(stock(event).available)} coupons will not be issued.` : "";
    setText(byId("dialog-title"), `${title} ${event.name}?`);
    setText(byId("dialog-text"), `${event.policyName}: ${text}${unused}`);
    setText(byId("dialog-expected"), event.name);
    setText(byId("dialog-submit"), submit);
    byId("dialog-submit").className = action === "close" ? "danger" : "primary";
    byId("dialog-add").hidden = action !== "topup";
    byId("dialog-error").hidden = true;
    byId("dialog-form").reset();
    this.showTotal();
    byId("dialog").showModal();
    byId(action === "topup" ? "dialog-count" : "dialog-name").focus();
  }

  showTotal() {
    const { total } = this.asked;
    const add = Number(byId("dialog-count").value);
    setText(byId("dialog-total"), `from ${count(total)} to ${add > 0 ? count(total + add) : "…"} coupons`);
  }

  async submit(event) {
    event.preventDefault();
    const { asked } = this;
    const submit = byId("dialog-submit");
    const typed = byId("dialog-name").value.trim();
    if (typed !== asked.name) {
      this.fail(`Type ${asked.name} to confirm.`);
      return;
    }
    const add = asked.action === "topup" ? Number(byId("dialog-count").value) : null;
    submit.disabled = true;
    try {
      const { uid, total } = asked;
      await request(`/api/events/${encodeURIComponent(asked.name)}/${asked.action}`, { name: typed, uid, total, add });
      if (this.asked === asked) this.close();
    } catch (error) {
      if (this.asked === asked) this.fail(error.message);
    }
    submit.disabled = false;
  }

  fail(text) {
    byId("dialog-error").hidden = false;
    setText(byId("dialog-error"), text);
  }
}
