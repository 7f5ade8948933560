/// How many bytes at the start of `bytes` stand in a JSON string as they are.
pub(crate) fn plain_run(bytes: &[u8]) -> usize {
    let mut words = bytes.chunks_exact(8);
    let mut run = 0;
    for word in words.by_ref() {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        let special = special_bytes(word);
        if special != 0 {
            return run + (special.trailing_zeros() / 8) as usize;
        }
        run += 8;
    }
    let rest = words.remainder();
    run + rest
        .iter()
        .position(|byte| is_special(*byte))
        .unwrap_or(rest.len())
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

const ONES: u64 = u64::MAX / 255;
const TOPS: u64 = ONES << 7;

/// The top bit of the first special byte in a word, and perhaps of later ones.
fn special_bytes(word: u64) -> u64 {
    let below = |limit: u64, word: u64| word.wrapping_sub(ONES * limit) & !word;
    let control = below(0x20, word);
    let quote = below(1, word ^ (ONES * u64::from(b'"')));
    let backslash = below(1, word ^ (ONES * u64::from(b'\\')));
    (control | quote | backslash) & TOPS
}
