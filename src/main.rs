//! hotstock
fn main() {}
