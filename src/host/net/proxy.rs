//! The PROXY protocol, versions 1 and 2: whom a proxy speaks for. A parser without a socket.
//!
//! The header is the first thing on a connection, before TLS. It is believed only from addresses
//! that the configuration names. What it says of the connection is used; what else version 2 may
//! carry (TLVs) is passed over.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, with its line end (2.1).
pub const V1_MAX: usize = 107;

/// The longest header of version 2 that is read, TLVs and all.
pub const V2_MAX: usize = 4096;

/// What a header of version 2 starts with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 before the addresses: signature, command, family, length.
const V2_FIXED: usize = 16;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// Too few to tell.
    Incomplete,
    /// A header.
    Header {
        /// Its length in bytes; what follows is the connection's.
        len: usize,
        /// Who is at the other end. `None`: the proxy itself (`LOCAL`, a health check), or somebody
        /// whose address it does not know.
        source: Option<SocketAddr>,
    },
}

/// Why it is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHeader(&'static str);

impl NotAHeader {
    /// For the log.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// Looks at the first bytes of a connection, as many as there are.
///
/// # Errors
/// If they do not begin a header, or begin one that is too long.
pub fn parse(bytes: &[u8]) -> Result<Parsed, NotAHeader> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] == SIGNATURE[..known] {
        return if bytes.len() < V2_FIXED {
            Ok(Parsed::Incomplete)
        } else {
            parse_v2(bytes)
        };
    }
    let known = bytes.len().min(b"PROXY ".len());
    if bytes[..known] != b"PROXY "[..known] {
        return Err(NotAHeader("it does not begin as one"));
    }
    let line = &bytes[..bytes.len().min(V1_MAX)];
    match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => parse_v1(&line[..end]).map(|source| Parsed::Header {
            len: end + 1,
            source,
        }),
        None if bytes.len() >= V1_MAX => Err(NotAHeader("its line is too long")),
        None => Ok(Parsed::Incomplete),
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r`, or `PROXY UNKNOWN …\r`.
fn parse_v1(line: &[u8]) -> Result<Option<SocketAddr>, NotAHeader> {
    const BAD: NotAHeader = NotAHeader("its line is not as it must be");
    let line = line.strip_suffix(b"\r").ok_or(BAD)?;
    let line = core::str::from_utf8(line).map_err(|_| BAD)?;
    let mut words = line.split(' ');
    let _ = words.next();
    let family = words.next().ok_or(BAD)?;
    if family == "UNKNOWN" {
        // What follows is to be ignored (2.1).
        return Ok(None);
    }
    let mut address = |is_v4: bool| -> Result<IpAddr, NotAHeader> {
        let word = words.next().ok_or(BAD)?;
        if is_v4 {
            word.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| BAD)
        } else {
            word.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| BAD)
        }
    };
    let is_v4 = match family {
        "TCP4" => true,
        "TCP6" => false,
        _ => return Err(BAD),
    };
    let source = address(is_v4)?;
    address(is_v4)?;
    let mut port = || -> Result<u16, NotAHeader> {
        let word = words.next().ok_or(BAD)?;
        let is_plain = word.bytes().all(|byte| byte.is_ascii_digit())
            && (word == "0" || !word.starts_with('0'));
        word.parse().ok().filter(|_| is_plain).ok_or(BAD)
    };
    let source_port = port()?;
    port()?;
    if words.next().is_some() {
        return Err(BAD);
    }
    Ok(Some(SocketAddr::new(source, source_port)))
}

/// With at least [`V2_FIXED`] bytes.
fn parse_v2(bytes: &[u8]) -> Result<Parsed, NotAHeader> {
    let (command, family) = (bytes[12], bytes[13]);
    let len = V2_FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if command >> 4 != 2 {
        return Err(NotAHeader("a version that does not exist"));
    }
    let is_local = match command & 0x0F {
        0 => true,
        1 => false,
        _ => return Err(NotAHeader("a command that does not exist")),
    };
    if len > V2_MAX {
        return Err(NotAHeader("it is too long"));
    }
    // Source, destination and both ports.
    let addresses = match family {
        0x11 => 12,
        0x21 => 36,
        _ if is_local => 0,
        // UDP, unix sockets and what is not specified: allowed, and no address for us (2.2).
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => 0,
        _ => return Err(NotAHeader("an address family that does not exist")),
    };
    if len < V2_FIXED + addresses && !is_local {
        return Err(NotAHeader("it is too short for its addresses"));
    }
    if bytes.len() < len {
        return Ok(Parsed::Incomplete);
    }
    let body = &bytes[V2_FIXED..len];
    let source = match family {
        _ if is_local => None,
        0x11 => {
            let address: [u8; 4] = body[..4].try_into().expect("four bytes");
            let port = u16::from_be_bytes([body[8], body[9]]);
            Some(SocketAddr::new(IpAddr::V4(address.into()), port))
        }
        0x21 => {
            let address: [u8; 16] = body[..16].try_into().expect("sixteen bytes");
            let port = u16::from_be_bytes([body[32], body[33]]);
            Some(SocketAddr::new(IpAddr::V6(address.into()), port))
        }
        _ => None,
    };
    Ok(Parsed::Header { len, source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[command, family]);
        bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn source(bytes: &[u8]) -> Result<Option<String>, &'static str> {
        match parse(bytes) {
            Ok(Parsed::Header { len, source }) => {
                assert_eq!(len, bytes.len());
                Ok(source.map(|source| source.to_string()))
            }
            Ok(Parsed::Incomplete) => Err("incomplete"),
            Err(error) => Err(error.as_str()),
        }
    }

    #[test]
    fn headers_say_who_it_is() {
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
                Some("192.0.2.1:56324"),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
                Some("[2001:db8::1]:1"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 what ever 1 2\r\n", None),
        ] {
            assert_eq!(source(line.as_bytes()), Ok(expected.map(str::to_owned)));
        }
        let four = [192, 0, 2, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        assert_eq!(
            source(&v2(0x21, 0x11, &four)),
            Ok(Some("192.0.2.9:4660".into()))
        );
        let mut with_tlvs = four.to_vec();
        with_tlvs.extend_from_slice(&[0x03, 0, 4, 1, 2, 3, 4]);
        assert_eq!(
            source(&v2(0x21, 0x11, &with_tlvs)),
            Ok(Some("192.0.2.9:4660".into()))
        );
        let mut six = [0; 36];
        six[15] = 1;
        six[33] = 7;
        assert_eq!(source(&v2(0x21, 0x21, &six)), Ok(Some("[::1]:7".into())));
        assert_eq!(source(&v2(0x20, 0x00, b"")), Ok(None));
        assert_eq!(source(&v2(0x20, 0x11, b"x")), Ok(None), "LOCAL");
        assert_eq!(source(&v2(0x21, 0x31, &[0; 216])), Ok(None), "unix");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bytes in [
            &b"\x10\x0C\x00\x04MQTT\x04\x02\x00\x00\x00\x00"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 056 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +56 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            b"PROXY TCP4 192.0.2.1  198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 ::1 ::1 56324 443\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.1 1 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY \r\n",
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x41, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x11, &[0; V2_MAX]),
            &[b'P'; 200],
        ] {
            assert!(parse(bytes).is_err(), "{bytes:x?}");
        }
        let mut endless = b"PROXY UNKNOWN ".to_vec();
        endless.resize(V1_MAX, b'x');
        assert!(parse(&endless).is_err());
        endless.truncate(V1_MAX - 1);
        assert_eq!(parse(&endless), Ok(Parsed::Incomplete));
    }

    proptest! {
        #[test]
        fn beginnings_of_a_header_are_incomplete_and_what_follows_is_not_its_own(
            address in any::<u32>(), port in any::<u16>(), is_v2 in any::<bool>(),
            tail in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let expected = SocketAddr::new(IpAddr::V4(address.into()), port);
            let header = if is_v2 {
                let mut body = address.to_be_bytes().to_vec();
                body.extend_from_slice(&[1, 2, 3, 4]);
                body.extend_from_slice(&port.to_be_bytes());
                body.extend_from_slice(&[0, 1]);
                body.extend_from_slice(&tail);
                v2(0x21, 0x11, &body)
            } else {
                format!("PROXY TCP4 {} 10.0.0.1 {port} 1883\r\n", expected.ip()).into_bytes()
            };
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&header[..cut]), Ok(Parsed::Incomplete));
            }
            let mut bytes = header.clone();
            bytes.extend_from_slice(&tail);
            let whole = Parsed::Header { len: header.len(), source: Some(expected) };
            prop_assert_eq!(parse(&bytes), Ok(whole));
        }

        #[test]
        fn more_bytes_never_change_what_was_said(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            start in prop_oneof![Just(&b""[..]), Just(&b"PROXY "[..]), Just(&SIGNATURE[..])],
        ) {
            let mut all = start.to_vec();
            all.extend_from_slice(&bytes);
            let mut said = None;
            for cut in 0..=all.len() {
                let now = parse(&all[..cut]);
                if let Ok(Parsed::Header { len, .. }) = now {
                    prop_assert!(len <= cut && len <= V2_MAX);
                }
                if let Some(before) = said {
                    prop_assert_eq!(now, before);
                }
                if now != Ok(Parsed::Incomplete) {
                    said = Some(now);
                }
            }
        }
    }
}
