/// The number of bytes at the start of `bytes` that are the same in a JSON string.
pub(crate) fn plain_run(bytes: &[u8]) -> usize {
    let mut run = 0;
    for word in bytes.chunks_exact(8).take(BLOCK / 8) {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        let special = special_bytes(word);
        if special != 0 {
            return run + (special.trailing_zeros() / 8) as usize;
        }
        run += 8;
    }
    if run == BLOCK {
        return long_run(bytes);
    }
    let rest = &bytes[run..];
    run + rest
        .iter()
        .position(|byte| is_special(*byte))
        .unwrap_or(rest.len())
}

const BLOCK: usize = 64;

/// The same for a run that is longer than a block, and may be as long as many.
#[inline(never)]
fn long_run(bytes: &[u8]) -> usize {
    // Without a branch for each byte the compiler handles many at once.
    let is_plain = |block: &&[u8]| {
        !block
            .iter()
            .fold(false, |any, byte| any | is_special(*byte))
    };
    let blocks = bytes.chunks_exact(BLOCK).take_while(is_plain).count();
    blocks * BLOCK + plain_run(&bytes[blocks * BLOCK..])
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
