"""A checkout that accepts coupons: reserve the coupon, authorize the payment, redeem the coupon, capture the payment.

usage: checkout.py EVENT COUPON USER ORDER AMOUNT
REDEEMER_URL is the address of the redeemer, REDEEMER_TOKEN_FILE a file with a token of the shop's service account.
"""
import http.client, json, os, random, sys, time, urllib.error, urllib.request, uuid

class Refused(Exception):
    """The redeemer has refused a request, which has changed nothing."""

class PaymentDeclined(Exception):
    """The customer cannot pay."""

def send(operation, attempt, body):
    """Sends a request until its outcome is known. Each try has the same key, so the request has at most one effect."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"{operation}-{attempt}"}
    if token_file := os.environ.get("REDEEMER_TOKEN_FILE"):
        with open(token_file) as file:
            headers["Authorization"] = f"Bearer {file.read().strip()}"
    url = f"{os.environ['REDEEMER_URL']}/redemptions/{operation}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    end, is_unknown = time.monotonic() + 60, False
    while True:
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code in (404, 409, 422) or error.code == 400 and not is_unknown:
                raise Refused(json.load(error)["type"].rsplit("/")[-1]) from None
            # Others, such as 401 or those of a proxy, do not tell whether an earlier try took effect.
            failure, pause = error, int(error.headers.get("Retry-After", 1))
        except (OSError, http.client.HTTPException) as error:
            failure, pause = error, 1
        is_unknown = True
        if time.monotonic() + pause > end:
            raise failure  # The outcome is unknown: continue later, with the same attempt.
        time.sleep(pause + random.random())

class Payments:
    """Takes the place of a payment provider. Declines if PAYMENT is declined."""
    def authorize(self, order, amount):
        if os.environ.get("PAYMENT") == "declined":
            raise PaymentDeclined("payment-declined")
    def capture(self, order): pass
    def cancel(self, order): pass

def check_out(coupon, order, amount, payments):
    """Takes the payment less the discount, which is returned. Amounts are in minor units, such as cents."""
    attempt = uuid.uuid4()  # Store it with the order: a checkout that was interrupted continues with the same keys.
    use = {**coupon, "orderId": order, "orderAmount": amount}
    discount = send("reserve", attempt, {**use, "ttlSeconds": 900})["discountAmount"]
    try:
        payments.authorize(order, amount - discount)
    except PaymentDeclined:
        send("release", attempt, use)
        raise
    try:
        send("redeem", attempt, use)
    except Refused:  # The customer took longer than the reservation, and another order has used the coupon.
        payments.cancel(order)
        raise
    payments.capture(order)
    return discount

if __name__ == "__main__":
    event, code, user, order, amount = sys.argv[1:]
    try:
        discount = check_out({"eventId": event, "couponKey": code, "userId": user}, order, int(amount), Payments())
        print(f"{order}: paid {int(amount) - discount}, discount {discount}")
    except (Refused, PaymentDeclined) as error:
        sys.exit(f"{order}: {error}")
