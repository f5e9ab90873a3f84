//! args → run → report → exit status.
fn main() {}
