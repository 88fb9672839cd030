// Against a real issuer: ISSUER is its address, EVENT an event with coupons. Its limit is one request per second and user.

import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';

import { CouponryClient, ProblemError, ServerClock } from '@couponry/client';

const { ISSUER: baseUrl, EVENT: event } = process.env;
let users = 0;
const newUser = () => `js-${process.pid}-${(users += 1)}`;

/** The address of a port at which nothing listens. */
async function closedPort() {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return `http://127.0.0.1:${port}`;
}

test('issue returns a coupon, and the same one again', async () => {
  const client = new CouponryClient({ baseUrl });
  const user = newUser();
  const issued = await client.issue(event, user);
  assert.deepEqual([issued.success, issued.hasCoupon, issued.reason], [true, true, null]);
  const retries = [];
  const again = await client.issue(event, user, { onRetry: (retry) => retries.push(retry) });
  assert.deepEqual([again.success, again.hasCoupon, again.reason], [false, true, 'DUPLICATE']);
  assert.equal(again.couponKey, issued.couponKey);
  assert.equal((await new CouponryClient({ baseUrl: `${baseUrl}/` }).event(event)).eventId, event);
});

test('a request whose response is lost is repeated and returns its coupon', async () => {
  const lost = [];
  const lossy = async (...args) => {
    const response = await fetch(...args);
    if (lost.length === 0) {
      lost.push(await response.json());
      throw new TypeError('connection reset');
    }
    return response;
  };
  const retries = [];
  const client = new CouponryClient({ baseUrl, fetch: lossy });
  const outcome = await client.issue(event, newUser(), { onRetry: (retry) => retries.push(retry) });
  assert.equal(lost[0].success, true);
  assert.equal(outcome.hasCoupon, true);
  assert.equal(outcome.couponKey, lost[0].couponKey);
  assert.equal(retries[0].attempts, 1);
  assert.match(retries[0].error.message, /connection reset/);
});

test('an issuer that cannot be reached receives the request when it can be reached', async () => {
  const closed = await closedPort();
  const retries = [];
  const later = (url, init) => fetch(retries.length < 2 ? new URL(url.pathname, closed) : url, init);
  const outcome = await new CouponryClient({ baseUrl, fetch: later }).issue(event, newUser(), {
    onRetry: (retry) => retries.push(retry),
  });
  assert.equal(outcome.success, true);
  assert.equal(retries.length, 2);
  assert.ok(retries[0].delayMs >= 150 && retries[0].delayMs <= 300, 'half of the first delay is random');
  assert.ok(retries[1].delayMs >= 300 && retries[1].delayMs <= 600, 'the second one is twice as long');
});

test('a rate limit is waited for as long as the issuer asks', async () => {
  const client = new CouponryClient({ baseUrl });
  const user = newUser();
  const retries = [];
  const options = { onRetry: (retry) => retries.push(retry) };
  const outcomes = await Promise.all([1, 2, 3].map(() => client.issue(event, user, options)));
  assert.equal(new Set(outcomes.map(({ couponKey }) => couponKey)).size, 1);
  assert.ok(retries.length > 0, 'at least one request exceeded the limit');
  for (const { error, delayMs } of retries) {
    assert.equal(error.status, 429);
    assert.equal(error.retryAfterMs, error.problem.retryAfterMs);
    assert.ok(delayMs >= error.retryAfterMs);
  }
});

test('a refused request is not repeated', async () => {
  const client = new CouponryClient({ baseUrl });
  const onRetry = () => assert.fail('repeated');
  const error = await client.issue('no-such-event', newUser(), { onRetry }).catch((refused) => refused);
  assert.ok(error instanceof ProblemError);
  assert.equal(error.status, 404);
  assert.equal(error.problem.status, 404);
  assert.match(error.message, /no-such-event/);
  await assert.rejects(client.issue(event, '\n', { onRetry }), { status: 400 });
});

test('the signal ends a request and its retries', async () => {
  const client = new CouponryClient({ baseUrl: await closedPort() });
  const abort = new AbortController();
  const retries = [];
  const onRetry = (retry) => {
    retries.push(retry);
    abort.abort(new Error('the page was closed'));
  };
  await assert.rejects(client.issue(event, newUser(), { signal: abort.signal, onRetry }), /the page was closed/);
  assert.equal(retries.length, 1);
  await assert.rejects(client.event(event, { signal: AbortSignal.abort(new Error('before')) }), /before/);
});

test('a response that does not arrive in time is repeated', async () => {
  const silent = createServer(() => {}).listen(0, '127.0.0.1');
  await new Promise((resolve) => silent.once('listening', resolve));
  const hanging = `http://127.0.0.1:${silent.address().port}`;
  const retries = [];
  const later = (url, init) => fetch(retries.length === 0 ? new URL(url.pathname, hanging) : url, init);
  const client = new CouponryClient({ baseUrl, fetch: later, timeoutMs: 2000 });
  assert.equal((await client.event(event, { onRetry: (retry) => retries.push(retry) })).eventId, event);
  assert.equal(retries[0].error.name, 'TimeoutError');
  silent.close();
});

test('coupon returns the coupon of a user, or null', async () => {
  const client = new CouponryClient({ baseUrl });
  const user = newUser();
  assert.equal(await client.coupon(event, user), null);
  const { couponKey } = await client.issue(event, user);
  assert.equal((await client.coupon(event, user)).couponKey, couponKey);
});

test('the clock follows the server and never goes back', async () => {
  const read = await new CouponryClient({ baseUrl }).event(event);
  const clock = new ServerClock();
  clock.synchronize({ serverTime: '2020-01-01T00:00:00.000Z' });
  assert.equal(new Date(clock.now()).getUTCFullYear(), 2020);
  clock.synchronize(read);
  assert.ok(clock.now() >= Date.parse(read.serverTime));
  clock.synchronize({ serverTime: '2020-01-01T00:00:00.000Z' });
  assert.ok(clock.now() >= Date.parse(read.serverTime));
  assert.equal(clock.until('2020-01-01T00:00:00.000Z'), 0);
  assert.ok(clock.until('2100-01-01T00:00:00.000Z') > 0);
});
