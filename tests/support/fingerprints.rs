//! Fingerprints: hashes of the bits that every kernel gave on the fake driver, recorded to be held against a GPU's.
//!
//! The kernels add, multiply, divide and take roots in an order that is fixed in the source, and all of these are rounded
//! correctly on both machines. So a GPU gives the fake driver's bits, and a kernel whose bits are others is named, without
//! a formula in double precision that would take the GPU's time. `expf` and the like round differently on a GPU: the
//! results of kernels with those are held against the formula.
//!
//! `tests/ops/modes.rs` shows that a kernel with one rounding changed is named.
//!
//! - `MAXMARGIN_FINGERPRINTS_RECORD=FILE`: every case adds its line to FILE.
//! - `MAXMARGIN_FINGERPRINTS=FILE`: every case is compared with FILE. Each prints one line that begins with `fingerprint`
//!   and one of `equal`, `law` (within the law of tolerance), `unknown` (not in FILE) and `DIFFERENT`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

use maxmargin::device::cuda::TYPICAL_MULTIPROCESSORS;
use sha2::{Digest, Sha256};

/// A number made of bits.
pub struct Fingerprint(Sha256);

impl Fingerprint {
    pub fn new() -> Fingerprint {
        Fingerprint(Sha256::new())
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds numbers of single precision. NaNs are all alike: which bits a NaN has is the machine's choice.
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

/// A case's bits beside the recorded ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is compared, or nothing is recorded for this case.
    NotRecorded,
    /// The case has the recorded bits.
    Equal,
    /// The bits differ, and a kernel calls functions that are rounded differently: the law of tolerance decides.
    Law,
    /// The bits differ, though all that the kernels compute is rounded correctly.
    Different,
}

/// First word of a recorded file, before the number of multiprocessors that sums were split for.
const HEADER: &str = "multiprocessors";

struct RecordedFingerprints {
    multiprocessors: usize,
    /// By a case's key or a name.
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

/// Multiprocessors that sums are split for, while fingerprints are in use.
pub fn multiprocessors() -> Option<usize> {
    let recorded = RECORDED.as_ref().map(|recorded| recorded.multiprocessors);
    recorded.or(RECORDING.is_some().then_some(TYPICAL_MULTIPROCESSORS))
}

/// Adds a line to the file that is recorded, if one is.
pub fn record(key: &str, value: &str) {
    if let Some(file) = &*RECORDING {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(format!("{key}\t{value}\n").as_bytes()).expect("the fingerprints can be written");
    }
}

/// Text recorded under a key; `None` if there is none, or if nothing is compared.
pub fn recorded(key: &str) -> Option<&'static str> {
    RECORDED.as_ref()?.lines.get(key).map(String::as_str)
}

/// Compares a case's fingerprint with the recorded one, or records it. `by_law`: its kernels have functions that are
/// rounded differently elsewhere. `case` names kernels, op and shapes.
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

/// Prints the line of a case that has other bits than were recorded: `worst` is the element that is farthest off.
pub fn list(case: &str, worst: &str) {
    println!("fingerprint DIFFERENT {case}: largest difference: {worst}");
}
