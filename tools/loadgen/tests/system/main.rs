//! Tests of complete installations under load.

mod guarantees;
mod installation;
mod load;
mod negative_controls;
mod redemptions;
