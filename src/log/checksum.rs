//! crc32 (IEEE) of the few words behind a payload, by tables: for so little, what a library does to use the wide
//! instructions of the processor takes longer than the sum itself.

/// `TABLES[k][byte]`: what `byte` does to the crc when `k` more bytes follow it.
static TABLES: [[u32; 256]; 8] = tables();

/// Of the reflected polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { POLYNOMIAL ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut following = 1;
    while following < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u32 = tables[following - 1][byte];
            tables[following][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        following += 1;
    }
    tables
}

/// The crc of what `crc` is of, then `zeros` bytes of zeros, then `words`, little endian.
pub fn continued<const N: usize>(crc: u32, zeros: usize, words: [u64; N]) -> u32 {
    let mut crc = !crc;
    for _ in 0..zeros {
        crc = TABLES[0][(crc & 0xff) as usize] ^ (crc >> 8);
    }
    for word in words {
        let mixed = (word ^ u64::from(crc)).to_le_bytes();
        crc = (0..8).fold(0, |sum, at| sum ^ TABLES[7 - at][usize::from(mixed[at])]);
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_crc_of_the_library(before: Vec<u8>, zeros in 0usize..9, words: [u64; 4]) {
            let mut all = before.clone();
            all.resize(before.len() + zeros, 0);
            words.iter().for_each(|word| all.extend_from_slice(&word.to_le_bytes()));
            prop_assert_eq!(continued(crc32fast::hash(&before), zeros, words), crc32fast::hash(&all));
            prop_assert_eq!(continued(crc32fast::hash(&before), 0, []), crc32fast::hash(&before));
        }
    }
}
