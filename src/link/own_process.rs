//! Whether the other end of a loopback connection is a socket of this very process.
//!
//! The feed carries the whole dataset to whoever connects, and any local user could. The local Redis lives
//! in this process, so its end of the connection is one of our own descriptors: the kernel's table of TCP
//! sockets gives the socket's inode, and `/proc/self/fd` tells whether we hold it.

use std::fs;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};

/// Whether the connection from `remote` to `local` starts at a socket that this process holds open.
/// False for anything but IPv4.
pub(super) fn is_own_socket(remote: SocketAddr, local: SocketAddr) -> io::Result<bool> {
    let (SocketAddr::V4(remote), SocketAddr::V4(local)) = (remote, local) else { return Ok(false) };
    let table = fs::read_to_string("/proc/self/net/tcp")?;
    let Some(inode) = inode_of(&table, remote, local) else { return Ok(false) };
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc/self/fd")? {
        // A descriptor may be closed by another thread meanwhile.
        let Ok(link) = fs::read_link(entry?.path()) else { continue };
        if link.as_os_str() == wanted.as_str() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Inode of the socket with local address `from` and remote address `to`, in the text of /proc/net/tcp
/// (proc(5)): `sl local rem st queues timer retransmits uid timeout inode ..`.
fn inode_of(table: &str, from: SocketAddrV4, to: SocketAddrV4) -> Option<u64> {
    let (from, to) = (as_in_table(from), as_in_table(to));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next()? != from || fields.next()? != to {
            return None;
        }
        let inode = fields.nth(6)?.parse().ok()?;
        // 0: already closed by its process.
        (inode != 0).then_some(inode)
    })
}

/// Address as the kernel prints it: the four bytes as one native-endian number, and the port.
fn as_in_table(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_socket_of_this_process_is_recognized_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, remote) = listener.accept().unwrap();
        let local = accepted.local_addr().unwrap();
        assert!(is_own_socket(remote, local).unwrap());
        assert!(!is_own_socket(remote, remote).unwrap());
        drop(client);
        assert!(!is_own_socket(remote, local).unwrap());
        assert!(!is_own_socket("[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap()).unwrap());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_table_is_read_as_documented() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1\n\
             1: 0100007F:1F91 0200007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 0 1\n";
        let at = |text: &str| text.parse::<SocketAddrV4>().unwrap();
        assert_eq!(inode_of(table, at("127.0.0.1:8080"), at("127.0.0.2:50000")), Some(4711));
        assert_eq!(inode_of(table, at("127.0.0.1:8081"), at("127.0.0.2:50000")), None);
        assert_eq!(inode_of(table, at("127.0.0.2:50000"), at("127.0.0.1:8080")), None);
    }
}
