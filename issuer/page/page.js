// The page of an event: shows its state, requests a coupon for the user, and shows the coupon.
//
// The state of the event is read about every second or two, and more often only by the button. The countdown follows the
// clock of the server. Only the user ID of a trial is stored: a repeated request returns the coupon again.

import { CouponryClient, ProblemError, ServerClock, sleep } from './client.js';

const POLL_MS = 2000;
const eventId = decodeURIComponent(location.pathname.split('/').at(-2));
const element = (id) => document.getElementById(id);

// A token in the fragment, which browsers do not send to servers. It is removed from the address, and not stored.
const token = new URLSearchParams(location.hash.slice(1)).get('token');
if (token) {
  history.replaceState(null, '', location.pathname + location.search);
}

const clock = new ServerClock();
const otherTabs = new BroadcastChannel(`couponry:${eventId}`);
const state = {
  /** The last read state of the event. */
  event: null,
  /** The coupon of the user: an IssueResponse with hasCoupon. */
  coupon: null,
  /** The last outcome without a coupon: WAIT or VOIDED. */
  outcome: null,
  isRequesting: false,
  /** A text that replaces all others: the event does not exist, or the user is not signed in. */
  failure: null,
  /** Whether the event did not exist when it was last read. It may be created later. */
  isMissing: false,
  /** The time and the cause of the next attempt, after a failed one. */
  retry: null,
};

let config;
let texts;
let client;

/** The text in the language of the page, with these values. */
function text(name, values = {}) {
  return texts[name].replace(/\{(\w+)\}/g, (placeholder, key) => values[key] ?? placeholder);
}

/** Changes the text only if it differs: screen readers announce each change. */
function setText(id, value) {
  if (element(id).textContent !== value) {
    element(id).textContent = value;
  }
}

function show(id, isVisible) {
  element(id).hidden = !isVisible;
}

function formatDuration(ms) {
  const seconds = Math.ceil(ms / 1000);
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  const pad = (number) => String(number).padStart(2, '0');
  const time = `${days || hours ? `${pad(hours)}:` : ''}${pad(minutes)}:${pad(seconds % 60)}`;
  return days ? `${days}\u00a0d ${time}` : time;
}

/** The discount in words. Null: an amount of a currency that is not configured. */
function formatDiscount({ discountType, discountAmount }) {
  const { lang } = document.documentElement;
  if (discountType === 'PERCENT') {
    return text('percent', { value: new Intl.NumberFormat(lang).format(discountAmount) });
  }
  if (!config.currency) {
    return null;
  }
  // The decimals that browsers use differ from those of ISO 4217, for example for RSD.
  const { code, decimals } = config.currency;
  const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  const format = new Intl.NumberFormat(lang, { style: 'currency', currency: code, ...digits });
  return text('amount', { value: format.format(discountAmount / 10 ** decimals) });
}

/** What the page shows: a headline, the time that a countdown ends at, and the text of the button. */
function view() {
  const { event, coupon, outcome, failure } = state;
  if (failure) {
    return { headline: failure };
  }
  if (coupon) {
    return { headline: '' };
  }
  if (outcome?.reason === 'VOIDED') {
    return { headline: text('voided') };
  }
  if (!event) {
    return { headline: text('loading') };
  }
  const isWaiting = outcome?.reason === 'WAIT' && clock.until(outcome.admittedAt) > 0;
  switch (event.state) {
    case 'NOT_STARTED':
      if (event.startTime === null) {
        return { headline: text('notStarted') };
      }
      if (event.serverTime >= event.startTime) {
        return { headline: text('notStarted') };
      }
      // The state may be a second old: the button appears when the time has come.
      return clock.until(event.startTime) > 0
        ? { headline: text('startsIn'), until: event.startTime }
        : { headline: text('open'), button: 'get' };
    case 'PAUSED':
      return { headline: text('paused'), button: 'show' };
    case 'ENDED':
      return { headline: text('ended'), button: 'show' };
    case 'SOLD_OUT':
      if (!event.nextDropAt) {
        return { headline: text('soldOut'), button: 'show' };
      }
      return clock.until(event.nextDropAt) > 0
        ? { headline: text('nextDrop'), until: event.nextDropAt, button: 'show' }
        : { headline: text('open'), button: 'get' };
    default:
      return isWaiting
        ? { headline: text('wait'), until: outcome.admittedAt }
        : { headline: text('open'), button: 'get', available: event };
  }
}

