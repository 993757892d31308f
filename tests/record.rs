//! What a run leaves behind, as a specification: files replaced whole, folders held by one process, metrics
//! that a resumed run continues, and files from elsewhere that are wrong in every way we know.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use maxmargin::error::Error;
use maxmargin::record::metrics::CLOCK;
use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};
use maxmargin::record::{
    Data, Figures, Kind, Metrics, Progress, RunFolder, Tensor, TensorFile, read_config, read_metrics, write_atomic,
    write_tensors,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Set in a process that a test starts to run the same test in its second role; the folder to work in.
const CHILD: &str = "MAXMARGIN_TEST_CHILD";

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The message of an error, which must name `path`.
fn message<T>(result: Result<T, Error>, path: &Path) -> String {
    let Err(error) = result else { panic!("{}: an error was expected", path.display()) };
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "no file named: {text}");
    text
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn strings(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|&(key, value)| (key.into(), value.into())).collect()
}

/// This very test in its second role, in another process.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(CHILD, folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

// ---- tensor files ----

/// One tensor of every type, with sizes of 0, 1 and none.
fn all_types() -> Vec<Tensor> {
    vec![
        Tensor::new("labels", &[3], vec![0u8, 9, 255]),
        Tensor::new("conv1.weight", &[2, 1, 1, 2], vec![0.5f32, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX]),
        Tensor::new("digest", &[1], vec![std::f64::consts::PI]),
        Tensor::new("index", &[2], vec![-1i32, i32::MAX]),
        Tensor::new("empty", &[0, 7], Vec::<f32>::new()),
        Tensor::new("margins.step", &[], vec![u32::MAX]),
        Tensor::new("bn.num_batches_tracked", &[], vec![i64::MIN]),
    ]
}

/// A file with one header and so many zeros after it.
fn file_with(folder: &Path, header: &Value, zeros: usize) -> PathBuf {
    let path = folder.join("x.safetensors");
    let text = header.to_string();
    let bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &vec![0; zeros]].concat();
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn every_type_comes_back_with_its_bits_and_the_strings_too() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let metadata = strings(&[("step", "17"), ("note", "µ \"quoted\"\n")]);
    write_tensors(&path, &all_types(), &metadata).unwrap();
    let file = TensorFile::read(&path).unwrap();
    assert_eq!(file.metadata, metadata);
    assert_eq!(file.tensors.len(), all_types().len());
    for tensor in all_types() {
        assert_eq!(file.tensor(&tensor.name).unwrap(), &tensor);
    }
    let weights = file.get::<f32>("conv1.weight", &[2, 1, 1, 2]).unwrap();
    assert!(weights[1].is_sign_negative(), "-0 keeps its sign");
    assert_eq!(file.get::<u32>("margins.step", &[]).unwrap(), [u32::MAX]);
    assert_eq!(file.meta::<u64>("step").unwrap(), 17);
}

#[test]
fn not_a_number_and_the_infinities_keep_their_bits() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let bits = [0x7fc0_1234, 0xff80_0000, 0x7f80_0000, 1];
    write_tensors(&path, &[Tensor::new("x", &[4], bits.map(f32::from_bits).to_vec())], &BTreeMap::new()).unwrap();
    let file = TensorFile::read(&path).unwrap();
    let found: Vec<u32> = file.get::<f32>("x", &[4]).unwrap().iter().map(|x| x.to_bits()).collect();
    assert_eq!(found, bits);
}

#[test]
fn other_readers_find_the_tensors_aligned_and_the_header_padded() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "17")])).unwrap();
    let bytes = fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["step"], "17");
    for tensor in all_types() {
        let info = metadata.info(&tensor.name).unwrap();
        assert_eq!(info.shape, tensor.shape);
        assert_eq!(info.data_offsets.0 % (info.dtype.bitsize() / 8), 0, "{} is not aligned", tensor.name);
    }
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("digest").unwrap().data(), std::f64::consts::PI.to_le_bytes());
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let folder = temporary();
    let metadata = strings(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5"), ("f", "6")]);
    let written: Vec<Vec<u8>> = (0..4)
        .map(|i| {
            let path = folder.path().join(format!("{i}.safetensors"));
            write_tensors(&path, &all_types(), &metadata).unwrap();
            fs::read(path).unwrap()
        })
        .collect();
    assert!(written.iter().all(|bytes| bytes == &written[0]));
}

