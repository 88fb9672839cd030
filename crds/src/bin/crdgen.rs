//! Prints the definition of the `CouponEvent` resource. `cargo xtask codegen` writes it to its file.

fn main() {
    print!("{}", couponry_crds::definition_yaml());
}
