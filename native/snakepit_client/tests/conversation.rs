//! Two-way calls with servers that send anything. `cargo fuzz run converse` looks further (fuzz/Cargo.toml).

mod support;

/// How many may be given by `CASES`.
fn cases() -> u64 {
    let given = std::env::var("CASES");
    given
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(2_000)
}

#[test]
fn a_server_may_send_anything() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // The middle ones are the most random.
        (state >> 24) as u8
    };
    for case in 0..cases() {
        // Ids are small as a rule, so that they are often those of something.
        let mut bytes: Vec<u8> = (0..case % 400).map(|_| byte()).collect();
        for (index, one) in bytes.iter_mut().enumerate() {
            if index % 3 == 1 && *one < 240 {
                *one %= 6;
            }
        }
        support::check(&bytes);
    }
}