#[test]
fn half_precision_is_read_as_single() {
    let folder = temporary();
    let path = folder.path().join("half.safetensors");
    let halves: Vec<u8> = [0x3c00u16, 0xc100, 0x0001].iter().flat_map(|h| h.to_le_bytes()).collect();
    let brains: Vec<u8> = [0x3f80u16, 0xc020].iter().flat_map(|h| h.to_le_bytes()).collect();
    let header = json!({"h": {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]},
                        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [6, 10]}});
    let text = header.to_string();
    fs::write(&path, [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &halves, &brains].concat()).unwrap();
    let file = TensorFile::read(&path).unwrap();
    assert_eq!(file.get::<f32>("h", &[3]).unwrap(), [1.0, -2.5, 2f32.powi(-24)]);
    assert_eq!(file.get::<f32>("b", &[2]).unwrap(), [1.0, -2.5]);
}

#[test]
fn a_wrong_shape_type_or_name_is_told_with_what_was_found() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "soon")])).unwrap();
    let file = TensorFile::read(&path).unwrap();
    let shape = message(file.get::<f32>("conv1.weight", &[32, 1, 5, 5]), &path);
    assert!(shape.contains("`conv1.weight`: expected F32 [32, 1, 5, 5], found F32 [2, 1, 1, 2]"), "{shape}");
    let kind = message(file.get::<f32>("labels", &[3]), &path);
    assert!(kind.contains("`labels`: expected F32 [3], found U8 [3]"), "{kind}");
    let name = message(file.get::<f32>("conv2.weight", &[1]), &path);
    assert!(name.contains("no tensor `conv2.weight` among its 7; near names: conv1.weight, "), "{name}");
    let text = message(file.meta::<u64>("step"), &path);
    assert!(text.contains("metadata `step`: expected a value of type u64, found `soon`"), "{text}");
    let entry = message(file.meta::<String>("epoch"), &path);
    assert!(entry.contains("metadata `epoch`: expected a value of type string, found no such entry"), "{entry}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_that_names_a_byte() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "17")])).unwrap();
    let whole = fs::read(&path).unwrap();
    let sixteenths = (0..16).map(|i| whole.len() * i / 16);
    for length in sixteenths.chain([1, 7, 8, 9, whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        let text = message(TensorFile::read(&path), &path);
        assert!(text.contains("byte "), "{length} bytes: {text}");
    }
}

#[test]
fn a_header_with_any_one_byte_changed_never_panics() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    write_tensors(&path, &all_types(), &strings(&[("step", "17")])).unwrap();
    let whole = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for place in 0..end {
        for byte in [0x00, 0xff, b'9', b'"', b'}'] {
            let mut bytes = whole.clone();
            bytes[place] = byte;
            refused += usize::from(TensorFile::parse(&path, &bytes).is_err());
        }
    }
    assert!(refused > end, "most such files are wrong, but only {refused} of {} were refused", end * 5);
}

