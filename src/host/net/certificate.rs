//! The names in a certificate (RFC 5280): a reader of DER for what identifies a client, and no
//! more.
//!
//! It runs on certificates whose chain has been verified, but trusts them no further: everything is
//! total, and a name that could be read in two ways is none. Names that are empty, longer than
//! [`NAME_MAX`] bytes or with control characters are refused.

use core::fmt::Write as _;

use crate::gateway::settings::CertificateName;

/// The longest name that is taken, in bytes of UTF-8.
pub const NAME_MAX: usize = 512;

/// Why a certificate gives no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoName {
    /// It is not a certificate as RFC 5280 has them.
    Malformed,
    /// It has no such name.
    Missing,
    /// It has more than one common name.
    Ambiguous,
    /// It is empty, too long, or has characters that no name has.
    Unusable,
}

impl NoName {
    /// For the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "the client's certificate cannot be read",
            Self::Missing => "the client's certificate has no such name",
            Self::Ambiguous => "the client's certificate has several common names",
            Self::Unusable => "the name in the client's certificate is empty, long or not text",
        }
    }
}

/// The name that a certificate identifies its bearer by.
///
/// # Errors
/// If it has no such name, or none that can be used.
pub fn name_of(certificate: &[u8], which: CertificateName) -> Result<Box<str>, NoName> {
    let parts = Parts::read(certificate).ok_or(NoName::Malformed)?;
    let name = match which {
        CertificateName::CommonName => common_name(parts.subject)?,
        CertificateName::Subject => subject(parts.subject).ok_or(NoName::Malformed)?,
        CertificateName::Alternative => alternative(parts.extensions)?,
    };
    let is_fine = !name.is_empty()
        && name.len() <= NAME_MAX
        && !name.chars().any(|c| c.is_control() || c == '\u{FFFD}');
    if is_fine {
        Ok(name.into())
    } else {
        Err(NoName::Unusable)
    }
}

/// When a certificate ends, as it says: `YYYYMMDDHHMMSSZ`, which sorts as time does.
pub fn valid_until(certificate: &[u8]) -> Option<String> {
    let parts = Parts::read(certificate)?;
    let mut validity = Der(parts.validity);
    validity.next()?;
    let (tag, bytes) = validity.next()?;
    let text = core::str::from_utf8(bytes).ok()?;
    let is_time = text.is_ascii() && text.ends_with('Z');
    match (tag, text.len()) {
        // Two digits of a year (4.1.2.5.1).
        (0x17, 13) if is_time => {
            let century = if text[..2].parse::<u8>().ok()? < 50 {
                "20"
            } else {
                "19"
            };
            Some(format!("{century}{text}"))
        }
        (0x18, 15) if is_time => Some(text.to_owned()),
        _ => None,
    }
}

/// Pieces of DER, one after the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element's tag and contents. `None`: there is none, or it is not well formed.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        if tag & 0x1F == 0x1F {
            return None; // No tag of a certificate has more than one byte.
        }
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7F);
            if count == 0 || count > 3 || rest.len() < count {
                return None;
            }
            let (digits, rest) = rest.split_at(count);
            let len = digits
                .iter()
                .fold(0, |len, digit| len << 8 | usize::from(*digit));
            (len, rest)
        };
        let contents = rest.get(..len)?;
        self.0 = &rest[len..];
        Some((tag, contents))
    }

    /// The next element, which must be this one.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(tag, _)| *tag == wanted)
            .map(|(_, contents)| contents)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;

/// What is looked at of a certificate (4.1).
struct Parts<'a> {
    validity: &'a [u8],
    /// A sequence of relative names.
    subject: &'a [u8],
    /// A sequence of extensions; empty if there are none.
    extensions: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(certificate: &'a [u8]) -> Option<Self> {
        let whole = Der(certificate).expect(SEQUENCE)?;
        let mut signed = Der(Der(whole).expect(SEQUENCE)?);
        // The version, which is not there for the first.
        let mut after_version = signed;
        if after_version.expect(0xA0).is_some() {
            signed = after_version;
        }
        signed.expect(0x02)?; // serial number
        signed.expect(SEQUENCE)?; // algorithm
        signed.expect(SEQUENCE)?; // issuer
        let validity = signed.expect(SEQUENCE)?;
        let subject = signed.expect(SEQUENCE)?;
        signed.expect(SEQUENCE)?; // public key
        let mut extensions: &[u8] = &[];
        while !signed.is_empty() {
            let (tag, contents) = signed.next()?;
            if tag == 0xA3 {
                extensions = Der(contents).expect(SEQUENCE)?;
            }
        }
        Some(Self {
            validity,
            subject,
            extensions,
        })
    }
}

