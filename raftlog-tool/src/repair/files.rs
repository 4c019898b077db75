//! Files for `repair`: everything is on the disk before the next step begins.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redisraft::log::segment::{parse_file_name, temporary_path, FileName};

use crate::failure::Failure;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

fn failed<'p>(verb: &'static str, path: &'p Path) -> impl Fn(io::Error) -> Failure + 'p {
    move |source| Failure::File { verb, path: path.to_path_buf(), source }
}

/// Sequences of the segment files, in order.
pub fn segments(directory: &Path) -> Result<Vec<u32>, Failure> {
    let mut sequences = Vec::new();
    for item in fs::read_dir(directory).map_err(failed("list", directory))? {
        let name = item.map_err(failed("list", directory))?.file_name();
        if let FileName::Segment(sequence) = parse_file_name(&name.to_string_lossy()) {
            sequences.push(sequence);
        }
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// The first `length` bytes of a file, or what there is; none if it is missing.
pub fn read_start(path: &Path, length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    if !path.exists() {
        return Ok(bytes);
    }
    let file = File::open(path).map_err(failed("open", path))?;
    file.take(length as u64).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(bytes)
}

pub fn sync_directory(path: &Path) -> Result<(), Failure> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("fsync", path))
}

/// Makes a directory of its own for what is cut, below `parent`; for its owner only, as META holds the secret.
pub fn cut_directory(parent: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(parent).map_err(failed("create", parent))?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    for number in 0.. {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let path = parent.join(format!("cut-{seconds}{suffix}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                sync_directory(parent)?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
    unreachable!("some number is free")
}

/// Copies a file into `directory`, with its name; one that is there already is the older one, and stays.
pub fn copy_into(file: &Path, directory: &Path) -> Result<(), Failure> {
    let target = directory.join(file.file_name().unwrap_or_default());
    if target.exists() {
        return Ok(());
    }
    fs::copy(file, &target).map_err(failed("copy", file))?;
    File::open(&target).and_then(|copy| copy.sync_all()).map_err(failed("fsync", &target))?;
    sync_directory(directory)
}

/// Moves a file into `directory`, with its name, also to another file system.
pub fn move_into(file: &Path, directory: &Path) -> Result<(), Failure> {
    let target = directory.join(file.file_name().unwrap_or_default());
    match fs::rename(file, &target) {
        Ok(()) => sync_directory(directory)?,
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy_into(file, directory)?;
            fs::remove_file(file).map_err(failed("remove", file))?;
        }
        Err(error) => return Err(failed("move", file)(error)),
    }
    sync_directory(file.parent().unwrap_or(file))
}

/// Zeros from `offset` to `end`, and no change of the length.
pub fn zero(file: &Path, offset: u64, end: u64) -> Result<(), Failure> {
    let handle = OpenOptions::new().write(true).open(file).map_err(failed("open", file))?;
    let mut at = offset;
    while at < end {
        let length = (ZEROS.len() as u64).min(end - at) as usize;
        handle.write_all_at(&ZEROS[..length], at).map_err(failed("write zeros to", file))?;
        at += length as u64;
    }
    handle.sync_all().map_err(failed("fsync", file))
}

/// Writes bytes into a file in place.
pub fn write_at(file: &Path, bytes: &[u8], offset: u64) -> Result<(), Failure> {
    let handle = OpenOptions::new().write(true).open(file).map_err(failed("open", file))?;
    handle.write_all_at(bytes, offset).map_err(failed("write", file))?;
    handle.sync_all().map_err(failed("fsync", file))
}

/// Replaces a file in one step.
pub fn replace(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = temporary_path(file);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let handle = options.open(&temporary).map_err(failed("create", &temporary))?;
    handle.write_all_at(bytes, 0).map_err(failed("write", &temporary))?;
    handle.sync_all().map_err(failed("fsync", &temporary))?;
    fs::rename(&temporary, file).map_err(failed("rename", &temporary))?;
    sync_directory(file.parent().unwrap_or(file))
}

pub fn length(file: &Path) -> Result<u64, Failure> {
    fs::metadata(file).map(|metadata| metadata.len()).map_err(failed("find the length of", file))
}