#[test]
fn a_header_that_lies_about_its_length_is_refused_at_once() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    for length in [u64::MAX, 1 << 62, 99_999_999, 17] {
        fs::write(&path, [&length.to_le_bytes()[..], b"{\"x\": 1}        "].concat()).unwrap();
        let text = message(TensorFile::read(&path), &path);
        assert!(text.contains(&format!("byte 0: the header is said to be {length} bytes long, but only 16")), "{text}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_file_are_named() {
    let folder = temporary();
    let tensor = |dtype: &str, shape: Value, first: u64, end: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [first, end]});
    let refused = |header: &Value, zeros: usize| {
        let path = file_with(folder.path(), header, zeros);
        message(TensorFile::read(&path), &path)
    };
    let misfit = refused(&json!({"a": tensor("F32", json!([2]), 0, 8), "b": tensor("F32", json!([3, 5]), 8, 16)}), 16);
    assert!(misfit.contains("tensor `b`: F32 [3, 5] does not fit its data_offsets 8 to 16"), "{misfit}");
    let huge = refused(&json!({"h": tensor("F32", json!([u64::MAX, 2]), 0, 8)}), 8);
    assert!(huge.contains("tensor `h`: F32"), "{huge}");
    let gap = refused(&json!({"a": tensor("U8", json!([4]), 0, 4), "b": tensor("U8", json!([4]), 8, 12)}), 12);
    assert!(gap.contains("tensor `b`: its data_offsets leave a gap or overlap"), "{gap}");
    let reversed = refused(&json!({"a": tensor("U8", json!([4]), 4, 0)}), 4);
    assert!(reversed.contains("tensor `a`"), "{reversed}");
    let far = refused(&json!({"a": tensor("U8", json!([1u64 << 60]), 0, 1 << 60)}), 4);
    assert!(far.contains("announces 1152921504606846976 bytes of tensors, found 4: truncated"), "{far}");
    let longer = refused(&json!({"a": tensor("U8", json!([4]), 0, 4)}), 5);
    assert!(longer.contains("announces 4 bytes of tensors, found 5: something was appended"), "{longer}");
    let kind = refused(&json!({"a": tensor("F8_E4M3", json!([4]), 0, 4)}), 4);
    assert!(kind.contains("tensor `a`, byte ") && kind.contains("expected one of F32, ") && kind.contains("F8_E4M3"));
    let text = refused(&json!({"a": "no tensor"}), 0);
    assert!(text.contains("header, bytes 8 to "), "{text}");
}

#[test]
fn files_of_other_formats_are_recognised() {
    let folder = temporary();
    let path = folder.path().join("x.safetensors");
    let cases: [(&[u8], &str); 7] = [
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"<html>\n<head><title>Not found</title></head>", "a web page"),
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0archive/data.pkl", "a pickle of PyTorch's"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle of PyTorch's"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03\0\0\0\0", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"", "found 0 bytes"),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let text = message(TensorFile::read(&path), &path);
        assert!(text.contains("byte 0: expected a safetensors file") && text.contains(expected), "{text}");
    }
}