/// Every attribute of a name: the relative name it stands in, its type and its value's tag and
/// contents.
fn attributes(name: &[u8]) -> Option<Vec<Vec<Attribute<'_>>>> {
    let mut all = Vec::new();
    let mut names = Der(name);
    while !names.is_empty() {
        let mut set = Der(names.expect(SET)?);
        let mut one = Vec::new();
        while !set.is_empty() {
            let mut pair = Der(set.expect(SEQUENCE)?);
            let kind = pair.expect(OBJECT)?;
            let whole = pair.0;
            let (tag, contents) = pair.next()?;
            one.push(Attribute {
                kind,
                tag,
                contents,
                whole,
            });
        }
        all.push(one);
    }
    Some(all)
}

struct Attribute<'a> {
    /// An object identifier's contents.
    kind: &'a [u8],
    tag: u8,
    contents: &'a [u8],
    /// Tag, length and contents.
    whole: &'a [u8],
}

const COMMON_NAME: &[u8] = &[0x55, 4, 3];

fn common_name(name: &[u8]) -> Result<String, NoName> {
    let all = attributes(name).ok_or(NoName::Malformed)?;
    let mut found = all
        .iter()
        .flatten()
        .filter(|attribute| attribute.kind == COMMON_NAME);
    let first = found.next().ok_or(NoName::Missing)?;
    if found.next().is_some() {
        return Err(NoName::Ambiguous);
    }
    text(first.tag, first.contents).ok_or(NoName::Unusable)
}

/// A string of one of the sorts that names are made of; `None` for others.
fn text(tag: u8, bytes: &[u8]) -> Option<String> {
    match tag {
        0x0C => String::from_utf8(bytes.to_vec()).ok(),
        // Numeric, printable, IA5: all of them ASCII. Teletex is in practice Latin-1, of which only
        // ASCII is beyond doubt.
        0x12..=0x14 | 0x16 if bytes.is_ascii() => String::from_utf8(bytes.to_vec()).ok(),
        // BMPString
        0x1E if bytes.len().is_multiple_of(2) => {
            let units = bytes
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// The types that have short names (RFC 4514, section 3), and the two more that people use.
const SHORT: [(&[u8], &str); 11] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 9], "street"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 25],
        "DC",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 1],
        "UID",
    ),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 9, 1],
        "emailAddress",
    ),
    (&[0x55, 4, 5], "serialNumber"),
];

/// A whole name as a text (RFC 4514): the last part first, as `openssl x509 -nameopt RFC2253`
/// writes it.
fn subject(name: &[u8]) -> Option<String> {
    let mut out = String::new();
    for one in attributes(name)?.iter().rev() {
        if !out.is_empty() {
            out.push(',');
        }
        for (index, attribute) in one.iter().enumerate() {
            if index > 0 {
                out.push('+');
            }
            let short = SHORT.iter().find(|(kind, _)| *kind == attribute.kind);
            let value = text(attribute.tag, attribute.contents);
            if let (Some((_, short)), Some(value)) = (short, value) {
                let _ = write!(out, "{short}=");
                escape(&mut out, &value);
            } else {
                dotted(&mut out, attribute.kind)?;
                out.push_str("=#");
                for byte in attribute.whole {
                    let _ = write!(out, "{byte:02X}");
                }
            }
        }
    }
    Some(out)
}

/// A value with its special characters escaped (RFC 4514, section 2.4).
fn escape(out: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let is_special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (index == 0 && matches!(c, ' ' | '#'))
            || (index == last && c == ' ');
        if is_special {
            out.push('\\');
        }
        out.push(c);
    }
}

/// An object identifier with its dots.
fn dotted(out: &mut String, kind: &[u8]) -> Option<()> {
    let mut number: u64 = 0;
    let mut is_first = true;
    for byte in kind {
        number = number.checked_mul(128)? | u64::from(byte & 0x7F);
        if byte & 0x80 != 0 {
            continue;
        }
        if is_first {
            let root = (number / 40).min(2);
            let _ = write!(out, "{root}.{}", number - root * 40);
        } else {
            let _ = write!(out, ".{number}");
        }
        is_first = false;
        number = 0;
    }
    Some(())
}

/// The first name of the subject's alternative names that is an e-mail address, a DNS name or a
/// URI (4.2.1.6).
fn alternative(extensions: &[u8]) -> Result<String, NoName> {
    let names = alternatives(extensions).ok_or(NoName::Malformed)?;
    let mut names = Der(names.ok_or(NoName::Missing)?);
    while !names.is_empty() {
        let (tag, contents) = names.next().ok_or(NoName::Malformed)?;
        if matches!(tag, 0x81 | 0x82 | 0x86) {
            return text(0x16, contents).ok_or(NoName::Unusable);
        }
    }
    Err(NoName::Missing)
}

