//! What tells this gateway from others of its name: a random part of client identifiers, made once
//! and kept in the gateway's folder.

use std::fs;
use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;

use super::secret;

/// The file's name.
const NAME: &str = "identity";

/// Bytes of chance; the text has twice as many characters.
const BYTES: usize = 4;

/// The random part of the gateway whose folder this is. Makes it, and the folder, if there is none.
///
/// # Errors
/// If the file cannot be read or written, or does not hold what was once written: another part
/// would be another client to every upstream broker, whose session would be lost.
pub fn of(folder: &Path) -> io::Result<String> {
    let path = folder.join(NAME);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let part = text.trim_end();
            if HEXLOWER
                .decode(part.as_bytes())
                .is_ok_and(|it| it.len() == BYTES)
            {
                return Ok(part.to_owned());
            }
            let what = format!("it does not have {} hexadecimal digits", 2 * BYTES);
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let part = HEXLOWER.encode(&secret::salt()?[..BYTES]);
            fs::create_dir_all(folder)?;
            secret::replace(&path, format!("{part}\n").as_bytes())?;
            Ok(part)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_never_replaced() {
        let name = format!("fieldgate-identity-{}", std::process::id());
        let top = std::env::temp_dir().join(name);
        let folder = top.join("lib");
        let part = of(&folder).unwrap();
        assert_eq!(part.len(), 2 * BYTES);
        assert_eq!(of(&folder).unwrap(), part);
        fs::write(folder.join(NAME), "").unwrap();
        let error = of(&folder).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(fs::read_to_string(folder.join(NAME)).unwrap(), "");
        fs::remove_dir_all(&top).unwrap();
    }
}
