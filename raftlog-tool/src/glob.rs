//! Patterns for keys, as Redis' own `KEYS` has them: bytes, not characters.

/// A pattern: `*` any bytes, `?` any byte, `[a-c]` and `[^a-c]` one of some, `\` takes the next byte as it is.
#[derive(Clone, Debug)]
pub struct Glob(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Any,
    One,
    Byte(u8),
    Set { ranges: Vec<(u8, u8)>, negated: bool },
}

impl Glob {
    pub fn new(pattern: &[u8]) -> Glob {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            parts.push(match first {
                b'*' => Part::Any,
                b'?' => Part::One,
                b'[' => set(&mut rest),
                b'\\' if !rest.is_empty() => {
                    let byte = rest[0];
                    rest = &rest[1..];
                    Part::Byte(byte)
                }
                byte => Part::Byte(*byte),
            });
        }
        Glob(parts)
    }

    /// Whether the whole of `bytes` matches. Time is at most the product of both lengths.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let (mut part, mut at) = (0, 0);
        // The last `*`, and how far it reaches so far.
        let mut star = None;
        while at < bytes.len() {
            match self.0.get(part) {
                Some(Part::Any) => {
                    star = Some((part, at));
                    part += 1;
                }
                Some(one) if one.takes(bytes[at]) => {
                    part += 1;
                    at += 1;
                }
                _ => {
                    let Some((star_part, reach)) = star else { return false };
                    star = Some((star_part, reach + 1));
                    (part, at) = (star_part + 1, reach + 1);
                }
            }
        }
        self.0[part..].iter().all(|part| matches!(part, Part::Any))
    }
}

impl Part {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Part::Any | Part::One => true,
            Part::Byte(own) => *own == byte,
            Part::Set { ranges, negated } => {
                ranges.iter().any(|(low, high)| (low..=high).contains(&&byte)) != *negated
            }
        }
    }
}

/// The rest of a set behind its `[`; without a `]` it goes to the end of the pattern.
fn set(rest: &mut &[u8]) -> Part {
    let negated = rest.first() == Some(&b'^');
    *rest = &rest[usize::from(negated)..];
    let mut ranges = Vec::new();
    loop {
        match **rest {
            [] => break,
            [b']', ref behind @ ..] => {
                *rest = behind;
                break;
            }
            [b'\\', byte, ref behind @ ..] => {
                ranges.push((byte, byte));
                *rest = behind;
            }
            [low, b'-', high, ref behind @ ..] => {
                ranges.push((low.min(high), low.max(high)));
                *rest = behind;
            }
            [byte, ref behind @ ..] => {
                ranges.push((byte, byte));
                *rest = behind;
            }
        }
    }
    Part::Set { ranges, negated }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("user:1", "user:1", true),
            ("user:1", "user:12", false),
            ("user:*", "user:12", true),
            ("*:12", "user:12", true),
            ("*ser*1*", "user:12", true),
            ("u?er:*", "user:", true),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[a\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*", "", true),
            ("", "", true),
            ("?", "", false),
            ("[abc", "b", true),
            ("a\\", "a\\", true),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(Glob::new(pattern.as_bytes()).matches(text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(Glob::new(b"\xff*").matches(b"\xff\x00\xfe"));
    }
}
