"""A checkout: it reserves the coupon, authorizes the payment, redeems the coupon, and captures the payment."""
import http.client, json, os, pathlib, random, time, urllib.error, urllib.request, uuid

class Refused(Exception):
    """The order cannot use the coupon, or the customer cannot pay. Nothing is left reserved for it."""

def send(operation, attempt, body):
    """Sends a request until its outcome is known. Each try has the same key, so the request has at most one effect."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"{operation}-{attempt}"}
    if token_file := os.environ.get("REDEEMER_TOKEN_FILE"):
        headers["Authorization"] = f"Bearer {pathlib.Path(token_file).read_text().strip()}"
    url, data = f"{os.environ['REDEEMER_URL']}/redemptions/{operation}", json.dumps(body).encode()
    end, is_unknown = time.monotonic() + 60, False
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=15) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code in (404, 409, 422) or error.code == 400 and not is_unknown:
                raise Refused(json.load(error)["type"].rsplit("/")[-1]) from None
            # Others, such as 401 or those of a proxy, do not show whether an earlier try took effect.
            failure, pause = error, int(error.headers.get("Retry-After", 1))
        except (OSError, http.client.HTTPException) as error:
            failure, pause = error, 1
        is_unknown = True
        if time.monotonic() + pause > end:
            raise failure  # The outcome is unknown: continue later, with the same attempt.
        time.sleep(pause + random.random())

def check_out(coupon, order, amount, payments):
    """Takes the payment less the discount, which is returned. Amounts are in minor units, such as cents."""
    attempt = uuid.uuid4()  # Store it with the order: a checkout that was interrupted continues with the same keys.
    use = {**coupon, "orderId": order, "orderAmount": amount}
    discount = send("reserve", attempt, {**use, "ttlSeconds": 900})["discountAmount"]
    if not payments.authorize(order, amount - discount):
        send("release", attempt, use)
        raise Refused("payment-declined")
    try:
        send("redeem", attempt, use)
    except Refused:  # For example, the reservation has ended and another order has used the coupon, or it was voided.
        payments.cancel(order)
        raise
    payments.capture(order)
    return discount
