//! Writers.

use bytes::BufMut;

/// Ends every RESP line.
pub const CRLF: &[u8] = b"\r\n";

/// Appends `args` as an array of bulk strings.
pub fn encode_command<B: BufMut>(out: &mut B, args: &[&[u8]]) {
    write_array_header(out, args.len());
    for arg in args {
        write_bulk(out, arg);
    }
}

/// Appends `*count`.
pub fn write_array_header<B: BufMut>(out: &mut B, count: usize) {
    write_header(out, b'*', count);
}

/// Appends `$length`; the bytes and a CR LF must follow.
pub fn write_bulk_header<B: BufMut>(out: &mut B, length: usize) {
    write_header(out, b'$', length);
}

/// Appends one bulk string.
pub fn write_bulk<B: BufMut>(out: &mut B, bytes: &[u8]) {
    write_bulk_header(out, bytes.len());
    out.put_slice(bytes);
    out.put_slice(CRLF);
}

fn write_header<B: BufMut>(out: &mut B, marker: u8, mut number: usize) {
    // Marker, up to 20 digits, CR LF; filled from the end.
    let mut line = [0u8; 23];
    let mut start = line.len() - CRLF.len();
    line[start..].copy_from_slice(CRLF);
    loop {
        start -= 1;
        line[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    start -= 1;
    line[start] = marker;
    out.put_slice(&line[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_size() {
        let mut out = Vec::new();
        write_array_header(&mut out, 0);
        write_bulk_header(&mut out, 10);
        write_bulk_header(&mut out, usize::MAX);
        assert_eq!(out, b"*0\r\n$10\r\n$18446744073709551615\r\n");
    }
}
