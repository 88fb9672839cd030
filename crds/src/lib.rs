//! The CouponEvent custom resource.