function render() {
  const { headline, until, button, available } = view();
  setText('headline', headline);
  show('countdown', until);
  setText('countdown', until ? formatDuration(clock.until(until)) : '');
  show('available', available);
  if (available) {
    const format = new Intl.NumberFormat(document.documentElement.lang);
    setText('available', text('available', { count: format.format(available.remaining), total: format.format(available.total) }));
  }
  const hasButton = Boolean(button) || state.isRequesting;
  show('user', hasButton && config.identity === 'body');
  // A disabled button would lose the focus of the keyboard.
  show('get', hasButton);
  element('get').setAttribute('aria-disabled', String(state.isRequesting));
  element('get').setAttribute('aria-busy', String(state.isRequesting));
  setText('get', text(state.isRequesting ? 'getting' : (button ?? 'get')));
  show('coupon', state.coupon);
  const { retry } = state;
  const seconds = retry && Math.max(1, Math.ceil((retry.at - performance.now()) / 1000));
  setText('retrying', retry ? text('retrying', { cause: retry.cause }) : '');
  // Not announced: it changes each second.
  setText('retry-seconds', retry ? text('seconds', { seconds }) : '');
}

function showCoupon(coupon) {
  const isNew = !state.coupon;
  state.coupon = coupon;
  setText('code', coupon.couponKey);
  const discount = formatDiscount(coupon);
  show('discount', discount);
  setText('discount', discount ?? '');
  show('valid-until', coupon.validUntil);
  if (coupon.validUntil) {
    const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: 'medium', timeStyle: 'short' });
    setText('valid-until', text('validUntil', { time: format.format(new Date(coupon.validUntil)) }));
  }
  render();
  if (isNew) {
    element('copy').focus();
  }
}

function onRetry({ delayMs, error }) {
  const cause = text(error instanceof ProblemError ? 'busy' : 'offline');
  state.retry = { at: performance.now() + delayMs, cause };
  render();
}

/** Shows why a request was refused. Repeating it does not help. */
function showRefusal(error) {
  if (!(error instanceof ProblemError)) {
    throw error;
  }
  state.isMissing = error.status === 404;
  const detail = error.problem?.detail ?? error.message;
  state.failure = state.isMissing ? text('unknown') : error.status === 401 ? text('signIn') : text('refused', { detail });
}

/**
 * Identifies the user among the tabs of this browser. Null: it is not known, so the tabs share nothing. Of a token, it is
 * the part with the claims, which is not a credential.
 */
function owner() {
  switch (config.identity) {
    case 'body':
      return element('user-id').value.trim() || null;
    case 'jwt':
      return token?.split('.')[1] ?? null;
    default:
      return null;
  }
}

/** The stored user ID of a trial. Some browsers have no storage. */
function storedUser(id) {
  try {
    if (id !== undefined) {
      localStorage.setItem('couponry:user', id);
    }
    return localStorage.getItem('couponry:user') ?? '';
  } catch {
    return '';
  }
}

async function requestCoupon() {
  // It may be changed during the request.
  const user = owner();
  if (state.isRequesting) {
    return;
  }
  if (config.identity === 'body') {
    if (!user) {
      element('user-id').focus();
      return;
    }
    storedUser(user);
  }
  state.isRequesting = true;
  render();
  try {
    const outcome = await client.issue(eventId, config.identity === 'body' ? user : undefined, { onRetry });
    state.retry = null;
    if (outcome.hasCoupon) {
      if (user) {
        otherTabs.postMessage({ user, coupon: outcome });
      }
      showCoupon(outcome);
      return;
    }
    const wasWaiting = state.outcome?.reason === 'WAIT';
    state.outcome = outcome;
    if (outcome.reason !== 'WAIT') {
      await readEvent();
    } else if (!wasWaiting) {
      void requestWhenAdmitted();
    }
  } catch (error) {
    showRefusal(error);
  } finally {
    state.isRequesting = false;
    render();
  }
}

