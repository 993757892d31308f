//! Fingerprints: hashes of the bits of every kernel's results, recorded on the fake driver and compared on a GPU.
//!
//! The kernels add, multiply, divide and take roots in an order that the source fixes, and both machines round these
//! operations correctly. So a GPU gives the fake driver's bits. A kernel with other bits is named without the formula
//! in double precision, which would take most of the time on the GPU. `expf` and similar functions round differently on
//! a GPU, so the results of kernels that call them are compared with the formula.
//!
//! `tests/ops/modes.rs` proves that a kernel with one changed rounding is named.
//!
//! - `MAXMARGIN_FINGERPRINTS_RECORD=FILE`: every case adds its line to FILE.
//! - `MAXMARGIN_FINGERPRINTS=FILE`: every case is compared with FILE. Each prints one line that begins with
//!   `fingerprint`
//!   and one of `equal`, `law` (within the tolerance), `unknown` (not in FILE) and `DIFFERENT`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

use maxmargin::device::cuda::TYPICAL_MULTIPROCESSORS;
use sha2::{Digest, Sha256};

/// Hash of bits.
pub struct Fingerprint(Sha256);

impl Fingerprint {
    pub fn new() -> Fingerprint {
        Fingerprint(Sha256::new())
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds numbers of single precision. All NaNs count as equal, because their bits depend on the machine.
    pub fn add_f32s(&mut self, bytes: &[u8]) {
        let one = |word: &[u8]| match f32::from_ne_bytes(word.try_into().unwrap()) {
            value if value.is_nan() => f32::NAN.to_bits(),
            value => value.to_bits(),
        };
        let words: Vec<u8> = bytes.chunks_exact(4).flat_map(|word| one(word).to_le_bytes()).collect();
        self.add(&words);
    }

    pub fn finish(self) -> u64 {
        u64::from_be_bytes(self.0.finalize()[..8].try_into().unwrap())
    }
}

/// Result of comparing a case's bits with the recorded ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No comparison: none was asked for, or the case is not recorded.
    NotRecorded,
    /// The case has the recorded bits.
    Equal,
    /// The bits differ, and a kernel calls functions that a GPU rounds differently: the tolerance decides.
    Law,
    /// The bits differ, although all operations of the kernels are rounded correctly.
    Different,
}

/// First word of a recorded file; the number of multiprocessors follows, for which sums were split.
const HEADER: &str = "multiprocessors";

struct RecordedFingerprints {
    multiprocessors: usize,
    /// Recorded text by a case's key or by name.
    lines: HashMap<String, String>,
}

static RECORDED: LazyLock<Option<RecordedFingerprints>> = LazyLock::new(|| {
    let path = std::env::var("MAXMARGIN_FINGERPRINTS").ok()?;
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("MAXMARGIN_FINGERPRINTS: {path}: {e}"));
    let mut pairs = text.lines().map(|line| line.split_once('\t').unwrap_or_else(|| panic!("{path}: {line:?}")));
    let header = pairs.next().filter(|(name, _)| *name == HEADER).and_then(|(_, number)| number.parse().ok());
    let multiprocessors = header.unwrap_or_else(|| panic!("{path}: expected {HEADER} and a number in its first line"));
    let lines = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some(RecordedFingerprints { multiprocessors, lines })
});

static RECORDING: LazyLock<Option<Mutex<File>>> = LazyLock::new(|| {
    let path = std::env::var("MAXMARGIN_FINGERPRINTS_RECORD").ok()?;
    let open = || -> std::io::Result<File> {
        let mut file = File::options().append(true).create(true).open(&path)?;
        if file.metadata()?.len() == 0 {
            writeln!(file, "{HEADER}\t{TYPICAL_MULTIPROCESSORS}")?;
        }
        Ok(file)
    };
    let file = open().unwrap_or_else(|e| panic!("MAXMARGIN_FINGERPRINTS_RECORD: {path}: {e}"));
    Some(Mutex::new(file))
});

/// True if this process records fingerprints or compares them.
pub fn in_use() -> bool {
    RECORDED.is_some() || RECORDING.is_some()
}

/// Number of multiprocessors for which sums are split while fingerprints are in use.
pub fn multiprocessors() -> Option<usize> {
    let recorded = RECORDED.as_ref().map(|recorded| recorded.multiprocessors);
    recorded.or(RECORDING.is_some().then_some(TYPICAL_MULTIPROCESSORS))
}

/// Adds a line to the file that is being recorded, if any.
pub fn record(key: &str, value: &str) {
    if let Some(file) = &*RECORDING {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(format!("{key}\t{value}\n").as_bytes()).expect("the fingerprints can be written");
    }
}

/// Text recorded for a key; `None` if there is none or nothing is compared.
pub fn recorded(key: &str) -> Option<&'static str> {
    RECORDED.as_ref()?.lines.get(key).map(String::as_str)
}

/// Compares a case's fingerprint with the recorded one, or records it. `by_law`: its kernels call functions that a GPU
/// rounds differently. `case` names kernels, op and shapes.
pub fn compare(key: u64, fingerprint: u64, by_law: bool, case: &str) -> Verdict {
    let (key, fingerprint) = (format!("{key:016x}"), format!("{fingerprint:016x}"));
    record(&key, &fingerprint);
    if RECORDED.is_none() {
        return Verdict::NotRecorded;
    }
    let (verdict, word) = match recorded(&key) {
        None => (Verdict::NotRecorded, "unknown"),
        Some(known) if known == fingerprint => (Verdict::Equal, "equal"),
        Some(_) if by_law => (Verdict::Law, "law"),
        Some(_) => return Verdict::Different, // its line comes from `list`, with the largest difference
    };
    println!("fingerprint {word} {case}");
    verdict
}

/// Prints the line of a case with other bits than recorded; `worst` describes the element with the largest error.
pub fn list(case: &str, worst: &str) {
    println!("fingerprint DIFFERENT {case}: largest difference: {worst}");
}
