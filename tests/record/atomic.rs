//! Replacement of files, whole or not at all.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use maxmargin::record::run::LAST;
use maxmargin::record::{RunFolder, Tensor, TensorFile, write_atomic, write_tensors};

use crate::{CHILD, child, message, names, temporary};

#[test]
fn a_write_that_fails_in_the_middle_leaves_the_former_file_and_no_other() {
    let folder = temporary();
    let path = folder.path().join("last.safetensors");
    write_atomic(&path, |out| out.write_all(b"former")).unwrap();
    let full = write_atomic(&path, |out| {
        out.write_all(&vec![1; 3 << 20])?;
        Err(io::Error::from(ErrorKind::StorageFull))
    });
    let text = message(full, &path);
    assert!(text.contains("cannot write") && text.contains("free some space"), "{text}");
    assert!(text.contains("the former file is unchanged"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"former");
    assert_eq!(names(folder.path()), ["last.safetensors"]);
}

#[test]
fn a_first_write_that_fails_leaves_no_file_and_mentions_no_former_one() {
    let folder = temporary();
    let path = folder.path().join("last.safetensors");
    let text = message(write_atomic(&path, |_| Err(io::Error::other("torn"))), &path);
    assert!(text.contains("torn") && !text.contains("former"), "{text}");
    assert!(names(folder.path()).is_empty());
}

/// The system refuses the write, because the child process may not write files beyond some kilobytes.
#[cfg(unix)]
#[test]
fn when_the_system_refuses_a_write_the_former_checkpoint_is_intact() {
    let test = "atomic::when_the_system_refuses_a_write_the_former_checkpoint_is_intact";
    let large = [Tensor::new("w", &[1 << 20], vec![1f32; 1 << 20])];
    if let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) {
        let error = write_tensors(&folder.join(LAST), &large, &BTreeMap::new()).unwrap_err();
        return fs::write(folder.join("said"), error.to_string()).unwrap();
    }
    let folder = temporary();
    let path = folder.path().join(LAST);
    write_tensors(&path, &[Tensor::new("w", &[1], vec![7f32])], &BTreeMap::new()).unwrap();
    let inner = child(test, folder.path());
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 64; trap '' XFSZ; exec \"$0\" \"$@\""]).arg(inner.get_program());
    limited.args(inner.get_args()).env(CHILD, folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(limited.status().unwrap().success());
    let said = fs::read_to_string(folder.path().join("said")).unwrap();
    assert!(said.contains("last.safetensors: cannot write") && said.contains("file is unchanged"), "{said}");
    assert_eq!(TensorFile::read(&path).unwrap().get::<f32>("w", &[1]).unwrap(), [7.0]);
    assert_eq!(names(folder.path()), [LAST, "said"]);
}

#[test]
fn a_folder_that_is_a_file_or_is_not_there_ends_with_advice() {
    let folder = temporary();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let below = file.join("last.safetensors");
    let text = message(write_atomic(&below, |out| out.write_all(b"x")), &below);
    assert!(text.contains("choose another"), "{text}");
    let nowhere = folder.path().join("none").join("last.safetensors");
    let text = message(write_atomic(&nowhere, |out| out.write_all(b"x")), &nowhere);
    assert!(text.contains("the folder does not exist"), "{text}");
    let run = file.join("run");
    assert!(message(RunFolder::create(&run), &run).contains("choose another folder"));
}

/// Skipped for the superuser, whom permissions do not bind.
#[cfg(unix)]
#[test]
fn a_read_only_folder_ends_with_advice_and_the_former_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = temporary();
    let path = folder.path().join("last.safetensors");
    write_atomic(&path, |out| out.write_all(b"former")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let binds = fs::write(folder.path().join("probe"), "x").is_err();
    let written = write_atomic(&path, |out| out.write_all(b"new"));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if !binds {
        println!("skipped: permissions do not bind this user");
        return;
    }
    let text = message(written, &path);
    assert!(text.contains("make the folder writable") && text.contains("the former file is unchanged"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"former");
}

#[test]
fn the_kind_of_the_system_s_error_is_kept() {
    let folder = temporary();
    let path = folder.path().join("none").join("x");
    let error = write_atomic(&path, |out| out.write_all(b"x")).unwrap_err();
    let source = error.source().and_then(|s| s.downcast_ref::<io::Error>()).expect("an I/O error");
    assert_eq!(source.kind(), ErrorKind::NotFound);
}

#[cfg(unix)]
#[test]
fn a_written_file_has_the_permissions_of_any_other_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = temporary();
    let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
    write_atomic(&ours, |out| out.write_all(b"x")).unwrap();
    fs::write(&plain, "x").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}
