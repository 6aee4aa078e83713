//! Comparing passwords: on a worker, for a good hash takes its time and its memory.
//!
//! One thread serves them one after the other, so that a flood of logins costs one core and the
//! memory of one hash. The queue is bounded by the broker, which asks for no more than
//! [`VERIFICATIONS_MAX`] at once.

use core::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use ring::{digest, pbkdf2};

use super::worker::{Answer, Mailbox, Worker};
use crate::broker::{Password, VERIFICATIONS_MAX};
use crate::credential::{PasswordHash, SHA256_BYTES, SHA512_BYTES, Scheme, are_equal, scram};
use crate::id::ConnId;

/// What the worker is asked.
#[derive(Debug)]
struct Request {
    conn: ConnId,
    hash: PasswordHash,
    password: Password,
}

/// The worker, once somebody has logged in.
#[derive(Debug)]
pub(super) struct Passwords {
    mailbox: Mailbox,
    worker: Option<Worker<Request>>,
}

impl Passwords {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            worker: None,
        }
    }

    /// Has a password compared; [`Answer::Verified`] tells. `false`: there is no thread for it, and
    /// no answer will come.
    pub(super) fn compare(&mut self, conn: ConnId, hash: PasswordHash, password: Password) -> bool {
        let request = Request {
            conn,
            hash,
            password,
        };
        let refused = match self.worker() {
            Some(worker) => worker.submit(request).is_err(),
            None => true,
        };
        if refused {
            log::error!("no worker compares passwords");
            self.worker = None;
        }
        !refused
    }

    fn worker(&mut self) -> Option<&Worker<Request>> {
        if self.worker.is_none() {
            let mailbox = self.mailbox.clone();
            let serve = move |request: Request| {
                let is_right = is_right(&request.hash, request.password.bytes());
                mailbox.post(Answer::Verified {
                    conn: request.conn,
                    is_right,
                });
            };
            // Those whose connection is gone are still in it.
            let queue_max = 2 * VERIFICATIONS_MAX;
            match Worker::start("passwords", queue_max, serve) {
                Ok(worker) => self.worker = Some(worker),
                Err(error) => log::error!("no thread to compare passwords: {error}"),
            }
        }
        self.worker.as_ref()
    }
}

/// Whether this is the password that the hash was made of.
pub(super) fn is_right(hash: &PasswordHash, password: &[u8]) -> bool {
    match hash.scheme {
        Scheme::Sha512 => {
            let mut context = digest::Context::new(&digest::SHA512);
            context.update(password);
            context.update(&hash.salt);
            are_equal(context.finish().as_ref(), &hash.digest)
        }
        Scheme::Pbkdf2Sha512 { iterations } => {
            let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
            pbkdf2::verify(algorithm, iterations, &hash.salt, password, &hash.digest).is_ok()
        }
        Scheme::Argon2id { .. } => {
            let mut digest = vec![0; hash.digest.len()];
            argon2id(hash.scheme, &hash.salt, password, &mut digest)
                && are_equal(&digest, &hash.digest)
        }
        Scheme::ScramSha256 { iterations } => are_equal(
            &scram_sha256(iterations, &hash.salt, password),
            &hash.digest,
        ),
    }
}

/// Makes a hash of a password. `None` if the scheme's numbers are not possible.
pub fn hash(scheme: Scheme, salt: &[u8], password: &[u8]) -> Option<PasswordHash> {
    let digest = match scheme {
        Scheme::Sha512 => {
            let mut context = digest::Context::new(&digest::SHA512);
            context.update(password);
            context.update(salt);
            context.finish().as_ref().to_vec()
        }
        Scheme::Pbkdf2Sha512 { iterations } => {
            let mut digest = vec![0; SHA512_BYTES];
            let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
            pbkdf2::derive(algorithm, iterations, salt, password, &mut digest);
            digest
        }
        Scheme::Argon2id { .. } => {
            let mut digest = vec![0; 32];
            if !argon2id(scheme, salt, password, &mut digest) {
                return None;
            }
            digest
        }
        Scheme::ScramSha256 { iterations } => scram_sha256(iterations, salt, password),
    };
    Some(PasswordHash {
        scheme,
        salt: salt.into(),
        digest: digest.into(),
    })
}

fn argon2id(scheme: Scheme, salt: &[u8], password: &[u8], digest: &mut [u8]) -> bool {
    let Scheme::Argon2id {
        memory_kib,
        passes,
        lanes,
    } = scheme
    else {
        return false;
    };
    let Ok(params) = Params::new(memory_kib, passes, lanes, Some(digest.len())) else {
        return false;
    };
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(password, salt, digest).is_ok()
}

/// StoredKey and ServerKey: of SCRAM, what is kept.
fn scram_sha256(iterations: NonZeroU32, salt: &[u8], password: &[u8]) -> Vec<u8> {
    let mut salted = [0; SHA256_BYTES];
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, iterations, salt, password, &mut salted);
    scram::keys(&salted).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_right_for_its_password_and_for_no_other() {
        let iterations = NonZeroU32::new(101).unwrap();
        for scheme in [
            Scheme::Sha512,
            Scheme::Pbkdf2Sha512 { iterations },
            Scheme::ScramSha256 {
                iterations: NonZeroU32::new(4096).unwrap(),
            },
            Scheme::Argon2id {
                memory_kib: 64,
                passes: 1,
                lanes: 1,
            },
        ] {
            let made = hash(scheme, b"saltsaltsalt", b"secret").unwrap();
            assert_eq!(PasswordHash::parse(&made.to_string()), Ok(made.clone()));
            assert!(is_right(&made, b"secret"));
            for other in [&b"Secret"[..], b"secre", b"secrets", b""] {
                assert!(!is_right(&made, other));
            }
            assert!(!is_right(&made.decoy(), b"secret"));
        }
    }
}
