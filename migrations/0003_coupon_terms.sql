-- The terms of the coupons of an event, as its manifest specifies them. They change only while no opening is stored.

ALTER TABLE coupon_event
    -- How long the coupons are valid: libs/domain/src/validity.rs. NULL: unlimited.
    ADD COLUMN validity text COLLATE "C",
    -- The code of the currency of all amounts (ISO 4217).
    ADD COLUMN currency text COLLATE "C";

CREATE TABLE discount_conditions (
    event_uid            uuid NOT NULL REFERENCES coupon_event (uid) ON DELETE CASCADE,
    -- The discount, as in `discount_policy`. Without a row, the discount has no conditions.
    type                 text COLLATE "C" NOT NULL CHECK (type IN ('PERCENT', 'AMOUNT')),
    value                bigint NOT NULL CHECK (value > 0),
    -- In minor units of the currency. NULL: no limit.
    max_discount         bigint CHECK (max_discount > 0),
    minimum_order_amount bigint CHECK (minimum_order_amount > 0),
    PRIMARY KEY (event_uid, type, value)
);

-- From when on the coupon is not valid any more. NULL: unlimited.
ALTER TABLE issuance ADD COLUMN valid_until timestamptz;

CREATE OR REPLACE VIEW coupon_status AS
SELECT
    coupon_event.name AS event,
    coupon_event.uid AS event_uid,
    stock.ordinal,
    stock.code COLLATE "C" AS code,
    stock.type COLLATE "C" AS type,
    stock.value,
    issuance.code IS NOT NULL AS recorded,
    issuance.user_id,
    issuance.issued_at,
    issuance.valid_until
FROM coupon_event
CROSS JOIN LATERAL stock_of(coupon_event.uid) AS stock
LEFT JOIN issuance ON issuance.event_uid = coupon_event.uid AND issuance.code = stock.code COLLATE "C";

COMMENT ON TABLE discount_conditions IS 'Maximum discount and minimum order of discounts';