/** Requests the coupon of a user that waits for the admission, when the time has come. */
async function requestWhenAdmitted() {
  while (state.outcome?.reason === 'WAIT' && !state.coupon && !state.failure) {
    const wait = clock.until(state.outcome.admittedAt);
    if (wait > 0) {
      await sleep(Math.min(wait, 1000));
    } else {
      if (state.event?.state !== 'PAUSED') {
        await requestCoupon();
      }
      await sleep(1000);
    }
  }
}

async function readEvent() {
  state.event = await client.event(eventId, { onRetry: state.isRequesting ? undefined : onRetry });
  clock.synchronize(state.event);
  if (state.isMissing) {
    state.isMissing = false;
    state.failure = null;
  }
  if (!state.isRequesting) {
    state.retry = null;
  }
  render();
}

/** Reads the event for as long as its state can change what the page shows. Pages in the background read nothing. */
async function poll() {
  let wake = new AbortController();
  document.addEventListener('visibilitychange', () => {
    wake.abort();
    wake = new AbortController();
  });
  // Ends early when the page becomes visible.
  const pause = (ms) => sleep(ms, wake.signal).catch(() => {});
  while (!state.failure || state.isMissing) {
    if (document.hidden || state.coupon) {
      await pause(POLL_MS);
      continue;
    }
    try {
      await readEvent();
    } catch (error) {
      showRefusal(error);
      render();
    }
    const { startTime, state: name } = state.event ?? {};
    // Far from the start, only the clock matters.
    const isFar = name === 'NOT_STARTED' && startTime && clock.until(startTime) > 60_000;
    await pause((isFar || state.isMissing || name === 'ENDED' ? 10 : 1) * POLL_MS * (0.75 + Math.random() / 2));
  }
}

async function copyCode() {
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(state.coupon.couponKey);
  } catch {
    // Only pages over HTTPS may write to the clipboard.
    const selection = getSelection();
    selection.selectAllChildren(element('code'));
    isCopied = document.execCommand('copy');
  }
  setText('copied', text(isCopied ? 'copied' : 'copyFailed'));
}

async function readConfig() {
  for (;;) {
    try {
      const response = await fetch(new URL('config.json', import.meta.url), { signal: AbortSignal.timeout(10_000) });
      if (response.ok) {
        return await response.json();
      }
    } catch {
      // Retried below, as after a response of a proxy.
    }
    await sleep(1000 + 2000 * Math.random());
  }
}

async function start() {
  config = await readConfig();
  const wanted = navigator.languages.map((language) => language.split('-')[0]);
  const language = wanted.find((tag) => tag in config.texts) ?? 'en';
  texts = config.texts[language];
  document.documentElement.lang = language;
  document.title = text('title', { event: eventId });
  setText('title', document.title);
  document.querySelector('label').textContent = text('userId');
  setText('coupon-title', text('couponTitle'));
  setText('copy', text('copy'));
  element('user-id').value = config.identity === 'body' ? storedUser() : '';
  const options = { baseUrl: new URL('../../../', import.meta.url), language };
  client = new CouponryClient(token ? { ...options, token: () => token } : options);

  element('get').addEventListener('click', () => void requestCoupon());
  element('user-id').addEventListener('keydown', ({ key }) => void (key === 'Enter' && requestCoupon()));
  element('copy').addEventListener('click', () => void copyCode());
  otherTabs.addEventListener('message', ({ data: { user, coupon } }) => {
    if (user && user === owner()) {
      showCoupon(coupon);
    }
  });
  setInterval(render, 250);
  render();
  await poll();
}

void start();
