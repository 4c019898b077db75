//! One RESP connection under exact control: what is sent, when, and what has come back.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One RESP2 reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nil,
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Value>),
}

impl Value {
    /// A status, an error, a number or a bulk string as text; arrays as their elements joined by blanks.
    pub fn text(&self) -> String {
        match self {
            Self::Nil => "(nil)".to_owned(),
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Array(values) => values.iter().map(Self::text).collect::<Vec<_>>().join(" "),
        }
    }

    /// Whether this is an error that starts with `prefix` (without the leading `-`).
    pub fn is_error(&self, prefix: &str) -> bool {
        matches!(self, Self::Error(text) if text.starts_with(prefix))
    }

    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Status(text) if text == "OK")
    }

    /// The number of an integer reply.
    ///
    /// # Panics
    /// When the reply is something else.
    pub fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => panic!("expected an integer reply, got {other}"),
        }
    }

    /// The elements of an array reply.
    ///
    /// # Panics
    /// When the reply is something else.
    pub fn array(&self) -> &[Value] {
        match self {
            Self::Array(values) => values,
            other => panic!("expected an array reply, got {other}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(text) => write!(formatter, "(error) {text}"),
            other => formatter.write_str(&other.text()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Bulk(text.as_bytes().to_vec())
    }
}

/// `command` as a RESP array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(command: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for argument in command {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Reads one value from the start of `bytes`: the value and its length, or `None` when it is not complete yet.
///
/// # Errors
/// When the bytes are not RESP2.
pub fn parse(bytes: &[u8]) -> io::Result<Option<(Value, usize)>> {
    let Some(line_end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let malformed = |what: &str| {
        let start = String::from_utf8_lossy(&bytes[..line_end.min(80)]).into_owned();
        io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {start:?}"))
    };
    if line_end == 0 {
        return Err(malformed("empty line where a reply should start"));
    }
    let line = std::str::from_utf8(&bytes[1..line_end]).map_err(|_| malformed("not text"))?;
    let after_line = line_end + 2;
    let number = || line.parse::<i64>().map_err(|_| malformed("not a number"));
    match bytes[0] {
        b'+' => Ok(Some((Value::Status(line.to_owned()), after_line))),
        b'-' => Ok(Some((Value::Error(line.to_owned()), after_line))),
        b':' => Ok(Some((Value::Integer(number()?), after_line))),
        b'$' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Some((Value::Nil, after_line))) };
            let end = after_line + length;
            if bytes.len() < end + 2 {
                return Ok(None);
            }
            Ok(Some((Value::Bulk(bytes[after_line..end].to_vec()), end + 2)))
        }
        b'*' => {
            let Ok(count) = usize::try_from(number()?) else { return Ok(Some((Value::Nil, after_line))) };
            let mut values = Vec::new();
            let mut position = after_line;
            for _ in 0..count {
                let Some((value, length)) = parse(&bytes[position..])? else { return Ok(None) };
                values.push(value);
                position += length;
            }
            Ok(Some((Value::Array(values), position)))
        }
        _ => Err(malformed("unknown reply type")),
    }
}

/// A blocking client connection. Every receive is bounded by a timeout, so that no test can hang on it.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were handed out already.
    consumed: usize,
    timeout: Duration,
}

impl Connection {
    /// Connects to 127.0.0.1:`port`; replies are awaited for up to 10 s.
    ///
    /// # Errors
    /// When the connection is refused or not made within five seconds.
    pub fn open(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        let mut connection =
            Self { stream, buffer: Vec::new(), consumed: 0, timeout: Duration::from_secs(10) };
        connection.set_timeout(Duration::from_secs(10))?;
        Ok(connection)
    }

    /// Sets how long [`receive`](Self::receive) waits for one reply.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = timeout;
        self.stream.set_write_timeout(Some(timeout))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a command without waiting for its reply.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<()> {
        self.send_raw(&encode(command))
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// `UnexpectedEof` when the server closed the connection, `TimedOut` when nothing came in time.
    pub fn receive(&mut self) -> io::Result<Value> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some((value, length)) = parse(&self.buffer[self.consumed..])? {
                self.consumed += length;
                if self.consumed > 1 << 20 || self.consumed == self.buffer.len() {
                    self.buffer.drain(..self.consumed);
                    self.consumed = 0;
                }
                return Ok(value);
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no reply in time"));
            }
            self.stream.set_read_timeout(Some(remaining))?;
            let mut chunk = [0; 1 << 16];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no reply in time"));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// Those of [`send`](Self::send) and [`receive`](Self::receive).
    pub fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<Value> {
        self.send(command)?;
        self.receive()
    }

    /// Like [`call`](Self::call) with the words of a line as the command.
    ///
    /// # Panics
    /// When the connection fails.
    pub fn run(&mut self, line: &str) -> Value {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.call(&words).unwrap_or_else(|error| panic!("{line:?} failed: {error}"))
    }
}
