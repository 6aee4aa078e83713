//! SCRAM-SHA-256 on the server's side (RFC 5802, RFC 7677): four messages, and what they prove.
//!
//! ```text
//! client                                    server
//! n,,n=USER,r=NONCE                      ─▶
//!                                        ◀─ r=NONCE+OURS,s=SALT,i=ITERATIONS
//! c=BINDING,r=NONCE+OURS,p=PROOF         ─▶
//!                                        ◀─ v=SIGNATURE
//! ```
//!
//! The proof shows that the client knows the password, the signature that the server knows what was
//! made of it; the password itself is never sent. All that is computed here is a few HMACs: what
//! takes long, PBKDF2, is the client's work, and was ours when the password was set.
//!
//! What we chose where the standard leaves a choice:
//!
//! * No channel binding: `p=` is refused, `n` and `y` are taken (section 6).
//! * An authorization identity is taken if it is the user's own name.
//! * Names are compared as they are, byte by byte. SASLprep (RFC 4013) would fold some that look
//!   alike; a name that its client has not prepared as the password file has it is unknown here.
//!   Passwords never come here; `fieldgate passwd` makes verifiers of printable ASCII only, which
//!   preparation leaves as it is.
//! * Optional extensions are passed over, a mandatory one (`m=`) is refused.

use core::fmt;

use data_encoding::BASE64;
use ring::{digest, hmac};

use super::{PasswordHash, SHA256_BYTES, Scheme, are_equal};

/// The Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Bytes of a client's message at most. A name of 1000 characters and a nonce of 100 fit easily.
pub const MESSAGE_MAX: usize = 4096;

/// A key, a digest, or a signature.
pub type Bytes = [u8; SHA256_BYTES];

/// Why an exchange has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramError {
    /// The client's message is longer than [`MESSAGE_MAX`].
    TooLong,
    /// It is not as the standard writes it.
    Malformed,
    /// It wants its channel bound.
    ChannelBinding,
    /// It wants to act as somebody else.
    OtherIdentity,
    /// It has a mandatory extension; none is known.
    Extension,
    /// It answers something else than what was asked.
    Mismatch,
    /// The proof is wrong, or there is no such user.
    Refused,
}

impl ScramError {
    /// What its client may be told.
    pub const fn reason_string(self) -> &'static str {
        match self {
            Self::TooLong => "the SCRAM message is too long",
            Self::Malformed => "the SCRAM message is malformed",
            Self::ChannelBinding => "channel binding is not supported",
            Self::OtherIdentity => "nobody may act as somebody else",
            Self::Extension => "a mandatory SCRAM extension is not supported",
            Self::Mismatch => "nonce or channel binding are not those of this exchange",
            Self::Refused => "unknown user or wrong password",
        }
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason_string())
    }
}

impl std::error::Error for ScramError {}

/// StoredKey and ServerKey, from what PBKDF2 made of the password.
pub fn keys(salted_password: &[u8]) -> [Bytes; 2] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salted_password);
    let client_key = bytes(hmac::sign(&key, b"Client Key").as_ref());
    [
        hash(&client_key),
        bytes(hmac::sign(&key, b"Server Key").as_ref()),
    ]
}

/// The client's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// Who it is, with `=2C` and `=3D` read as what they stand for.
    pub user: Box<str>,
    /// What it says about channel binding and identity, with both commas.
    header: &'a str,
    /// What follows.
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// If it is none, or asks for what we do not do.
    pub fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let text = text(message)?;
        let (binding, rest) = text.split_once(',').ok_or(ScramError::Malformed)?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed),
        }
        let (identity, bare) = rest.split_once(',').ok_or(ScramError::Malformed)?;
        let header = &text[..text.len() - bare.len()];
        let mut fields = bare.split(',');
        let name = field(fields.next(), "n=")?;
        let nonce = field(fields.next(), "r=")?;
        let user = unescape(name)?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed);
        }
        check_extensions(fields)?;
        if !identity.is_empty() && unescape(field(Some(identity), "a=")?)? != user {
            return Err(ScramError::OtherIdentity);
        }
        Ok(Self {
            user,
            header,
            bare,
            nonce,
        })
    }
}

