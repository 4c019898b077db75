//! `host:port` as users write it. Host names stay names: they are resolved when a connection is opened.

use std::fmt;

/// A parsed address. The host carries no brackets, also when it is an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort<'a> {
    pub host: &'a str,
    /// Never 0.
    pub port: u16,
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("no port: expected host:port")]
    NoPort,
    #[error("the port must be a number from 1 to 65535")]
    InvalidPort,
    #[error("the host must be a name, an IPv4 address, or an IPv6 address in [brackets]")]
    InvalidHost,
}

/// Longest host name (RFC 1035, 2.3.4).
const MAX_HOST_BYTES: usize = 253;

impl<'a> HostPort<'a> {
    /// Reads `host:port` or `[ipv6]:port`.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let host = rest.strip_suffix(']').ok_or(AddressError::InvalidHost)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| AddressError::InvalidHost)?;
                host
            }
            None if is_host_name(host) => host,
            None => return Err(AddressError::InvalidHost),
        };
        // `u16::from_str` would also take a leading plus sign.
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::InvalidPort);
        }
        match port.parse() {
            Ok(port) if port > 0 => Ok(HostPort { host, port }),
            _ => Err(AddressError::InvalidPort),
        }
    }

    /// Whether the host is a name that must be resolved.
    pub fn is_name(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_err()
    }
}

impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn is_host_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.len() <= MAX_HOST_BYTES && host.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_and_put_together_again() {
        for (text, host, port, is_name) in [
            ("localhost:5001", "localhost", 5001, true),
            ("10.0.0.1:6379", "10.0.0.1", 6379, false),
            ("[::1]:65535", "::1", 65535, false),
            ("redis_1.default.svc:1", "redis_1.default.svc", 1, true),
        ] {
            let address = HostPort::parse(text).unwrap();
            assert_eq!((address.host, address.port, address.is_name()), (host, port, is_name), "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        use AddressError::*;
        let long = format!("{}:1", "a".repeat(254));
        for (text, error) in [
            ("", NoPort),
            ("localhost", NoPort),
            (":5001", InvalidHost),
            ("::1:5001", InvalidHost),
            ("[::1:5001", InvalidHost),
            ("[localhost]:5001", InvalidHost),
            ("a b:5001", InvalidHost),
            ("a\r\nb:5001", InvalidHost),
            (long.as_str(), InvalidHost),
            ("localhost:", InvalidPort),
            ("localhost:0", InvalidPort),
            ("localhost:65536", InvalidPort),
            ("localhost:+1", InvalidPort),
            ("localhost:50a", InvalidPort),
        ] {
            assert_eq!(HostPort::parse(text), Err(error), "{text}");
        }
    }
}
