//! `sqlx::migrate!` notices changed files, but not new ones.
fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
