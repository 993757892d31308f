//! Damaged files: no reader panics on one, or takes memory without bound, and an error names the file.
//!
//! Each test damages a valid file many times, with a fixed seed, for a bounded time. `fuzz/` has targets for those who
//! want hours. `MAXMARGIN_FUZZ_SECONDS=60 cargo test --release --test fuzz` takes a minute a test.

#[path = "../fuzz/readers.rs"]
mod readers;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};
use maxmargin::data::{cifar, idx};
use maxmargin::record::{TensorData, TensorFile, write_tensors};
use maxmargin::rng::{Purpose, philox};
use readers::{RECORDS, Reader, package_labels, valid_files};

/// Time for which a test damages files: a part of a second, or the seconds in `MAXMARGIN_FUZZ_SECONDS`.
fn limit() -> Duration {
    let seconds = std::env::var("MAXMARGIN_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    seconds.map_or(Duration::from_millis(300), Duration::from_secs)
}

/// Most memory that the tests of this file may take, in KiB: several times the largest valid file, a picture of 30 MB.
const MOST_MEMORY: usize = 1 << 20;

/// Ceilings as `benches/peers/ceilings.py` writes them.
const CEILINGS: &str = r#"{"device": "a GPU", "copy_bytes_per_s": {"200 MB": 1e12},
    "matmul_flops_per_s": {"fp32": {"8192": 2e13}}, "launch_s": {"graph_node": 1e-6}}"#;

/// Values that fields are replaced by.
const VALUES: [&str; 20] = [
    "-1",
    "0",
    "1",
    "2",
    "99",
    "4294967296",
    "18446744073709551615",
    "-9223372036854775808",
    "1e308",
    "-1e308",
    "1e-320",
    "1e999",
    "nan",
    "inf",
    "null",
    "true",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
];

/// Source of damage, a function of its seed.
struct Damage {
    seed: u64,
    count: u32,
}

impl Damage {
    fn word(&mut self) -> u32 {
        self.count += 1;
        philox(self.seed, Purpose::Order, self.count, 0, 0)[0]
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n.max(1)
    }

    /// A range of at most `most` bytes of `content`.
    fn range(&mut self, content: &[u8], most: usize) -> std::ops::Range<usize> {
        let begin = self.below(content.len());
        let len = self.below(most.min(content.len() - begin) + 1);
        begin..begin + len
    }

