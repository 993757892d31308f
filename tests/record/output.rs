//! Files that flags name: refused before anything is computed if they cannot be written or would destroy a file, and
//! written through if they are no regular files.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use maxmargin::record::OutputFile;
use maxmargin::record::events::EVENTS;
use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};

use crate::{message, names, temporary};

fn refused(path: &Path, inputs: &[&Path]) -> String {
    let text = message(OutputFile::check("--json", path, inputs), path);
    assert!(text.starts_with("--json "), "{text}");
    text
}

#[test]
fn a_target_that_cannot_be_written_is_refused_with_the_flag() {
    let folder = temporary();
    let here = |name: &str| folder.path().join(name);
    fs::write(here("file"), "x").unwrap();
    assert!(refused(folder.path(), &[]).contains("expected a file, found a folder"));
    assert!(refused(&here("new/"), &[]).contains("expected a file, found a folder"));
    assert!(refused(&here("none/a.json"), &[]).contains("there is no folder"));
    assert!(refused(&here("file/a.json"), &[]).contains("cannot write"));
    assert_eq!(names(folder.path()), ["file"], "nothing is left of the check");
}

#[cfg(unix)]
#[test]
fn a_target_without_permission_is_refused_with_the_flag() {
    use std::os::unix::fs::PermissionsExt;
    let folder = temporary();
    let (file, below) = (folder.path().join("file"), folder.path().join("below"));
    fs::write(&file, "x").unwrap();
    fs::create_dir(&below).unwrap();
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(&file, 0o444);
    set(&below, 0o555);
    if fs::write(&file, "y").is_ok() {
        println!("skipped: permissions do not bind this user");
    } else {
        assert!(refused(&file, &[]).contains("make the folder writable"));
        assert!(refused(&below.join("a.json"), &[]).contains("cannot write into the folder"));
    }
    set(&below, 0o755);
}

#[cfg(unix)]
#[test]
fn a_file_that_is_read_is_refused_under_every_name() {
    let folder = temporary();
    let here = |name: &str| folder.path().join(name);
    let weights = here("w.safetensors");
    fs::write(&weights, "weights").unwrap();
    fs::hard_link(&weights, here("hard")).unwrap();
    std::os::unix::fs::symlink("w.safetensors", here("soft")).unwrap();
    std::os::unix::fs::symlink("soft", here("softer")).unwrap();
    for name in ["w.safetensors", "hard", "soft", "softer", "./w.safetensors"] {
        let text = refused(&here(name), &[&here("other"), &weights]);
        assert!(text.contains("w.safetensors, which is read"), "{text}");
    }
    OutputFile::check("--json", &here("new"), &[&weights]).unwrap();
}

#[test]
fn a_file_of_a_run_is_refused_and_a_like_name_elsewhere_is_not() {
    let folder = temporary();
    for name in [CONFIG, METRICS, BEST, LAST, EVENTS, "lock"] {
        OutputFile::check("--json", &folder.path().join(name), &[]).unwrap();
    }
    fs::write(folder.path().join(CONFIG), "").unwrap();
    for name in [CONFIG, METRICS, BEST, LAST, EVENTS, "lock"] {
        assert!(refused(&folder.path().join(name), &[]).contains("a file of a run"));
    }
    OutputFile::check("--json", &folder.path().join("report.html"), &[]).unwrap();
}

#[cfg(unix)]
#[test]
fn the_file_at_the_end_of_a_link_is_replaced_and_the_link_stays() {
    let folder = temporary();
    let here = |name: &str| folder.path().join(name);
    fs::create_dir(here("below")).unwrap();
    for (link, to) in [("there", "below/file"), ("not_yet", "below/new"), ("again", "there")] {
        std::os::unix::fs::symlink(to, here(link)).unwrap();
    }
    fs::write(here("below/file"), "former").unwrap();
    for (link, file) in [("there", "below/file"), ("not_yet", "below/new"), ("again", "below/file")] {
        OutputFile::check("--json", &here(link), &[]).unwrap().write(|out| out.write_all(link.as_bytes())).unwrap();
        assert!(here(link).symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(here(file)).unwrap(), link);
    }
    std::os::unix::fs::symlink("circle", here("circle")).unwrap();
    assert!(refused(&here("circle"), &[]).contains("too many symbolic links"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_and_a_device_are_written_through_and_stay_what_they_are() {
    use std::os::unix::fs::FileTypeExt;
    let folder = temporary();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let to = OutputFile::check("--json", &pipe, &[]).expect("a pipe is not waited for");
    let read = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    to.write(|out| out.write_all(b"through")).unwrap();
    assert_eq!(read.join().unwrap(), "through");
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

    OutputFile::check("--json", Path::new("/dev/null"), &[]).unwrap().write(|out| out.write_all(b"x")).unwrap();
    let full = Path::new("/dev/full");
    let text = message(OutputFile::check("--json", full, &[]).unwrap().write(|out| out.write_all(b"x")), full);
    assert!(text.contains("cannot write: No space left"), "{text}");
    for device in ["/dev/null", "/dev/full"] {
        assert!(fs::metadata(device).unwrap().file_type().is_char_device());
    }
}

/// The shell's `>(command)` and `3>file` give such paths.
#[cfg(target_os = "linux")]
#[test]
fn an_open_file_of_the_process_is_appended_to_and_not_replaced() {
    use std::os::fd::AsRawFd;
    let folder = temporary();
    let path = folder.path().join("file");
    fs::write(&path, "former ").unwrap();
    let mut open = fs::File::options().read(true).append(true).open(&path).unwrap();
    let given = format!("/dev/fd/{}", open.as_raw_fd());
    let to = OutputFile::check("--json", Path::new(&given), &[]).unwrap();
    assert!(!to.is_replaced() && !to.is_standard_output());
    to.write(|out| out.write_all(b"and new")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "former and new");
    assert!(refused(Path::new("/dev/fd/987654"), &[]).contains("cannot write"));
}

#[test]
fn the_standard_output_has_several_names() {
    for name in ["-", "/dev/stdout", "/dev/fd/1"].iter().take(if cfg!(unix) { 3 } else { 1 }) {
        assert!(OutputFile::check("--json", Path::new(name), &[]).unwrap().is_standard_output(), "{name}");
    }
    let file = OutputFile::check("--json", Path::new("./-"), &[]).unwrap();
    assert!(file.is_replaced(), "a file of this name is given with its folder");
}

#[test]
fn two_flags_cannot_have_one_file() {
    let folder = temporary();
    let check = |flag, name: &str| OutputFile::check(flag, &folder.path().join(name), &[]).unwrap();
    let text = message(check("--save", "./a").refuse_same(&check("--json", "a")), &folder.path().join("./a"));
    assert!(text.starts_with("--save ") && text.contains("than that of --json"), "{text}");
    check("--save", "b").refuse_same(&check("--json", "a")).unwrap();
}