/// The names of the extension; `None` within, if it is not there.
#[expect(
    clippy::option_option,
    reason = "malformed and not there are different things"
)]
fn alternatives(extensions: &[u8]) -> Option<Option<&[u8]>> {
    let mut all = Der(extensions);
    while !all.is_empty() {
        let mut extension = Der(all.expect(SEQUENCE)?);
        let kind = extension.expect(OBJECT)?;
        if kind != [0x55, 0x1D, 17] {
            continue;
        }
        let (mut tag, mut contents) = extension.next()?;
        if tag == 0x01 {
            // Whether it is critical.
            (tag, contents) = extension.next()?;
        }
        if tag != 0x04 {
            return None;
        }
        return Some(Some(Der(contents).expect(SEQUENCE)?));
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn made(names: &[(DnType, &str)], alternatives: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = alternatives;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_client_is_called_as_its_certificate_says() {
        let certificate = made(
            &[
                (DnType::CountryName, "DE"),
                (DnType::OrganizationName, "Pumpen, Rohre + Co"),
                (DnType::CommonName, "pump-7 ü"),
            ],
            vec![
                SanType::IpAddress([192, 0, 2, 1].into()),
                SanType::DnsName("pump-7.example".try_into().unwrap()),
                SanType::URI("urn:pump:7".try_into().unwrap()),
            ],
        );
        let name = |which| name_of(&certificate, which);
        assert_eq!(name(CertificateName::CommonName), Ok("pump-7 ü".into()));
        assert_eq!(
            name(CertificateName::Subject),
            Ok("CN=pump-7 ü,O=Pumpen\\, Rohre \\+ Co,C=DE".into())
        );
        assert_eq!(
            name(CertificateName::Alternative),
            Ok("pump-7.example".into())
        );
    }

    #[test]
    fn other_sorts_of_text_and_of_names() {
        let bmp = DnValue::BmpString("größer".try_into().unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, bmp);
        let kind = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, 1]);
        params.distinguished_name.push(kind, "x");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let name = |which| name_of(certificate.der(), which);
        assert_eq!(name(CertificateName::CommonName), Ok("größer".into()));
        let whole = name(CertificateName::Subject).unwrap();
        assert!(
            whole.contains("1.3.6.1.4.1.99999.1=#0C0178") && whole.contains("CN=größer"),
            "{whole}"
        );
    }

    #[test]
    fn names_that_are_not_there_or_not_to_be_used() {
        let nameless = made(&[(DnType::OrganizationName, "x")], Vec::new());
        for which in [CertificateName::CommonName, CertificateName::Alternative] {
            assert_eq!(name_of(&nameless, which), Err(NoName::Missing));
        }
        let address = vec![SanType::IpAddress([192, 0, 2, 1].into())];
        assert_eq!(
            name_of(&made(&[], address), CertificateName::Alternative),
            Err(NoName::Missing)
        );
        assert_eq!(
            name_of(&made(&[], Vec::new()), CertificateName::Subject),
            Err(NoName::Unusable),
            "an empty subject"
        );
        let control = made(&[(DnType::CommonName, "root\0.example")], Vec::new());
        let long = made(&[(DnType::CommonName, &"x".repeat(600))], Vec::new());
        for certificate in [control, long] {
            assert_eq!(
                name_of(&certificate, CertificateName::CommonName),
                Err(NoName::Unusable)
            );
        }
    }

    #[test]
    fn two_common_names_are_none() {
        let one = [0x31, 0x0A, 0x30, 0x08, 6, 3, 0x55, 4, 3, 0x0C, 1, b'a'];
        let twice = [one, one].concat();
        assert_eq!(common_name(&one), Ok("a".into()));
        assert_eq!(common_name(&twice), Err(NoName::Ambiguous));
    }

    #[test]
    fn when_it_ends() {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2031, 7, 9);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(
            valid_until(certificate.der()).as_deref(),
            Some("20310709000000Z")
        );
        params.not_after = rcgen::date_time_ymd(4096, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(
            valid_until(certificate.der()).as_deref(),
            Some("40960101000000Z")
        );
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_is_read_without_harm(
            cut in any::<prop::sample::Index>(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = SAMPLE.with(Clone::clone);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            for which in [
                CertificateName::CommonName,
                CertificateName::Subject,
                CertificateName::Alternative,
            ] {
                if let Ok(name) = name_of(&bytes, which) {
                    prop_assert!(!name.is_empty() && name.len() <= NAME_MAX);
                }
            }
            let _ = valid_until(&bytes);
        }
    }

    std::thread_local! {
        static SAMPLE: Vec<u8> = made(
            &[(DnType::CommonName, "pump"), (DnType::CountryName, "DE")],
            vec![SanType::DnsName("pump.example".try_into().unwrap())],
        );
    }
}
