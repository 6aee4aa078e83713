//! Local time for people: what `sub -F` prints. The time zone is the C library's business.

use std::ffi::CString;
use std::mem::MaybeUninit;

use nix::libc;

use crate::time::WallTime;

/// Longer results of one conversion than this come out empty, as `strftime` has it.
const RESULT_MAX: usize = 256;

/// Formats a moment as `strftime` does, in the machine's time zone and the C locale. `None` if the
/// format contains a NUL, or the moment lies outside of what the calendar of this machine can say.
pub fn strftime(format: &str, at: WallTime) -> Option<String> {
    let format = CString::new(format).ok()?;
    // As wide as `time_t` is: 32 bits on some of our targets. For musl, that name is deprecated.
    let seconds = at.unix_nanos().div_euclid(1_000_000_000);
    #[expect(clippy::useless_conversion, reason = "they differ by target")]
    let seconds = seconds.try_into().ok()?;
    let mut fields = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both point to valid memory; the second is filled in exactly if the call does not
    // return null.
    let fields = unsafe {
        if libc::localtime_r(&raw const seconds, fields.as_mut_ptr()).is_null() {
            return None;
        }
        fields.assume_init()
    };
    let mut result = [0_u8; RESULT_MAX];
    // SAFETY: the buffer has the length that is said, the format ends with a NUL, and the fields
    // are filled in.
    let len = unsafe {
        libc::strftime(
            result.as_mut_ptr().cast(),
            result.len(),
            format.as_ptr(),
            &raw const fields,
        )
    };
    Some(String::from_utf8_lossy(&result[..len]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_a_year_in_every_zone() {
        let at = WallTime::from_unix_millis(1_795_428_000_123);
        assert_eq!(strftime("%Y", at).as_deref(), Some("2026"));
        assert_eq!(strftime("%s", at).as_deref(), Some("1795428000"));
        assert_eq!(strftime("", at).as_deref(), Some(""));
        assert_eq!(strftime("a\0b", at), None);
        let zone = strftime("%z", at).unwrap();
        assert_eq!(zone.len(), 5, "{zone}");
    }
}