    /// `valid` with damaged bytes: flipped bits, other bytes, other numbers, cuts, repetitions, appendages. Half of the
    /// damage is to the first 256 bytes, which hold headers.
    fn bytes(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut content = valid.to_vec();
        for _ in 0..=self.below(3) {
            if content.is_empty() {
                return content;
            }
            let near = if self.below(2) == 0 { content.len() } else { content.len().min(256) };
            let at = self.below(near);
            match self.below(8) {
                0 | 1 => content[at] ^= 1 << self.below(8),
                2 => content[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => {
                    let word = [0, 1, u64::MAX, 1 << 31, 1 << 63, 99_999_999][self.below(6)];
                    let bytes = if self.below(2) == 0 { word.to_le_bytes() } else { word.to_be_bytes() };
                    let len = [2, 4, 8][self.below(3)].min(content.len() - at);
                    content[at..at + len].copy_from_slice(&bytes[..len]);
                }
                4 => content.truncate(at),
                5 => drop(content.drain(self.range(valid, 64).start.min(at)..at)),
                6 => {
                    let copied = content[at..(at + 64).min(content.len())].to_vec();
                    content.splice(at..at, copied);
                }
                _ => {
                    let range = self.range(valid, 200);
                    content.extend(&valid[range]);
                }
            }
        }
        content
    }

    /// `valid` with a damaged field: a number, a name or a list in the text is replaced, removed or repeated.
    fn text(&mut self, valid: &str) -> String {
        let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
        let mut text = valid.to_owned();
        for _ in 0..=self.below(2) {
            let tokens: Vec<(usize, &str)> = text
                .split(|c| !is_token(c))
                .filter(|token| !token.is_empty())
                .map(|token| (token.as_ptr() as usize - text.as_ptr() as usize, token))
                .collect();
            let Some(&(at, token)) = tokens.get(self.below(tokens.len())) else { return text };
            let range = at..at + token.len();
            // A list or object that begins after the token.
            let list = text[at..].find(['[', '{']).map(|offset| at + offset);
            let list = list.and_then(|begin| Some(begin..begin + text[begin..].find([']', '}'])? + 1));
            let line_end = text[at..].find('\n').map_or(text.len(), |offset| at + offset + 1);
            let (range, new) = match (self.below(6), list) {
                (0, Some(list)) => (list.start + 1..list.end - 1, String::new()),
                (1, Some(list)) => {
                    (list.start + 1..list.start + 1, format!("{},", &text[list.start + 1..list.end - 1]))
                }
                (2, _) => (range.start..line_end, String::new()),
                (3, _) => (range, String::new()),
                _ => (range, VALUES[self.below(VALUES.len())].into()),
            };
            text.replace_range(range, &new);
        }
        text
    }

    /// A valid safetensors file with other tensors or metadata, sealed again.
    fn tensors(&mut self, valid: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        let mut file = TensorFile::parse(&path, valid).expect("a valid file");
        let metadata: Vec<String> = file.metadata.keys().cloned().collect();
        if self.below(2) == 0 && !metadata.is_empty() {
            let value = file.metadata.get_mut(&metadata[self.below(metadata.len())]).expect("an entry");
            *value = self.text(value);
        } else {
            let i = self.below(file.tensors.len());
            let tensor = &mut file.tensors[i];
            match self.below(4) {
                0 => drop(file.tensors.remove(i)),
                1 => tensor.name.push('x'),
                2 => {
                    tensor.shape = vec![1];
                    tensor.data = match self.below(4) {
                        0 => TensorData::F32(vec![f32::NAN]),
                        1 => TensorData::I64(vec![i64::MIN]),
                        2 => TensorData::U32(vec![u32::MAX]),
                        _ => TensorData::U8(vec![7]),
                    };
                }
                _ => match &mut tensor.data {
                    TensorData::F32(values) if !values.is_empty() => {
                        let at = self.below(values.len());
                        values[at] = [f32::NAN, f32::INFINITY, f32::MAX, -1.0, 1e-40][self.below(5)];
                    }
                    TensorData::I64(values) if !values.is_empty() => {
                        let at = self.below(values.len());
                        values[at] = [i64::MIN, -1, 10, i64::MAX, 1 << 32][self.below(5)];
                    }
                    _ => tensor.shape.insert(0, 1),
                },
            }
        }
        write_tensors(&path, &file.tensors, &file.metadata).expect("a file");
        std::fs::read(&path).expect("a file")
    }
}

/// A safetensors file as versions before the seal wrote it: without a checksum, damage reaches what lies behind it.
fn unsealed(valid: &[u8]) -> Vec<u8> {
    let file = TensorFile::parse(Path::new("x"), valid).expect("a valid file");
    let length = u64::from_le_bytes(valid[..8].try_into().expect("8 bytes")) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&valid[8..8 + length]).expect("JSON");
    header["__metadata__"] = serde_json::json!(file.metadata);
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &valid[8 + length..]].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}

/// Gives `reader` the valid content, and damaged ones as long as the time lasts.
fn damaged(reader: Reader, valid: &[u8], mut damage: impl FnMut(&mut Damage) -> Vec<u8>) {
    reader.check(valid);
    let (begin, limit) = (Instant::now(), limit());
    let mut done = 0;
    for seed in 0.. {
        let content = damage(&mut Damage { seed, count: 0 });
        // The content of a failure is written for a debugger.
        let failed = catch_unwind(AssertUnwindSafe(|| reader.check(&content))).is_err();
        assert!(!failed, "{reader:?}, damage of seed {seed}: {}", content[..content.len().min(3000)].escape_ascii());
        done += 1;
        if begin.elapsed() > limit {
            break;
        }
    }
    println!("{reader:?}: {done} damaged files");
    assert!(peak_memory().is_none_or(|kib| kib < MOST_MEMORY), "{reader:?}: {:?} KiB", peak_memory());
}

