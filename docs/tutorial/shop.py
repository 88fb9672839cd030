"""A shop with one command, to try the checkout.

usage: shop.py EVENT COUPON USER ORDER AMOUNT
REDEEMER_URL is the address of the redeemer, REDEEMER_TOKEN_FILE a file with a token of the shop's service account.
"""
import os, sys

from checkout import Refused, check_out

class Payments:
    """Takes the place of a payment provider. Declines if PAYMENT is declined."""
    def authorize(self, order, amount):
        return os.environ.get("PAYMENT") != "declined"
    def capture(self, order): pass
    def cancel(self, order): pass

if len(sys.argv) != 6:
    sys.exit(__doc__)
event, code, user, order, amount = sys.argv[1:]
try:
    discount = check_out({"eventId": event, "couponKey": code, "userId": user}, order, int(amount), Payments())
    print(f"{order}: paid {int(amount) - discount}, discount {discount}")
except Refused as error:
    sys.exit(f"{order}: {error}")
