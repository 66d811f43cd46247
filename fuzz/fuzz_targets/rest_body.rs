#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| jwtunnel::fuzz::rest_body(data));
