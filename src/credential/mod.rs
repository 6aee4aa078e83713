//! Passwords as they are kept: mosquitto's three formats, and a fourth for SCRAM.
//!
//! | text | is | since mosquitto |
//! |---|---|---|
//! | `$6$SALT$HASH` | SHA-512 of password and salt | 1.0 |
//! | `$7$ITERATIONS$SALT$HASH` | PBKDF2 with HMAC-SHA-512 | 2.0 |
//! | `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH` | Argon2id, a PHC string | 2.1 |
//! | `$scram-sha-256$i=ITERATIONS$SALT$STOREDKEY$SERVERKEY` | what RFC 5802 calls so | never |
//!
//! Here they are read and written. Computing one takes from microseconds to a second: that is a
//! worker's job. What SCRAM does with the last without knowing the password is in [`scram`].

pub mod scram;

use core::fmt;
use core::hint::black_box;
use core::num::NonZeroU32;

use data_encoding::{BASE64, BASE64_NOPAD, Encoding};

/// Bytes of a SHA-512 digest.
pub const SHA512_BYTES: usize = 64;

/// Bytes of a SHA-256 digest.
pub const SHA256_BYTES: usize = 32;

/// What a password is compared with.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    /// How it was made.
    pub scheme: Scheme,
    /// Mixed into it, so that two users with one password do not share a hash.
    pub salt: Box<[u8]>,
    /// The result; of SCRAM, StoredKey and then ServerKey.
    pub digest: Box<[u8]>,
}

/// How a hash is made, with its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// SHA-512 of the password and then the salt, once.
    Sha512,
    /// PBKDF2 with HMAC-SHA-512.
    Pbkdf2Sha512 {
        /// Rounds.
        iterations: NonZeroU32,
    },
    /// Argon2id, version 1.3.
    Argon2id {
        /// Memory, in KiB.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// What SCRAM-SHA-256 keeps (RFC 5802, section 3): PBKDF2 with HMAC-SHA-256, and two keys of
    /// its result.
    ScramSha256 {
        /// Rounds.
        iterations: NonZeroU32,
    },
}

/// Limits on what a file may ask of us: a gateway must be able to afford every login.
const ITERATIONS_MAX: u32 = 10_000_000;
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
const SALT_MAX: usize = 64;

/// Rounds that RFC 7677 demands at least (section 4); clients refuse to make do with fewer.
pub const SCRAM_ITERATIONS_MIN: u32 = 4096;

/// Why a text is not a password hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashError {
    /// It does not begin as one of the formats.
    Unknown,
    /// A part is missing, or there is one too many.
    Parts,
    /// A number is missing, not a number, or beyond what we can afford.
    Number,
    /// Salt or hash are not base64, or not of the right length.
    Base64,
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "a password hash begins with $6$, $7$, $argon2id$ or $scram-sha-256$",
            Self::Parts => "the password hash does not have the parts of its format",
            Self::Number => "a number in the password hash is missing or out of range",
            Self::Base64 => "salt or digest of the password hash cannot be decoded",
        })
    }
}

impl std::error::Error for HashError {}

