//! A file with 32 secret bytes, as base64: the private key of a node. Nobody but its owner may read it.

use base64ct::{Base64, Encoding};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// Overwritten when dropped.
pub type Secret = Zeroizing<[u8; LEN]>;

const LEN: usize = 32;
/// Characters of base64 with padding.
const TEXT_LEN: usize = 44;
/// More than a key and a line end: what is longer is something else.
const READ_MAX: usize = 256;
/// The owner reads and writes it.
const MODE: u32 = 0o600;

/// Where a secret is, and what to do when it is none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretFile {
    path: PathBuf,
    way_out: &'static str,
}

/// Why a file is no secret. What is in it is never repeated.
#[derive(Debug, Error)]
pub enum SecretFileError {
    #[error("{path}: {source}; {way_out}", path = path.display())]
    Io {
        path: PathBuf,
        source: io::Error,
        way_out: &'static str,
    },
    #[error("{path} is a secret, and is no ordinary file; {way_out}", path = path.display())]
    NotAFile {
        path: PathBuf,
        way_out: &'static str,
    },
    #[error(
        "{path} is a secret, and its mode {mode:04o} lets others at it: `chmod 600 {path}`; if anybody may have read it, {way_out}",
        path = path.display()
    )]
    Open {
        path: PathBuf,
        mode: u32,
        way_out: &'static str,
    },
    #[error(
        "{path} holds no key: a key has {TEXT_LEN} characters, and this file has {length}; {way_out}",
        path = path.display()
    )]
    Length {
        path: PathBuf,
        length: usize,
        way_out: &'static str,
    },
    #[error(
        "{path} holds no key: it is not base64 of {LEN} bytes (A-Z a-z 0-9 + / and one = at the end); {way_out}",
        path = path.display()
    )]
    Base64 {
        path: PathBuf,
        way_out: &'static str,
    },
    #[error("the system gives no random bytes for {path}", path = path.display())]
    Random { path: PathBuf },
}