/// Largest memory that this process has held, in KiB, where the system tells it.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find(|line| line.starts_with("VmHWM:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// [`damaged`] by bytes, by fields of the metadata and by tensors, of a sealed safetensors file and of one without seal.
fn damaged_tensors(reader: Reader) {
    let sealed = &valid_files()[reader.file()];
    let former = unsealed(sealed);
    damaged(reader, sealed, |damage| match damage.below(4) {
        0 => damage.bytes(sealed),
        1 => damage.bytes(&former),
        _ => damage.tensors(sealed),
    });
}

/// [`damaged`] by bytes and by fields, of a text.
fn damaged_text(reader: Reader) {
    damaged_fields(reader, std::str::from_utf8(&valid_files()[reader.file()]).expect("text"));
}

/// [`damaged_text`] of a given text.
fn damaged_fields(reader: Reader, text: &str) {
    damaged(reader, text.as_bytes(), |damage| match damage.below(4) {
        0 => damage.bytes(text.as_bytes()),
        _ => damage.text(text).into_bytes(),
    });
}

#[test]
fn damaged_weights_are_evaluated_or_refused() {
    damaged_tensors(Reader::Weights);
}

#[test]
fn damaged_checkpoints_are_resumed_or_refused() {
    damaged_tensors(Reader::Checkpoint);
}

#[test]
fn damaged_states_of_evaluations_are_continued_or_refused() {
    damaged_tensors(Reader::EvaluationState);
}

#[test]
fn damaged_adversarial_images_are_shown_or_refused() {
    damaged_tensors(Reader::AdversarialImages);
}

#[test]
fn damaged_settings_are_read_or_refused() {
    damaged_text(Reader::Settings);
}

#[test]
fn damaged_metrics_are_shown_and_continued_or_refused() {
    damaged_text(Reader::Metrics);
}

#[test]
fn damaged_evaluations_are_shown_or_refused() {
    damaged_text(Reader::EvaluationReport);
}

#[test]
fn damaged_results_of_images_are_shown_or_refused() {
    damaged_text(Reader::ImageResults);
}

#[test]
fn damaged_tables_of_the_paper_s_figures_are_read_or_refused() {
    damaged_fields(Reader::PaperTable, include_str!("../src/report/paper.toml"));
}

#[test]
fn damaged_ceilings_are_read_or_refused() {
    damaged_fields(Reader::Ceilings, CEILINGS);
}

#[test]
fn damaged_idx_files_are_decoded_or_refused() {
    let pixels: Vec<u8> = (0..10 * 784).map(|i| (i * i / 7) as u8).collect();
    let labels: Vec<u8> = (0..10).collect();
    for (reader, file) in [
        (Reader::IdxImages, idx::encode_images([10, 28, 28], &pixels)),
        (Reader::IdxLabels, idx::encode_labels(&labels)),
    ] {
        let packed = gzip(&file);
        damaged(reader, &packed, |damage| match damage.below(3) {
            0 => damage.bytes(&file),
            1 => damage.bytes(&packed),
            _ => gzip(&damage.bytes(&file)),
        });
    }
}

#[test]
fn damaged_files_of_cifar10_are_decoded_or_refused() {
    let valid = cifar::encode(&[7; RECORDS * 3072], &[1, 2, 3]);
    damaged(Reader::Cifar10, &valid, |damage| damage.bytes(&valid));
}

#[test]
fn damaged_packages_are_imported_or_refused() {
    let mut picture = Vec::new();
    let mut encoder = png::Encoder::new(&mut picture, 1024, 10_000);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&vec![7; 1024 * 10_000 * 3])).expect("a PNG");
    damaged(Reader::PackagePicture, &picture, |damage| damage.bytes(&picture));
    let labels = package_labels();
    damaged_fields(Reader::PackageLabels, &labels);
}