impl PasswordHash {
    /// Reads one.
    ///
    /// # Errors
    /// If it is none, or costs more than a gateway can afford.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let mut parts = text.split('$');
        if parts.next() != Some("") {
            return Err(HashError::Unknown);
        }
        let scheme = match parts.next() {
            Some("6") => Scheme::Sha512,
            Some("7") => {
                let iterations = number(parts.next(), ITERATIONS_MAX)?;
                Scheme::Pbkdf2Sha512 { iterations }
            }
            Some("argon2id") => argon2id(parts.next(), parts.next())?,
            Some("scram-sha-256") => scram_sha256(parts.next())?,
            _ => return Err(HashError::Unknown),
        };
        let is_scram = matches!(scheme, Scheme::ScramSha256 { .. });
        let (Some(salt), Some(digest)) = (parts.next(), parts.next()) else {
            return Err(HashError::Parts);
        };
        let server_key = if is_scram { parts.next() } else { Some("") };
        let (Some(server_key), None) = (server_key, parts.next()) else {
            return Err(HashError::Parts);
        };
        let encoding = scheme.encoding();
        let decode = |text: &str| {
            let bytes = encoding.decode(text.as_bytes());
            bytes.map_err(|_| HashError::Base64)
        };
        let (salt, mut digest, server_key) = (decode(salt)?, decode(digest)?, decode(server_key)?);
        let is_right_length = match scheme {
            Scheme::ScramSha256 { .. } => {
                digest.len() == SHA256_BYTES && server_key.len() == SHA256_BYTES
            }
            Scheme::Sha512 | Scheme::Pbkdf2Sha512 { .. } => digest.len() == SHA512_BYTES,
            // RFC 9106, section 3.1; a longer one is nobody's.
            Scheme::Argon2id { .. } => {
                (4..=SHA512_BYTES).contains(&digest.len()) && salt.len() >= 8
            }
        };
        if !is_right_length || salt.is_empty() || salt.len() > SALT_MAX {
            return Err(HashError::Base64);
        }
        digest.extend(server_key);
        Ok(Self {
            scheme,
            salt: salt.into(),
            digest: digest.into(),
        })
    }

    /// One that costs as much as this to compare with, and that no password has: for users whom
    /// nobody knows, so that the time of an answer does not tell.
    #[must_use]
    pub fn decoy(&self) -> Self {
        Self {
            digest: vec![0; self.digest.len()].into(),
            ..self.clone()
        }
    }
}

impl Scheme {
    fn encoding(self) -> Encoding {
        match self {
            Self::Sha512 | Self::Pbkdf2Sha512 { .. } | Self::ScramSha256 { .. } => BASE64,
            Self::Argon2id { .. } => BASE64_NOPAD,
        }
    }
}

fn number(text: Option<&str>, max: u32) -> Result<NonZeroU32, HashError> {
    let text = text.ok_or(HashError::Parts)?;
    let number: NonZeroU32 = text.parse().map_err(|_| HashError::Number)?;
    if number.get() > max {
        return Err(HashError::Number);
    }
    Ok(number)
}

fn argon2id(version: Option<&str>, costs: Option<&str>) -> Result<Scheme, HashError> {
    let (Some(version), Some(costs)) = (version, costs) else {
        return Err(HashError::Parts);
    };
    if version != "v=19" {
        return Err(HashError::Number);
    }
    let mut costs = costs.split(',');
    let mut cost = |name: &str, max| {
        let text = costs.next().and_then(|text| text.strip_prefix(name));
        number(text, max).map(NonZeroU32::get)
    };
    let memory_kib = cost("m=", MEMORY_KIB_MAX)?;
    let passes = cost("t=", PASSES_MAX)?;
    let lanes = cost("p=", LANES_MAX)?;
    // RFC 9106, section 3.1: at least eight blocks a lane.
    if costs.next().is_some() || memory_kib < 8 * lanes {
        return Err(HashError::Number);
    }
    Ok(Scheme::Argon2id {
        memory_kib,
        passes,
        lanes,
    })
}

/// Only the rounds may be chosen: the name of the scheme says the rest.
fn scram_sha256(cost: Option<&str>) -> Result<Scheme, HashError> {
    let cost = cost.ok_or(HashError::Parts)?;
    let iterations = number(cost.strip_prefix("i="), ITERATIONS_MAX)?;
    if iterations.get() < SCRAM_ITERATIONS_MIN {
        return Err(HashError::Number);
    }
    Ok(Scheme::ScramSha256 { iterations })
}

/// Whether the bytes are the same, in a time that does not tell where they differ.
pub fn are_equal(ours: &[u8], theirs: &[u8]) -> bool {
    if ours.len() != theirs.len() {
        return false;
    }
    let pairs = ours.iter().zip(theirs);
    black_box(pairs.fold(0, |all, (one, other)| all | black_box(one ^ other))) == 0
}

