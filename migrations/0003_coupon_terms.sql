-- The terms of the coupons of an event, as its manifest specifies them. They change only while no opening is stored.

ALTER TABLE coupon_event
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

COMMENT ON TABLE discount_conditions IS 'Maximum discount and minimum order of discounts';
