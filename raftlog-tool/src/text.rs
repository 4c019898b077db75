//! Bytes for people and for programs: quoting, shortening, hex, colours.

use std::io::{self, Write};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde::{Serialize, Serializer};

use crate::effects::Effect;

/// Arguments longer than this many bytes are shortened, unless all is asked for.
const SHORT_BYTES: usize = 64;

pub const INDEX: Style = Style::new().bold();
pub const KIND: Style = AnsiColor::Cyan.on_default();
pub const KEY: Style = AnsiColor::Green.on_default();
pub const QUIET: Style = Style::new().dimmed();
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// Where data goes, and whether colours may.
pub struct Output<'o> {
    pub writer: &'o mut dyn Write,
    pub colour: bool,
}

impl Output<'_> {
    pub fn styled(&mut self, style: Style, text: &str) -> io::Result<()> {
        if self.colour {
            write!(self.writer, "{style}{text}{style:#}")
        } else {
            self.writer.write_all(text.as_bytes())
        }
    }

    /// A command on one line, quoted as redis-cli does, keys in colour; long values shortened unless `values`.
    pub fn command(&mut self, effect: &Effect, values: bool) -> io::Result<()> {
        let keys = effect.key_positions();
        for (position, argument) in effect.arguments().enumerate() {
            if position > 0 {
                self.writer.write_all(b" ")?;
            }
            if keys.contains(&position) {
                self.styled(KEY, &quote(argument))?;
            } else if values || argument.len() <= SHORT_BYTES {
                self.writer.write_all(quote(argument).as_bytes())?;
            } else {
                self.writer.write_all(quote(&argument[..SHORT_BYTES / 2]).as_bytes())?;
                self.styled(QUIET, &format!("... ({} bytes)", argument.len()))?;
            }
        }
        Ok(())
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Quoted as redis-cli does.
pub fn quote(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for byte in bytes {
        match byte {
            b'\\' | b'"' => text.extend(['\\', char::from(*byte)]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x07 => text.push_str("\\a"),
            0x08 => text.push_str("\\b"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let digit = |value: u8| char::from(HEX[usize::from(value)]);
                text.extend(['\\', 'x', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    text.push('"');
    text
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rows of 16 bytes with their offsets, in hex and as text.
pub fn hex_rows(out: &mut dyn Write, bytes: &[u8], offset: u64) -> io::Result<()> {
    for (row, bytes) in bytes.chunks(16).enumerate() {
        let mut line = format!("{:08x} ", offset + row as u64 * 16);
        for position in 0..16 {
            line.push_str(if position == 8 { "  " } else { " " });
            match bytes.get(position) {
                Some(byte) => line.push_str(&format!("{byte:02x}")),
                None => line.push_str("  "),
            }
        }
        line.push_str("  |");
        line.extend(bytes.iter().map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        }));
        line.push_str("|\n");
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// UTF-8 as a JSON string, anything else as `{"hex": ".."}`: nothing is lost.
pub struct JsonBytes<'b>(pub &'b [u8]);

impl Serialize for JsonBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Hex {
            hex: String,
        }
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Hex { hex: hex(self.0) }.serialize(serializer),
        }
    }
}

/// Last part of a path.
pub fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// 1234567 as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in bytes for people: 1536 as `1.5 KiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_quoted_like_redis_does() {
        assert_eq!(quote(b"a\"\\\r\n\t\x07\x08\x00\xff "), r#""a\"\\\r\n\t\a\b\x00\xff ""#);
        let json = |bytes| serde_json::to_string(&JsonBytes(bytes)).expect("JSON");
        assert_eq!((json(b"\xff"), json(b"a\0")), (r#"{"hex":"ff"}"#.into(), r#""a\u0000""#.into()));
    }

    #[test]
    fn numbers_are_readable() {
        let texts = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1536, 64 << 20].map(size), ["0 B", "1023 B", "1.5 KiB", "64.0 MiB"]);
    }

    #[test]
    fn hex_rows_have_their_place_in_the_file() {
        let mut out = Vec::new();
        hex_rows(&mut out, b"0123456789abcdef\x00z", 4096).expect("written");
        let text = String::from_utf8(out).expect("UTF-8");
        let expected = "\
00001000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|
00001010  00 7a                                             |.z|
";
        assert_eq!(text, expected);
    }
}
