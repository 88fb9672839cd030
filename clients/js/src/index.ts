/**
 * Client for the HTTP API of Couponry's issuer.
 *
 * A request for a coupon whose response was lost may have issued one. Repeating it is safe: a user receives at most one
 * coupon of an event, and a repeated request returns the same one. So {@link CouponryClient.issue} repeats a request
 * until it has an outcome.
 */

import type { components } from './schema.js';

/** An event: `GET /coupons/{eventId}`. */
export type EventView = components['schemas']['EventView'];
/** The outcome of a request for a coupon. Show the coupon if `hasCoupon` is true; otherwise decide by `reason`. */
export type IssueResponse = components['schemas']['IssueResponse'];
/** The coupon of a user: `GET /coupons/{eventId}/users/{userId}`. */
export type UserCoupon = components['schemas']['UserCoupon'];
/** An error response (RFC 9457). */
export type Problem = components['schemas']['Problem'];

/** The request was refused: repeating it does not help until something else changes. */
export class ProblemError extends Error {
  override readonly name = 'ProblemError';

  constructor(
    /** The HTTP status code. */
    readonly status: number,
    /** The error response. Undefined: the body was not one, for example that of a proxy. */
    readonly problem?: Problem,
    /** How long the server asks to wait before the next request, in milliseconds. */
    readonly retryAfterMs?: number,
  ) {
    super(problem ? `${problem.title}: ${problem.detail}` : `the server responded with status ${status}`);
  }
}

/** Why a request is repeated. */
export interface Retry {
  /** The number of attempts so far. */
  attempts: number;
  /** The wait before the next attempt, in milliseconds. */
  delayMs: number;
  /** The failure of the last attempt: a {@link ProblemError} with status 429 or 5xx, or a network error. */
  error: unknown;
}

/** Options of {@link CouponryClient}. */
export interface ClientOptions {
  /** The address of the issuer or of the proxy before it, such as `https://shop.example/`. */
  baseUrl: string | URL;
  /** Returns the token of the user, with `--user-identity jwt`. Called before each attempt. */
  token?: () => string | Promise<string>;
  /** The language of `message`, such as `ko`. Default: that of the browser. */
  language?: string;
  /** How long to wait for a response, in milliseconds. Default: 10,000. */
  timeoutMs?: number;
  /** Default: the global `fetch`. */
  fetch?: typeof fetch;
}

/** Options of one call. */
export interface CallOptions {
  /** Ends the call, and its retries. */
  signal?: AbortSignal;
  /** Called before each repetition. */
  onRetry?: (retry: Retry) => void;
}

const FIRST_DELAY_MS = 300;
const MAX_DELAY_MS = 10_000;

/** The longest wait for a request, also if a proxy asks for more. */
const MAX_WAIT_MS = 3_600_000;

/** Whether the same request may succeed later. Some proxies have status codes of their own, such as 520. */
function isTransient(status: number): boolean {
  return status >= 500 || status === 408 || status === 425 || status === 429;
}

