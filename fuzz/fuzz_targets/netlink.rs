#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portguard::fuzzing::netlink(bytes));
