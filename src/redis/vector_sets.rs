//! Vector sets (Redis 8): `VADD .. CAS` and `VSIM` hand their work to a thread and block their client. A command that
//! runs as `RAFT <command>` must not: the server ends itself when one does. Both have a form without a thread, with the
//! same result, and are run in that.

/// `command` as it may run inside another one, or `None` if it may as it stands. `bytes` reads a word; `nothread` is the
/// word `NOTHREAD`. What the server would refuse for its form is left alone: it is refused before it blocks.
pub fn unthreaded<'a, W: Copy>(
    command: &[W],
    bytes: impl Fn(W) -> &'a [u8] + Copy,
    nothread: W,
) -> Option<Vec<W>> {
    let name = bytes(*command.first()?);
    if name.len() != 4 || !name[0].eq_ignore_ascii_case(&b'v') {
        return None;
    }
    if name.eq_ignore_ascii_case(b"vsim") {
        let end = end_of_query(command, bytes)?;
        return Some([&command[..end], &[nothread], &command[end..]].concat());
    }
    if name.eq_ignore_ascii_case(b"vadd") {
        let end = end_of_vector(command, bytes)? + 1; // the element's name
        return command.get(end..).map(|options| without_cas(&command[..end], options, bytes));
    }
    None
}

/// `VSIM key (ELE element | vector) ..`: where the options begin.
fn end_of_query<'a, W: Copy>(command: &[W], bytes: impl Fn(W) -> &'a [u8] + Copy) -> Option<usize> {
    match bytes(*command.get(2)?).eq_ignore_ascii_case(b"ele") {
        true => (command.len() >= 4).then_some(4),
        false => end_of_vector(command, bytes),
    }
}

/// `.. key [REDUCE dim] (FP32 blob | VALUES n x1 .. xn) ..`: the place behind it, at most the number of words.
fn end_of_vector<'a, W: Copy>(command: &[W], bytes: impl Fn(W) -> &'a [u8] + Copy) -> Option<usize> {
    let is = |position: usize, word: &[u8]| {
        command.get(position).is_some_and(|w| bytes(*w).eq_ignore_ascii_case(word))
    };
    let start = if is(2, b"reduce") { 4 } else { 2 };
    let end = match () {
        () if is(start, b"fp32") => start + 2,
        () if is(start, b"values") => {
            let count: usize =
                std::str::from_utf8(bytes(*command.get(start + 1)?)).ok()?.trim().parse().ok()?;
            (start + 2).checked_add(count)?
        }
        () => return None,
    };
    (end <= command.len()).then_some(end)
}

fn without_cas<'a, W: Copy>(head: &[W], options: &[W], bytes: impl Fn(W) -> &'a [u8]) -> Vec<W> {
    let mut words = head.to_vec();
    let mut value_follows = false;
    for option in options {
        let is = |word: &[u8]| bytes(*option).eq_ignore_ascii_case(word);
        if value_follows || !is(b"cas") {
            words.push(*option);
        }
        value_follows = !value_follows && (is(b"ef") || is(b"m") || is(b"setattr"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::unthreaded;

    #[test]
    fn only_what_asks_for_a_thread_is_changed() {
        for (line, expected) in [
            ("VSIM k ELE a", Some("VSIM k ELE a NOTHREAD")),
            ("vsim k ele a COUNT 3", Some("vsim k ele a NOTHREAD COUNT 3")),
            ("VSIM k VALUES 2 1 0 FILTER", Some("VSIM k VALUES 2 1 0 NOTHREAD FILTER")),
            ("VSIM k FP32 blob WITHSCORES", Some("VSIM k FP32 blob NOTHREAD WITHSCORES")),
            ("VADD k VALUES 1 5 e CAS", Some("VADD k VALUES 1 5 e")),
            ("VADD k REDUCE 1 VALUES 2 5 6 CAS cas EF 3", Some("VADD k REDUCE 1 VALUES 2 5 6 CAS EF 3")),
            ("VADD k FP32 blob e SETATTR CAS CAS", Some("VADD k FP32 blob e SETATTR CAS")),
            ("VADD k FP32 blob e", Some("VADD k FP32 blob e")),
            // Refused by the server.
            ("VSIM k ELE", None),
            ("VSIM k VALUES 3 1 0", None),
            ("VSIM k VALUES 18446744073709551615 1", None),
            ("VSIM", None),
            ("VADD k VALUES 1 5", None),
            ("VADD k VALUES x 5 e CAS", None),
            ("VCARD k", None),
            ("SET k CAS", None),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let changed = unthreaded(&words, |word: &str| word.as_bytes(), "NOTHREAD");
            assert_eq!(changed.map(|words| words.join(" ")).as_deref(), expected, "{line}");
        }
    }
}