#[test]
fn a_header_of_sixty_bytes_is_not_taken_for_a_web_page() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let header = format!("{:60}", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#);
    fs::write(&path, [&60u64.to_le_bytes()[..], header.as_bytes(), &[7]].concat()).unwrap();
    assert_eq!(fs::read(&path).unwrap()[0], b'<');
    assert_eq!(TensorFile::read(&path).unwrap().get::<u8>("a", &[1]).unwrap(), [7]);
    fs::write(&path, [&60u64.to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    assert!(message(TensorFile::read(&path), &path).contains("byte 68: the header announces 1 bytes"));
}

#[test]
fn what_cannot_be_read_back_is_not_written() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let refused = |tensors: &[Tensor]| message(write_tensors(&path, tensors, &BTreeMap::new()), &path);
    let short = refused(&[Tensor::new("w", &[2, 3], vec![0f32; 5])]);
    assert!(short.contains("tensor `w`: shape [2, 3] does not fit 5 elements"), "{short}");
    refused(&[Tensor { name: "w".into(), shape: vec![usize::MAX, 2], data: Data::U8(vec![]) }]);
    let twice = refused(&[Tensor::new("w", &[1], vec![0f32]), Tensor::new("w", &[1], vec![1f32])]);
    assert!(twice.contains("tensor `w`"), "{twice}");
    refused(&[Tensor::new("__metadata__", &[1], vec![0f32])]);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_missing_file_is_named() {
    let folder = temporary();
    let path = folder.path().join("none.safetensors");
    assert!(message(TensorFile::read(&path), &path).contains("cannot read"));
}

// ---- atomic writes ----

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
fn a_first_write_that_fails_leaves_nothing_and_speaks_of_no_former_file() {
    let folder = temporary();
    let path = folder.path().join("last.safetensors");
    let text = message(write_atomic(&path, |_| Err(io::Error::other("torn"))), &path);
    assert!(text.contains("torn") && !text.contains("former"), "{text}");
    assert!(names(folder.path()).is_empty());
}

/// The system itself refuses the write: the child may not write files beyond some kilobytes.
#[cfg(unix)]
#[test]
fn when_the_system_refuses_to_write_on_the_former_checkpoint_is_intact() {
    let test = "when_the_system_refuses_to_write_on_the_former_checkpoint_is_intact";
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

/// Only where permissions bind: not for the superuser.
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
fn the_reason_of_the_system_stays_readable_to_programs() {
    let folder = temporary();
    let path = folder.path().join("none").join("x");
    let error = write_atomic(&path, |out| out.write_all(b"x")).unwrap_err();
    let source = error.source().and_then(|s| s.downcast_ref::<io::Error>()).expect("an I/O error");
    assert_eq!(source.kind(), ErrorKind::NotFound);
}

#[cfg(unix)]
#[test]
fn a_written_file_is_as_readable_for_others_as_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let folder = temporary();
    let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
    write_atomic(&ours, |out| out.write_all(b"x")).unwrap();
    fs::write(&plain, "x").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}

// ---- the run folder ----

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    preset: String,
    seed: u64,
    train_size: Option<usize>,
    hinge_maxeps: f32,
    learning_rate_schedule: Vec<(u32, f32)>,
    fidelity: Nested,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nested {
    clamp_boundary: bool,
    search_mode: String,
}

fn settings() -> Settings {
    Settings {
        preset: "quick".into(),
        seed: 7,
        train_size: None,
        hinge_maxeps: 8.0 / 255.0,
        learning_rate_schedule: vec![(0, 1e-4), (50_000, 0.1 + f32::EPSILON)],
        fidelity: Nested { clamp_boundary: false, search_mode: "the mode of batch norm in the search".into() },
    }
}

/// A run with settings, metrics and a checkpoint.
fn begun(path: &Path) -> RunFolder {
    let run = RunFolder::create(path).unwrap();
    run.write_config(&settings()).unwrap();
    Metrics::create(&run.file(METRICS)).unwrap();
    write_tensors(&run.file(LAST), &[], &strings(&[("step", "0")])).unwrap();
    run
}

#[test]
fn settings_come_back_with_their_bits() {
    let folder = temporary();
    let run = begun(&folder.path().join("a").join("deep").join("run"));
    assert_eq!(run.read_config::<Settings>().unwrap(), settings());
    assert_eq!(read_config::<Settings>(run.path()).unwrap(), settings());
}

#[test]
fn a_setting_that_is_wrong_unknown_or_missing_is_named_with_its_line() {
    let folder = temporary();
    let run = begun(&folder.path().join("run"));
    let path = run.file(CONFIG);
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("seed = 7", "seed = \"seven\"", "line 2"),
        ("seed = 7", "sead = 7", "unknown field `sead`"),
        ("seed = 7\n", "", "missing field `seed`"),
        ("seed = 7", "seed = ", "line 2"),
    ] {
        assert!(good.contains(from));
        fs::write(&path, good.replace(from, to)).unwrap();
        let text = message(run.read_config::<Settings>(), &path);
        assert!(text.contains(expected), "{text}");
    }
    for i in 0..16 {
        fs::write(&path, &good[..good.len() * i / 16]).unwrap();
        message(run.read_config::<Settings>(), &path);
    }
    fs::write(&path, [b'a', 0xff]).unwrap();
    message(run.read_config::<Settings>(), &path);
}

#[test]
fn a_folder_that_holds_a_run_is_not_begun_anew() {
    let folder = temporary();
    let path = folder.path().join("run");
    for name in [CONFIG, METRICS, BEST, LAST] {
        drop(RunFolder::create(&path).expect("a folder without a run, though it exists"));
        fs::write(path.join(name), "").unwrap();
        let text = message(RunFolder::create(&path), &path);
        assert!(text.contains(name) && text.contains("--resume") && text.contains("--out"), "{text}");
        fs::remove_file(path.join(name)).unwrap();
    }
}

#[test]
fn a_run_is_opened_again_only_with_all_it_needs() {
    let folder = temporary();
    let path = folder.path().join("run");
    assert!(message(RunFolder::open(&path), &path).contains("no such folder"));
    drop(begun(&path));
    drop(RunFolder::open(&path).unwrap());
    fs::remove_file(path.join(LAST)).unwrap();
    let text = message(RunFolder::open(&path), &path);
    assert!(text.contains("without last.safetensors:"), "{text}");
    fs::remove_file(path.join(CONFIG)).unwrap();
    let text = message(RunFolder::open(&path), &path);
    assert!(text.contains("without config.toml and last.safetensors:"), "{text}");
}

#[test]
fn runs_without_a_name_get_one_that_is_free() {
    let folder = temporary();
    let runs = folder.path().join("runs");
    let held: Vec<RunFolder> = (0..3).map(|_| RunFolder::create_below(&runs, "quick", 7).unwrap()).collect();
    let other = RunFolder::create_below(&runs, "quick", 8).unwrap();
    let expected = ["quick-7", "quick-7-2", "quick-7-3", "quick-8"];
    let found: Vec<_> = held.iter().chain([&other]).map(|run| run.path().file_name().unwrap()).collect();
    assert_eq!(found, expected);
}

#[test]
fn two_processes_cannot_hold_one_run() {
    let folder = temporary();
    let path = folder.path().join("run");
    let run = begun(&path);
    for second in [RunFolder::open(&path), RunFolder::create(&path)] {
        assert!(message(second, &path).contains("another process is training in this folder"));
    }
    assert!(read_config::<Settings>(&path).is_ok(), "reading needs no lock");
    drop(run);
    RunFolder::open(&path).expect("free again");
}

// ---- SIGKILL ----

/// One checkpoint of a run that trains numbers: all weights are the step.
fn checkpoint(run: &RunFolder, step: u64) {
    let weights = Tensor::new("w", &[1 << 20], vec![step as f32; 1 << 20]);
    write_tensors(&run.file(LAST), &[weights], &strings(&[("step", &step.to_string())])).unwrap();
}

/// Waits until the checkpoint is beyond `step`, lets the child go on for `delay` and kills it.
fn kill_after(mut child: Child, last: &Path, step: u64, delay: Duration) {
    let began = Instant::now();
    while !last.exists() || TensorFile::read(last).unwrap().meta::<u64>("step").unwrap() <= step {
        assert!(began.elapsed() < Duration::from_secs(60), "the child does not write");
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_killed_at_any_moment_has_a_whole_checkpoint_and_goes_on_from_it() {
    let test = "a_run_killed_at_any_moment_has_a_whole_checkpoint_and_goes_on_from_it";
    if let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) {
        let (run, mut metrics, first) = if path.join(LAST).exists() {
            let run = RunFolder::open(&path).unwrap();
            let step = TensorFile::read(&run.file(LAST)).unwrap().meta::<u64>("step").unwrap();
            let metrics = Metrics::resume(&run.file(METRICS), step).unwrap();
            (run, metrics, step + 1)
        } else {
            let run = RunFolder::create(&path).unwrap();
            run.write_config(&settings()).unwrap();
            let metrics = Metrics::create(&run.file(METRICS)).unwrap();
            (run, metrics, 1)
        };
        let began = Instant::now();
        for step in (first..).take_while(|_| began.elapsed() < Duration::from_secs(60)) {
            metrics.write(Kind::Step, step, &json!({"loss": 1.0 / step as f32})).unwrap();
            checkpoint(&run, step);
        }
        return;
    }
    let folder = temporary();
    let path = folder.path().join("run");
    let last = path.join(LAST);
    let mut step = 0;
    for delay in [0, 1, 3, 5, 8, 13, 2, 7] {
        kill_after(child(test, &path).spawn().unwrap(), &last, step, Duration::from_millis(delay));
        let run = RunFolder::open(&path).expect("the lock went with the process");
        assert_eq!(names(&path), [CONFIG, LAST, "lock", METRICS], "nothing unfinished is left");
        let file = TensorFile::read(&last).expect("a whole checkpoint");
        let reached = file.meta::<u64>("step").unwrap();
        assert!(reached > step, "the run went on from {step}, to {reached}");
        step = reached;
        let weights = file.get::<f32>("w", &[1 << 20]).unwrap();
        assert!(weights.iter().all(|&w| w == step as f32), "parts of two checkpoints");
        drop(Metrics::resume(&run.file(METRICS), step).unwrap());
        let lines = read_metrics(&run.file(METRICS)).unwrap();
        let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, (1..=step).collect::<Vec<_>>());
    }
}

// ---- metrics ----

#[derive(Serialize)]
struct Measured {
    loss: f32,
    accuracy: f64,
}

/// The lines of a run of `steps` steps, an epoch every 4, from `first` on.
fn measure(metrics: &mut Metrics, first: u64, steps: u64) {
    for step in first..=steps {
        metrics.write(Kind::Step, step, &Measured { loss: 1.0 / step as f32, accuracy: 0.1 * step as f64 }).unwrap();
        if step % 4 == 0 {
            metrics.write(Kind::Epoch, step, &json!({"mean_margin": 0.1})).unwrap();
        }
    }
    metrics.write(Kind::Result, steps, &json!({"clean": 0.98})).unwrap();
}

fn without_clock(path: &Path) -> Vec<Value> {
    let mut lines = read_metrics(path).unwrap();
    for line in &mut lines {
        assert!(line.as_object_mut().unwrap().remove(CLOCK).unwrap()["seconds"].as_f64().unwrap() >= 0.0);
    }
    lines
}

/// The metrics of a whole run of 12 steps.
fn whole_run(path: &Path) -> Vec<Value> {
    let mut metrics = Metrics::create(path).unwrap();
    metrics.write(Kind::Result, 0, &json!({"clean": 0.1})).unwrap();
    measure(&mut metrics, 1, 12);
    without_clock(path)
}

#[test]
fn a_line_says_what_when_and_the_figures() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let lines = whole_run(&path);
    assert_eq!(lines.len(), 1 + 12 + 3 + 1);
    assert_eq!(lines[0], json!({"kind": "result", "step": 0, "clean": 0.1}));
    assert_eq!(lines[1], json!({"kind": "step", "step": 1, "loss": 1.0, "accuracy": 0.1}));
    assert_eq!(lines[5], json!({"kind": "epoch", "step": 4, "mean_margin": 0.1}));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(r#"{"kind":"result","step":0,"clean":0.1,"clock":{"#), "{text}");
    assert!(text.contains(r#""loss":0.33333334,"#), "single precision in its shortest form: {text}");
}

#[test]
fn a_line_can_be_read_as_soon_as_it_is_written() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let mut metrics = Metrics::create(&path).unwrap();
    assert!(read_metrics(&path).unwrap().is_empty());
    metrics.write(Kind::Step, 1, &json!({})).unwrap();
    assert_eq!(read_metrics(&path).unwrap().len(), 1);
}

#[test]
fn resumed_at_any_step_the_file_ends_as_that_of_a_run_never_stopped() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let expected = whole_run(&path);
    let whole = fs::read(&path).unwrap();
    for step in 0..=12 {
        fs::write(&path, &whole).unwrap();
        measure(&mut Metrics::resume(&path, step).unwrap(), step + 1, 12);
        assert_eq!(without_clock(&path), expected, "resumed at step {step}");
    }
}

#[test]
fn a_torn_last_line_is_dropped_wherever_it_is_torn() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let expected = whole_run(&path);
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
    for end in last..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        drop(Metrics::resume(&path, 99).unwrap());
        assert_eq!(without_clock(&path), expected[..expected.len() - 1], "cut at byte {end}");
        assert!(fs::read(&path).unwrap().ends_with(b"\n"), "the next line begins on its own");
    }
    assert_eq!(names(folder.path()), [METRICS]);
}