/// An exchange that waits for its proof.
#[derive(Clone)]
pub struct Exchange {
    user: Box<str>,
    /// `c=` of the answer.
    binding: Box<str>,
    /// What both have signed so far, with a comma at its end.
    signed: Box<str>,
    /// Where our message stands in that.
    ours: core::ops::Range<usize>,
    /// Bytes of the nonce behind the `r=` with which our message begins.
    nonce_len: usize,
    verifier: PasswordHash,
}

impl Exchange {
    /// Answers the client's first message: the salt and the rounds are the verifier's.
    ///
    /// `nonce` has never been used before, nobody can foresee it, and it is printable and without a
    /// comma. `None` if the verifier is not one of SCRAM.
    pub fn begin(first: &ClientFirst<'_>, verifier: PasswordHash, nonce: &str) -> Option<Self> {
        let Scheme::ScramSha256 { iterations } = verifier.scheme else {
            return None;
        };
        let (theirs, salt) = (first.nonce, BASE64.encode(&verifier.salt));
        let server_first = format!("r={theirs}{nonce},s={salt},i={iterations}");
        let start = first.bare.len() + 1;
        Some(Self {
            user: first.user.clone(),
            binding: BASE64.encode(first.header.as_bytes()).into(),
            signed: format!("{},{server_first},", first.bare).into(),
            ours: start..start + server_first.len(),
            nonce_len: theirs.len() + nonce.len(),
            verifier,
        })
    }

    /// Our first message.
    pub fn server_first(&self) -> &str {
        &self.signed[self.ours.clone()]
    }

    /// Whose proof is awaited.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What the proof is compared with.
    pub fn verifier(&self) -> &PasswordHash {
        &self.verifier
    }

    /// Bytes that it holds beside itself.
    pub fn footprint(&self) -> usize {
        let verifier = self.verifier.salt.len() + self.verifier.digest.len();
        self.user.len() + self.binding.len() + self.signed.len() + verifier
    }

    /// Checks the client's proof. What comes back is our last message, with which the client checks
    /// us.
    ///
    /// # Errors
    /// If the message is not the answer to ours, or proves nothing.
    pub fn finish(&self, message: &[u8]) -> Result<String, ScramError> {
        let text = text(message)?;
        // The proof is the last, and what stands before it is signed.
        let (unproven, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut fields = unproven.split(',');
        let binding = field(fields.next(), "c=")?;
        let nonce = field(fields.next(), "r=")?;
        check_extensions(fields)?;
        let proof: Bytes = BASE64
            .decode(proof.as_bytes())
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or(ScramError::Malformed)?;
        let asked = &self.server_first()["r=".len()..][..self.nonce_len];
        if binding != &*self.binding || nonce != asked {
            return Err(ScramError::Mismatch);
        }
        let signed = format!("{}{unproven}", self.signed);
        let (stored_key, server_key) = self.verifier.digest.split_at(SHA256_BYTES);
        let signature = sign(stored_key, signed.as_bytes());
        let client_key: Bytes = core::array::from_fn(|at| proof[at] ^ signature[at]);
        if !are_equal(&hash(&client_key), stored_key) {
            return Err(ScramError::Refused);
        }
        let signature = sign(server_key, signed.as_bytes());
        Ok(format!("v={}", BASE64.encode(&signature)))
    }
}

/// Without what could be used.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({:?})", self.user)
    }
}

/// 32 bytes that nobody else knows, and what follows from them. They are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// From something that is not known to others, however long.
    pub fn new(of: &[u8]) -> Self {
        Self(hash(of))
    }

    /// The `count`-th nonce: it tells nothing about the others, nor about the secret.
    pub fn nonce(&self, count: u64) -> String {
        let bytes = self.derive("nonce", &count.to_be_bytes());
        BASE64.encode(&bytes[..18])
    }

    /// A verifier for a user whom nobody knows: the same for each asking, made like `sample`, and
    /// no password's.
    #[must_use]
    pub fn decoy(&self, user: &str, sample: &PasswordHash) -> PasswordHash {
        let user = user.as_bytes();
        let salt = [self.derive("salt", user), self.derive("more salt", user)].concat();
        let keys = [
            self.derive("stored key", user),
            self.derive("server key", user),
        ];
        PasswordHash {
            scheme: sample.scheme,
            salt: salt[..sample.salt.len().min(salt.len())].into(),
            digest: keys.concat().into(),
        }
    }

    /// A number below `bound` that goes with the name: the same for each asking.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn pick(&self, user: &str, bound: usize) -> usize {
        let bytes = self.derive("pick", user.as_bytes());
        bytes[..8]
            .iter()
            .fold(0, |rest, byte| (rest << 8 | usize::from(*byte)) % bound)
    }

    fn derive(&self, what: &str, of: &[u8]) -> Bytes {
        let what = format!("{what}:");
        sign(&self.0, &[what.as_bytes(), of].concat())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_MAX {
        return Err(ScramError::TooLong);
    }
    let text = core::str::from_utf8(message).map_err(|_| ScramError::Malformed)?;
    if text.contains('\0') {
        return Err(ScramError::Malformed);
    }
    Ok(text)
}

