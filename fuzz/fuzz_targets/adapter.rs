#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // An error is as good as a result: only a panic, too much memory or too much time is a finding.
    _ = basin_volume_fuzz::adapter(bytes);
});