/** Requests to the issuer. */
export class CouponryClient {
  readonly #options: ClientOptions;
  readonly #base: URL;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#base = new URL(options.baseUrl);
    if (!this.#base.pathname.endsWith('/')) {
      this.#base.pathname += '/';
    }
  }

  /** Requests a coupon, until there is an outcome. `userId` is not needed if a proxy or a token identifies the user. */
  issue(eventId: string, userId?: string, options: CallOptions = {}): Promise<IssueResponse> {
    const body = JSON.stringify(userId === undefined ? { eventId } : { eventId, userId });
    const headers = { 'Content-Type': 'application/json' };
    return this.#repeat('coupons/issue', { method: 'POST', body, headers }, options);
  }

  /** Reads the event. */
  event(eventId: string, options: CallOptions = {}): Promise<EventView> {
    return this.#repeat(`coupons/${encodeURIComponent(eventId)}`, {}, options);
  }

  /** Reads the coupon of the user. Null: the user has none, or the event does not exist. */
  async coupon(eventId: string, userId: string, options: CallOptions = {}): Promise<UserCoupon | null> {
    const path = `coupons/${encodeURIComponent(eventId)}/users/${encodeURIComponent(userId)}`;
    try {
      return await this.#repeat(path, {}, options);
    } catch (error) {
      if (error instanceof ProblemError && error.status === 404) {
        return null;
      }
      throw error;
    }
  }

  async #repeat<T>(path: string, init: RequestInit, { signal, onRetry }: CallOptions): Promise<T> {
    for (let attempts = 1; ; attempts += 1) {
      // Outside of `try`: a failure to get the token is not one of the network.
      const headers = await this.#headers(init);
      signal?.throwIfAborted();
      try {
        return await this.#attempt(path, { ...init, headers }, signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof ProblemError && !isTransient(error.status)) {
          throw error;
        }
        const delayMs = retryDelay(attempts, error);
        onRetry?.({ attempts, delayMs, error });
        await sleep(delayMs, signal);
      }
    }
  }

  async #headers(init: RequestInit): Promise<Headers> {
    const { token, language } = this.#options;
    const headers = new Headers(init.headers);
    if (token) {
      headers.set('Authorization', `Bearer ${await token()}`);
    }
    if (language) {
      headers.set('Accept-Language', language);
    }
    return headers;
  }

  async #attempt<T>(path: string, init: RequestInit, signal?: AbortSignal): Promise<T> {
    const { timeoutMs = 10_000, fetch: send = fetch } = this.#options;
    // Not AbortSignal.any: browsers have it only since 2024.
    const abort = new AbortController();
    const cancel = () => abort.abort(signal?.reason);
    const timer = setTimeout(() => abort.abort(new DOMException('no response in time', 'TimeoutError')), timeoutMs);
    signal?.addEventListener('abort', cancel);
    try {
      signal?.throwIfAborted();
      // The API does not redirect. A proxy redirects users that are not signed in.
      const response = await send(new URL(path, this.#base), { ...init, redirect: 'manual', signal: abort.signal });
      if (response.type === 'opaqueredirect') {
        throw new ProblemError(401);
      }
      if (!response.ok) {
        throw problemError(response, await response.text());
      }
      return (await response.json()) as T;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', cancel);
    }
  }
}

function problemError(response: Response, body: string): ProblemError {
  const problem = parseProblem(response, body);
  const seconds = Number(response.headers.get('Retry-After') ?? NaN);
  const retryAfterMs = problem?.retryAfterMs ?? (Number.isFinite(seconds) ? seconds * 1000 : undefined);
  return new ProblemError(response.status, problem, retryAfterMs);
}

function parseProblem(response: Response, body: string): Problem | undefined {
  if (!response.headers.get('Content-Type')?.startsWith('application/problem+json')) {
    return undefined;
  }
  try {
    return JSON.parse(body) as Problem;
  } catch {
    return undefined;
  }
}

/**
 * The wait before the next attempt. The issuer's own value differs from client to client, so that those that failed
 * together do not return together. Otherwise, the wait has a random part, and becomes longer with each attempt.
 */
function retryDelay(attempts: number, error: unknown): number {
  const longest = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** (attempts - 1));
  const backoff = longest * (0.5 + Math.random() / 2);
  if (!(error instanceof ProblemError) || error.retryAfterMs === undefined) {
    return backoff;
  }
  const isOwn = error.problem?.retryAfterMs !== undefined;
  const asked = isOwn ? error.retryAfterMs : error.retryAfterMs + backoff;
  // A server that is overloaded for longer receives fewer requests.
  return Math.min(MAX_WAIT_MS, attempts > 3 ? Math.max(asked, backoff) : asked);
}

/** Waits, or throws the reason of the signal. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const end = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', end);
      resolve();
    }, ms);
    signal?.addEventListener('abort', end, { once: true });
  });
}

/**
 * The clock that decides when an event opens. The clock of a browser may be wrong by minutes, so only differences of its
 * monotonic clock are used. It is never ahead: a response may be up to a second old, and its way is not counted.
 */
export class ServerClock {
  #serverTime: number | undefined;
  #readAt = 0;

  /** Takes over the time of an event that was just read, unless what is known is later. */
  synchronize(event: Pick<EventView, 'serverTime'>): void {
    const time = Date.parse(event.serverTime);
    if (this.#serverTime === undefined || time > this.now()) {
      this.#serverTime = time;
      this.#readAt = performance.now();
    }
  }

  /** In milliseconds since the Unix epoch. Before the first synchronization, that of the browser. */
  now(): number {
    return this.#serverTime === undefined ? Date.now() : this.#serverTime + performance.now() - this.#readAt;
  }

  /** The milliseconds until a time such as `startTime`: 0 if it has passed. */
  until(time: string): number {
    return Math.max(0, Date.parse(time) - this.now());
  }
}
