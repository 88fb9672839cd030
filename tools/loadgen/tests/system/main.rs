//! Tests that let a crowd ask a whole Couponry.

mod installation;
mod negative_controls;
mod whole_path;