/// The value of the next field, which has to be this one.
fn field<'t>(field: Option<&'t str>, name: &str) -> Result<&'t str, ScramError> {
    let field = field.ok_or(ScramError::Malformed)?;
    match field.strip_prefix(name) {
        Some(value) => Ok(value),
        None if field.starts_with("m=") => Err(ScramError::Extension),
        None => Err(ScramError::Malformed),
    }
}

/// What may follow: a letter and a value each.
fn check_extensions<'t>(mut fields: impl Iterator<Item = &'t str>) -> Result<(), ScramError> {
    fields.try_for_each(|field| {
        let (name, value) = field.split_once('=').ok_or(ScramError::Malformed)?;
        match name.as_bytes() {
            [b'm'] => Err(ScramError::Extension),
            [letter] if letter.is_ascii_alphabetic() && !value.is_empty() => Ok(()),
            _ => Err(ScramError::Malformed),
        }
    })
}

/// A name as it is meant (`saslname` of RFC 5802, section 5.1).
fn unescape(name: &str) -> Result<Box<str>, ScramError> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(ScramError::Malformed);
    }
    let mut parts = name.split('=');
    let mut meant = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(ScramError::Malformed),
        };
        meant.push(sign);
        meant.push_str(rest);
    }
    Ok(meant.into())
}

fn sign(key: &[u8], message: &[u8]) -> Bytes {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    bytes(hmac::sign(&key, message).as_ref())
}

fn hash(of: &[u8]) -> Bytes {
    bytes(digest::digest(&digest::SHA256, of).as_ref())
}

