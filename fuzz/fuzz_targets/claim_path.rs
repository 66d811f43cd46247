#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| jwtunnel::fuzz::claim_path(data));
