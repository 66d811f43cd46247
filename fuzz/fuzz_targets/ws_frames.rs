#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| jwtunnel::fuzz::ws_frames(data));