/// As it stands in a password file.
impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Sha512 => f.write_str("$6")?,
            Scheme::Pbkdf2Sha512 { iterations } => write!(f, "$7${iterations}")?,
            Scheme::Argon2id {
                memory_kib,
                passes,
                lanes,
            } => write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}")?,
            Scheme::ScramSha256 { iterations } => write!(f, "$scram-sha-256$i={iterations}")?,
        }
        let encoding = self.scheme.encoding();
        if let Scheme::ScramSha256 { .. } = self.scheme {
            let (stored, server) = self.digest.split_at(self.digest.len().min(SHA256_BYTES));
            let (salt, stored) = (encoding.encode(&self.salt), encoding.encode(stored));
            return write!(f, "${salt}${stored}${}", encoding.encode(server));
        }
        let (salt, digest) = (encoding.encode(&self.salt), encoding.encode(&self.digest));
        write!(f, "${salt}${digest}")
    }
}

/// Without the secret: a log is no place for it.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.scheme)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PBKDF2: &str = "$7$101$AAECAwQFBgcICQoL$\
        AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==";
    const ARGON2: &str = "$argon2id$v=19$m=47104,t=1,p=1$AAECAwQFBgcICQoLDA0ODw$\
        AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    const SCRAM: &str = "$scram-sha-256$i=4096$W22ZaJ0SNY7soEsUEjb6gQ==$\
        AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=$\
        ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    #[test]
    fn each_format_is_read_and_written_alike() {
        let sha512 = PBKDF2.replacen("$7$101$", "$6$", 1);
        for text in [PBKDF2, ARGON2, SCRAM, &sha512] {
            let hash = PasswordHash::parse(text).expect(text);
            assert_eq!(hash.to_string(), text);
            assert_ne!(hash.decoy(), hash);
            assert_eq!(hash.decoy().scheme, hash.scheme);
            assert!(!format!("{hash:?}").contains("AAEC"));
        }
    }

    #[test]
    fn what_is_no_hash_is_refused_with_the_part_that_is_wrong() {
        for (text, expected) in [
            ("", HashError::Unknown),
            ("secret", HashError::Unknown),
            ("$1$a$b", HashError::Unknown),
            ("$7", HashError::Parts),
            ("$7$101$AAEC", HashError::Parts),
            ("$7$0$AAEC$AAEC", HashError::Number),
            ("$7$-1$AAEC$AAEC", HashError::Number),
            ("$7$4000000000$AAEC$AAEC", HashError::Number),
            ("$6$AAEC$AAEC", HashError::Base64),
            ("$6$AA=EC$AAEC", HashError::Base64),
            ("$argon2id$v=16$m=64,t=1,p=1$AAEC$AAEC", HashError::Number),
            (
                "$argon2id$v=19$m=4000000000,t=1,p=1$AAEC$AAEC",
                HashError::Number,
            ),
            ("$argon2id$v=19$t=1,m=64,p=1$AAEC$AAEC", HashError::Parts),
            ("$argon2id$v=19$m=4,t=1,p=1$AAEC$AAEC", HashError::Number),
            ("$scram-sha-256", HashError::Parts),
            ("$scram-sha-256$4096$AAEC$AAEC$AAEC", HashError::Parts),
            ("$scram-sha-256$i=4095$AAEC$AAEC$AAEC", HashError::Number),
            ("$scram-sha-256$i=4096$AAEC$AAEC", HashError::Parts),
            ("$scram-sha-256$i=4096$AAEC$AAEC$AAEC", HashError::Base64),
        ] {
            assert_eq!(PasswordHash::parse(text), Err(expected), "{text}");
        }
        for text in [PBKDF2, SCRAM] {
            let longer = format!("{text}$");
            assert_eq!(PasswordHash::parse(&longer), Err(HashError::Parts));
        }
    }
}
