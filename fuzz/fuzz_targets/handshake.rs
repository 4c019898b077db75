#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| redisraft_fuzz::handshake::check(data));
