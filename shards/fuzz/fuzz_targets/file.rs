#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waterwheel_fuzz::file::property(bytes));
