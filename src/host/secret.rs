//! What `fieldgate passwd` needs of the system: a password typed unseen, and a file replaced whole.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// Asks for a line without showing it, if a person is there to be asked; else reads one line of
/// standard input.
///
/// # Errors
/// If the terminal or standard input fails, or ends without a line.
pub fn ask(prompt: &str) -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line(&mut stdin.lock());
    }
    let before = tcgetattr(&stdin)?;
    let mut unseen = before.clone();
    unseen.local_flags.remove(LocalFlags::ECHO);
    unseen.local_flags.insert(LocalFlags::ECHONL);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &unseen)?;
    eprint!("{prompt}");
    let _ = io::stderr().flush();
    let typed = line(&mut stdin.lock());
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &before)?;
    typed
}

fn line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    if input.read_until(b'\n', &mut line)? == 0 {
        let what = "no password was given";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
    }
    while line
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        line.pop();
    }
    Ok(line)
}

/// A fresh salt from the kernel.
///
/// # Errors
/// If the kernel has none to give.
pub fn salt() -> io::Result<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    let random = SystemRandom::new();
    random
        .fill(&mut salt)
        .map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(salt)
}

/// Replaces a file by one with this content, so that whoever reads it sees the old one or the new
/// one. Owner and permissions stay; a new file is its owner's alone.
///
/// # Errors
/// What the file system says; the file is as it was then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // A link stays one, and its file is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = write_like(path, &new, content).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
        return written;
    }
    // The name survives a power cut only if its folder does.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_like(old: &Path, new: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(new)?;
    let mode = match fs::metadata(old) {
        Ok(like) => {
            chown(new, Some(like.uid()), Some(like.gid()))?;
            like.permissions().mode() & 0o7777
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0o600,
        Err(error) => return Err(error),
    };
    fs::set_permissions(new, Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_permissions_and_nothing_is_left_beside_it() {
        let folder = std::env::temp_dir().join(format!("fieldgate-secret-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("passwd");
        replace(&path, b"one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), mode(&path)),
            (b"two".to_vec(), 0o640)
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_line_ends_where_it_ends() {
        let mut input: &[u8] = b"secret\r\nmore";
        assert_eq!(line(&mut input).unwrap(), b"secret");
        assert_eq!(line(&mut input).unwrap(), b"more");
        assert!(line(&mut input).is_err());
    }

    #[test]
    fn salts_differ() {
        assert_ne!(salt().unwrap(), salt().unwrap());
    }
}
