// Compiled against the types of the package, as the program of a user.

import { CouponryClient, ProblemError, ServerClock, type EventView, type Retry } from '@couponry/client';

export async function receive(client: CouponryClient, signal: AbortSignal): Promise<string> {
  const onRetry = ({ attempts, delayMs }: Retry): void => console.log(attempts.toFixed(), delayMs.toFixed());
  try {
    const outcome = await client.issue('summer', 'kim', { signal, onRetry });
    // @ts-expect-error: without a coupon, there is no code.
    const code: string = outcome.couponKey;
    return outcome.hasCoupon ? code : outcome.message;
  } catch (error) {
    return error instanceof ProblemError ? (error.problem?.detail ?? error.message) : 'the user has left';
  }
}

export async function untilStart(client: CouponryClient, clock: ServerClock): Promise<number> {
  const event: EventView = await client.event('summer');
  clock.synchronize(event);
  // @ts-expect-error: an event without a start is open as soon as it is loaded.
  return clock.until(event.startTime);
}

// @ts-expect-error: the address is required.
export const client = new CouponryClient({});