#[test]
fn a_bad_line_is_told_by_its_number() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    let good = r#"{"kind":"step","step":1,"clock":{"seconds":0}}"#;
    for bad in ["", "{", "17", r#"{"step":2}"#, r#"{"kind":"step"}"#, r#"{"kind":"lunch","step":2}"#, "{}{}"] {
        fs::write(&path, format!("{good}\n{good}\n{bad}\n{good}\n")).unwrap();
        assert!(message(read_metrics(&path), &path).contains("line 3: expected a JSON object with kind and step"));
        assert!(message(Metrics::resume(&path, 9).map(drop), &path).contains("line 3: "), "{bad}");
    }
    fs::write(&path, [good.as_bytes(), b"\n\xff\xfe\n"].concat()).unwrap();
    assert!(message(read_metrics(&path), &path).contains("line 2: "));
}

#[test]
fn the_metrics_of_another_run_are_not_overwritten() {
    let folder = temporary();
    let path = folder.path().join(METRICS);
    whole_run(&path);
    let before = fs::read(&path).unwrap();
    message(Metrics::create(&path).map(drop), &path);
    assert_eq!(fs::read(&path).unwrap(), before);
    let none = folder.path().join("none");
    message(Metrics::resume(&none, 1).map(drop), &none);
}

// ---- progress ----

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

