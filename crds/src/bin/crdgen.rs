//! Prints the CRD of `CouponEvent`. `cargo xtask codegen` writes it to its files.

fn main() {
    print!("{}", couponry_crds::crd_yaml());
}