fn bytes(of: &[u8]) -> Bytes {
    of.try_into().expect("SHA-256 makes 32 bytes")
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU32;

    use ring::pbkdf2;

    use super::*;

    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// Of the example of RFC 7677, section 3: user `user`, password `pencil`.
    fn verifier() -> PasswordHash {
        let salt = BASE64.decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let iterations = NonZeroU32::new(4096).unwrap();
        let mut salted = [0; SHA256_BYTES];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, &salt, b"pencil", &mut salted);
        PasswordHash {
            scheme: Scheme::ScramSha256 { iterations },
            salt: salt.into(),
            digest: keys(&salted).concat().into(),
        }
    }

    fn begin(first: &str) -> Exchange {
        let first = ClientFirst::parse(first.as_bytes()).unwrap();
        Exchange::begin(&first, verifier(), NONCE).unwrap()
    }

    #[test]
    fn the_example_of_rfc_7677_is_followed_to_the_letter() {
        let exchange = begin(CLIENT_FIRST);
        assert_eq!(exchange.user(), "user");
        assert_eq!(
            exchange.server_first(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = exchange.finish(CLIENT_FINAL.as_bytes());
        assert_eq!(
            last.unwrap(),
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        assert!(!format!("{exchange:?}").contains("W22Z"));
    }

    #[test]
    fn a_first_message_is_what_the_grammar_says() {
        use ScramError::*;
        let parse = |text: &str| ClientFirst::parse(text.as_bytes()).map(|first| first.user);
        for (text, user) in [
            ("n,,n=a,r=x", "a"),
            ("y,,n=a,r=x", "a"),
            ("n,a=a,n=a,r=x", "a"),
            ("n,,n=b=2Cc=3Dd,r=x", "b,c=d"),
            ("n,a=b=2Cc,n=b=2Cc,r=x", "b,c"),
            ("n,,n=ü b,r=x", "ü b"),
            ("n,,n=a,r=x,t=1,z=o=o", "a"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(user), "{text}");
        }
        for (text, error) in [
            ("", Malformed),
            ("n", Malformed),
            ("n,", Malformed),
            ("n,,", Malformed),
            ("x,,n=a,r=x", Malformed),
            ("nn,,n=a,r=x", Malformed),
            ("n,,n=a", Malformed),
            ("n,,n=,r=x", Malformed),
            ("n,,n=a,r=", Malformed),
            ("n,,r=x,n=a", Malformed),
            ("n,,n=a,r=x y", Malformed),
            ("n,,n=a,r=ü", Malformed),
            ("n,,n=a=2c,r=x", Malformed),
            ("n,,n=a=,r=x", Malformed),
            ("n,,n=a\0,r=x", Malformed),
            ("n,,n=a\n,r=x", Malformed),
            ("n,,n=a,r=x,", Malformed),
            ("n,,n=a,r=x,tt=1", Malformed),
            ("n,b,n=a,r=x", Malformed),
            ("p=tls-unique,,n=a,r=x", ChannelBinding),
            ("n,a=b,n=a,r=x", OtherIdentity),
            ("n,,m=must,n=a,r=x", Extension),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        let long = format!("n,,n={},r=x", "a".repeat(MESSAGE_MAX));
        assert_eq!(parse(&long), Err(TooLong));
        assert_eq!(ClientFirst::parse(b"n,,n=\xFF,r=x"), Err(Malformed));
    }

    #[test]
    fn a_last_message_answers_its_own_exchange_and_proves_the_password() {
        let exchange = begin(CLIENT_FIRST);
        let changed = |from: &str, to: &str| {
            let text = CLIENT_FINAL.replacen(from, to, 1);
            assert_ne!(text, CLIENT_FINAL);
            exchange.finish(text.as_bytes())
        };
        for (from, to, error) in [
            ("c=biws", "c=eSws", ScramError::Mismatch), // "y,,"
            ("c=biws", "c=biws=", ScramError::Mismatch),
            ("hNlF$k0", "hNlF$k1", ScramError::Mismatch),
            ("hNlF$k0", "", ScramError::Mismatch),
            ("r=rO", "r=r0", ScramError::Mismatch),
            ("dHzb", "dHzc", ScramError::Refused),
            (",p=", ",x=1,p=", ScramError::Refused), // what is signed counts
            (",p=", ",m=1,p=", ScramError::Extension),
            ("ndVQ=", "ndVQ", ScramError::Malformed),
            ("ndVQ=", "", ScramError::Malformed),
            (",p=", ",q=", ScramError::Malformed),
            ("c=biws,", "", ScramError::Malformed),
            ("c=biws,", "m=1,c=biws,", ScramError::Extension),
        ] {
            assert_eq!(changed(from, to), Err(error), "{from} {to}");
        }
        // The proof of one exchange is none of another.
        let first = ClientFirst::parse(CLIENT_FIRST.as_bytes()).unwrap();
        let other = Exchange::begin(&first, verifier(), "other").unwrap();
        let replayed = other.finish(CLIENT_FINAL.as_bytes());
        assert_eq!(replayed, Err(ScramError::Mismatch));
    }

    #[test]
    fn only_scrams_own_verifiers_serve() {
        let first = ClientFirst::parse(CLIENT_FIRST.as_bytes()).unwrap();
        let iterations = NonZeroU32::new(4096).unwrap();
        let other = PasswordHash {
            scheme: Scheme::Pbkdf2Sha512 { iterations },
            ..verifier()
        };
        assert!(Exchange::begin(&first, other, NONCE).is_none());
    }

    #[test]
    fn decoys_look_like_others_and_stay_the_same() {
        let (secret, sample) = (Secret::new(b"one"), verifier());
        let decoy = secret.decoy("nobody", &sample);
        assert_eq!(decoy.scheme, sample.scheme);
        assert_eq!(decoy.salt.len(), sample.salt.len());
        assert_eq!(decoy.digest.len(), sample.digest.len());
        assert_eq!(decoy, secret.decoy("nobody", &sample));
        assert_ne!(decoy.salt, secret.decoy("nobodx", &sample).salt);
        assert_ne!(
            decoy.salt,
            Secret::new(b"two").decoy("nobody", &sample).salt
        );
        assert_ne!(secret.nonce(1), secret.nonce(2));
        assert!((0..100).all(|at| secret.pick(&at.to_string(), 3) < 3));
        assert!(!format!("{secret:?}").contains(char::is_numeric));
    }
}
