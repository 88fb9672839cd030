//! The rules of a coupon event: allocation, codes, window, the issued record. No I/O, no clock.