const FIGURES: Figures = Figures { loss: 0.5, accuracy: 0.934, mean_margin: 0.2811 };

#[test]
fn without_a_terminal_lines_come_at_intervals_and_at_the_end() {
    let out = Shared::default();
    let mut progress = Progress::lines(100, 0, Box::new(out.clone()), Duration::from_secs(3600));
    for step in 1..=100 {
        progress.update(step, &FIGURES);
    }
    progress.finish();
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let figures = "left  loss 0.5000  accuracy 93.4 %  mean margin 0.2811";
    assert!(lines[0].starts_with("step 1/100  ") && lines[0].ends_with(figures), "{lines:?}");
    assert!(lines[1].starts_with("step 100/100  ") && lines[1].contains(" steps/s  0:00:00 left"), "{lines:?}");
}

#[test]
fn notes_stand_on_lines_of_their_own() {
    let out = Shared::default();
    let mut progress = Progress::lines(2, 0, Box::new(out.clone()), Duration::ZERO);
    progress.update(1, &FIGURES);
    progress.note("epoch 1: mean margin 0.25, the best so far");
    progress.update(2, &FIGURES);
    let text = out.text();
    assert_eq!(text.lines().count(), 3);
    assert_eq!(text.lines().nth(1), Some("epoch 1: mean margin 0.25, the best so far"));
}

#[test]
fn an_output_that_cannot_be_written_to_does_not_end_the_run() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }
    let mut progress = Progress::lines(1, 0, Box::new(Closed), Duration::ZERO);
    progress.note("note");
    progress.update(1, &FIGURES);
    progress.finish();
}

/// Where stderr is a pipe, as here, the same content comes in lines; where quiet, nothing.
#[test]
fn a_piped_stderr_gets_plain_lines_and_quiet_gets_none() {
    let test = "a_piped_stderr_gets_plain_lines_and_quiet_gets_none";
    if let Some(role) = std::env::var_os(CHILD) {
        let mut progress = Progress::new(3, 1, role == *"quiet");
        progress.note("a note");
        progress.update(2, &FIGURES);
        progress.update(3, &FIGURES);
        return progress.finish();
    }
    let stderr = |role: &str| {
        let output = child(test, Path::new(role)).arg("--nocapture").stderr(Stdio::piped()).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let text = stderr("loud");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0], "a note");
    assert!(lines[1].starts_with("step 2/3  ") && lines[2].starts_with("step 3/3  "), "{text}");
    assert!(!text.contains('\x1b'), "no control characters: {text:?}");
    assert_eq!(stderr("quiet"), "");
}