impl SecretFile {
    /// `way_out` ends the sentences about a file that cannot be used, as "remove it".
    #[must_use]
    pub const fn new(path: PathBuf, way_out: &'static str) -> Self {
        Self { path, way_out }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret; `None` when there is no file.
    ///
    /// # Errors
    /// When it cannot be read, others may read or write it, or it is not a key.
    pub fn read(&self) -> Result<Option<Secret>, SecretFileError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let metadata = file.metadata().map_err(|error| self.io(error))?;
        if !metadata.is_file() {
            return Err(SecretFileError::NotAFile {
                path: self.path.clone(),
                way_out: self.way_out,
            });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretFileError::Open {
                path: self.path.clone(),
                mode,
                way_out: self.way_out,
            });
        }
        // Of fixed size: a buffer that grows leaves copies behind.
        let mut buffer = Zeroizing::new([0; READ_MAX]);
        let mut length = 0;
        loop {
            match file.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(error)),
            }
        }
        self.decode(buffer[..length].trim_ascii_end()).map(Some)
    }

    /// The secret, made now if there is no file.
    ///
    /// # Errors
    /// As [`SecretFile::read`] and [`SecretFile::replace`].
    pub fn read_or_make(&self) -> Result<Secret, SecretFileError> {
        match self.read()? {
            Some(secret) => Ok(secret),
            None => self.replace(),
        }
    }

    /// Puts a new secret in the file's place, whatever was there. A reader finds the old or the new one, never half of one.
    ///
    /// # Errors
    /// When the disk refuses; what was there then still stands.
    pub fn replace(&self) -> Result<Secret, SecretFileError> {
        let mut secret = Zeroizing::new([0; LEN]);
        SystemRandom::new()
            .fill(secret.as_mut_slice())
            .map_err(|_| SecretFileError::Random {
                path: self.path.clone(),
            })?;
        self.write(&secret).map_err(|error| self.io(error))?;
        Ok(secret)
    }

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), SecretFileError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(error)),
            _ => Ok(()),
        }
    }

    fn write(&self, secret: &Secret) -> io::Result<()> {
        let mut text = Zeroizing::new([0; TEXT_LEN + 1]);
        Base64::encode(secret.as_slice(), text.as_mut_slice())
            .unwrap_or_else(|_| unreachable!("32 bytes are 44 characters of base64"));
        text[TEXT_LEN] = b'\n';
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = self.path.with_file_name(name);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&fresh)?;
        file.write_all(text.as_slice())?;
        // Root makes it for the user whose directory it is, who could not read it else.
        let owner = fs::metadata(directory)?;
        if file.metadata()?.uid() == 0 && owner.uid() != 0 {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        File::open(directory)?.sync_all()
    }

    fn decode(&self, text: &[u8]) -> Result<Secret, SecretFileError> {
        if text.len() != TEXT_LEN {
            return Err(SecretFileError::Length {
                path: self.path.clone(),
                length: text.len(),
                way_out: self.way_out,
            });
        }
        let mut secret = Zeroizing::new([0; LEN]);
        match Base64::decode(text, secret.as_mut_slice()) {
            Ok(decoded) if decoded.len() == LEN => Ok(secret),
            _ => Err(SecretFileError::Base64 {
                path: self.path.clone(),
                way_out: self.way_out,
            }),
        }
    }

    fn io(&self, source: io::Error) -> SecretFileError {
        SecretFileError::Io {
            path: self.path.clone(),
            source,
            way_out: self.way_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const WAY_OUT: &str = "make a new one";

    /// A file in a directory of its own.
    fn file(test: &str) -> SecretFile {
        let name = format!("sluice-secret-{test}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        SecretFile::new(directory.join("deep").join("node.key"), WAY_OUT)
    }

    fn cleared(file: &SecretFile) {
        let directory = file.path().parent().and_then(Path::parent).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_secret_is_made_once_for_its_owner_alone_and_can_be_replaced() {
        let file = file("made");
        assert!(file.read().unwrap().is_none());
        let made = file.read_or_make().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(file.path()), 0o600);
        assert_eq!(mode(file.path().parent().unwrap()), 0o700);
        assert_eq!(fs::read(file.path()).unwrap().len(), TEXT_LEN + 1);
        assert_eq!(*file.read_or_make().unwrap(), *made);
        // What a process that was killed left behind is in nobody's way.
        fs::write(file.path().with_file_name("node.key.new"), "half").unwrap();
        let replaced = file.replace().unwrap();
        assert_ne!(*replaced, *made);
        assert_eq!(**file.read().unwrap().as_ref().unwrap(), *replaced);
        assert_eq!(mode(file.path()), 0o600);
        assert_eq!(
            fs::read_dir(file.path().parent().unwrap()).unwrap().count(),
            1
        );
        file.remove().unwrap();
        file.remove().unwrap();
        assert!(file.read().unwrap().is_none());
        cleared(&file);
    }

    /// Each error names the file, what is wrong with it and the way out, and nothing of what is in it.
    #[test]
    fn a_file_that_is_no_secret_is_refused_by_name() {
        let file = file("refused");
        let secret = file.replace().unwrap();
        let mut text = [0; TEXT_LEN];
        let text = Base64::encode(secret.as_slice(), &mut text).unwrap();
        let short = &text[..43];
        for (holds, wrong) in [
            (String::new(), "this file has 0"),
            (short.to_owned(), "this file has 43"),
            (format!("{text}\n{text}\n"), "this file has 89"),
            ("A".repeat(400), "this file has 256"),
            (format!("{}-_=", &text[..41]), "not base64 of 32 bytes"),
            ("A".repeat(44), "not base64 of 32 bytes"),
        ] {
            fs::write(file.path(), &holds).unwrap();
            let error = file.read_or_make().unwrap_err().to_string();
            let path = file.path().display().to_string();
            assert!(error.starts_with(&path), "{error}");
            assert!(error.contains(wrong), "{error}");
            assert!(error.ends_with(WAY_OUT), "{error}");
            assert!(holds.is_empty() || !error.contains(&holds), "{error}");
            assert_eq!(fs::read_to_string(file.path()).unwrap(), holds, "kept");
        }
        fs::write(file.path(), text).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            let error = file.read().unwrap_err().to_string();
            assert!(error.contains(&format!("its mode 0{mode:o}")), "{error}");
            assert!(error.contains("`chmod 600 /"), "{error}");
        }
        fs::set_permissions(file.path(), PermissionsExt::from_mode(0o400)).unwrap();
        assert_eq!(**file.read().unwrap().as_ref().unwrap(), *secret);
        file.remove().unwrap();
        fs::create_dir(file.path()).unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("is no ordinary file"), "{error}");
        cleared(&file);
    }
}
