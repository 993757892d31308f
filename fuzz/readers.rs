//! Every reader of files, given a content that may be damaged. The tests (`tests/fuzz.rs`) and the fuzz targets beside
//! this file share it.
//!
//! A reader must not panic, and must not take memory beyond a multiple of the file's size. It accepts the content, or
//! its error names the file.

#[path = "../tests/support/failing.rs"]
mod failing;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use maxmargin::attack::StepLength;
use maxmargin::bench::Ceilings;
use maxmargin::config::{Config, preset};
use maxmargin::data::{self, cifar, idx};
use maxmargin::device::cpu::Cpu;
use maxmargin::evaluate::folder::ADVERSARIAL;
use maxmargin::evaluate::{AttackName, AttackSettings, EvaluationRequest, OutputPaths, Split, folder};
use maxmargin::model::state_dict::WeightsOptions;
use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};
use maxmargin::record::{Metrics, OutputFile, RunFolder};
use maxmargin::report::paper::PaperTables;
use maxmargin::tape::Loss;
use maxmargin::{Result, report, train};

use failing::FailingDevice;

/// Folder of the complete evaluation in the run's folder.
const COMPLETE: &str = "evaluation-complete";
/// Folder of the interrupted evaluation in the run's folder.
const INTERRUPTED: &str = "evaluation-interrupted";
/// Number of training steps of the run.
const STEPS: u32 = 6;
/// Number of records of a file of CIFAR10's form.
pub const RECORDS: usize = 3;

/// Reader of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Weights, which are then evaluated.
    Weights,
    /// Checkpoint of a run, which is then resumed.
    Checkpoint,
    /// State of an interrupted evaluation, which then continues.
    EvaluationState,
    /// Settings of a run.
    Settings,
    /// Metrics of a run: to be continued, with TensorBoard's events, and to be reported.
    Metrics,
    /// Result of an evaluation, for a report.
    EvaluationReport,
    /// Results of the images of an evaluation, for a report.
    ImageResults,
    /// Adversarial images, for a report.
    AdversarialImages,
    /// The paper's figures, for a report.
    PaperTable,
    /// Ceilings of a device, for `bench`.
    Ceilings,
    /// MNIST's images, plain or gzip.
    IdxImages,
    /// MNIST's labels, plain or gzip.
    IdxLabels,
    /// CIFAR10's records.
    Cifar10,
    /// PNG of a package of CIFAR10.
    PackagePicture,
    /// Labels of a package of CIFAR10.
    PackageLabels,
}

impl Reader {
    /// Path of the file below the run's folder, or its name.
    pub fn file(self) -> &'static str {
        match self {
            Reader::Weights => BEST,
            Reader::Checkpoint => LAST,
            Reader::EvaluationState => "evaluation-interrupted/unfinished.safetensors",
            Reader::Settings => CONFIG,
            Reader::Metrics => METRICS,
            Reader::EvaluationReport => "evaluation-complete/evaluation.json",
            Reader::ImageResults => "evaluation-complete/images.csv",
            Reader::AdversarialImages => "evaluation-complete/adversarial.safetensors",
            Reader::PaperTable => "paper.toml",
            Reader::Ceilings => "ceilings.json",
            Reader::IdxImages => "train-images-idx3-ubyte.gz",
            Reader::IdxLabels => "train-labels-idx1-ubyte.gz",
            Reader::Cifar10 => "data_batch_1.bin",
            Reader::PackagePicture => "data_batch_1.png",
            Reader::PackageLabels => "train_lables.json",
        }
    }

    /// Reads `content` in the place of the file.
    ///
    /// # Panics
    /// The reader panics, or refuses the content with an error that does not name the file.
    pub fn check(self, content: &[u8]) {
        let folder = tempfile::tempdir().expect("a folder");
        if let Err(error) = self.read(folder.path(), content) {
            let name = Path::new(self.file()).file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(error.to_string().contains(name), "{self:?}: the error does not name {name}: {error}");
        }
    }

    fn read(self, folder: &Path, content: &[u8]) -> Result<()> {
        let path = PathBuf::from(self.file());
        match self {
            Reader::IdxImages => return idx::decode_images(&path, content).map(drop),
            Reader::IdxLabels => return idx::decode_labels(&path, content).map(drop),
            Reader::Cifar10 => return cifar::decode(&path, content, RECORDS).map(drop),
            Reader::PackagePicture | Reader::PackageLabels => return import_with(folder, self, content),
            _ => {}
        }
        if matches!(self, Reader::PaperTable | Reader::Ceilings) {
            let file = folder.join(self.file());
            fs::write(&file, content).expect("a file");
            return match self {
                Reader::PaperTable => PaperTables::load(Some(&file), true).map(drop),
                _ => Ceilings::read(&file).map(drop),
            };
        }
        for (name, valid) in valid_files() {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, if *name == self.file() { content } else { valid }).expect("a file");
        }
        let file = folder.join(self.file());
        match self {
            Reader::Weights => {
                let size = Some(2);
                EvaluationRequest { size, ..request(folder) }.run(&mut Cpu::new(), &OutputPaths::default()).map(drop)
            }
            Reader::Checkpoint => {
                let run = RunFolder::open(folder)?;
                train::run(&config(), &splits(), &run, &mut Cpu::new(), true, true).map(drop)
            }
            Reader::EvaluationState => {
                let paths = output_paths(&folder.join(INTERRUPTED));
                request(folder).run(&mut Cpu::new(), &paths).map(drop)
            }
            Reader::Settings => {
                let config = Config::load(&file)?;
                config.describe();
                Ok(())
            }
            Reader::Metrics => {
                page(folder)?;
                Metrics::resume(&file, u64::from(STEPS), false).map(drop)
            }
            _ => page(folder),
        }
    }
}

/// Report about the run in `folder`.
fn page(folder: &Path) -> Result<()> {
    let paper = PaperTables::load(None, false)?;
    report::page::html(&[folder.to_owned()], Path::new("no data"), &paper).map(drop)
}

/// Labels of a package of CIFAR10, as its file has them.
pub fn package_labels() -> String {
    format!("[{}1]", "0,".repeat(49_999))
}

/// Imports a package of CIFAR10 that has labels and the first picture at most, one of them with the given content.
fn import_with(package: &Path, reader: Reader, content: &[u8]) -> Result<()> {
    fs::write(package.join(Reader::PackageLabels.file()), package_labels()).expect("a file");
    fs::write(package.join(reader.file()), content).expect("a file");
    match data::import(package, &package.join("data")) {
        // An accepted file is followed by one that is missing.
        Err(error) if error.to_string().contains("cannot read") => Ok(()),
        other => other.map(drop),
    }
}

/// Settings of the run.
fn config() -> Config {
    Config {
        width: 0.125,
        nb_iter: 1,
        train_size: Some(32),
        val_size: 8,
        test_size: Some(4),
        training_batch_size: 16,
        max_num_training_steps: STEPS,
        ..preset("quick").expect("a preset").config
    }
}

fn splits() -> data::Splits {
    let config = config();
    let splits = data::load(config.dataset, Path::new("no data"), config.val_size).expect("the bundled digits");
    splits.cut(config.train_size, config.test_size)
}

/// Evaluation of the run's weights, in balls and by a minimum-norm attack.
fn request(run: &Path) -> EvaluationRequest {
    EvaluationRequest {
        weights: run.join(BEST),
        weights_options: WeightsOptions::default(),
        config: config(),
        trained: None,
        split: Split::Test,
        size: Some(4),
        data: PathBuf::from("no data"),
        protocol: None,
        attacks: vec![AttackName::Pgd, AttackName::Ddn],
        settings: AttackSettings {
            nb_iter: Some(2),
            nb_restart: 2,
            step: StepLength::EpsOver(4.0),
            loss: Loss::Slm,
            nb_sample: 4,
            seed: 3,
        },
        eps: vec![0.02, 0.1],
        margins: false,
        batch_size: 2,
        quiet: true,
    }
}

fn output_paths(folder: &Path) -> OutputPaths {
    OutputPaths { folder: Some(folder.to_owned()), checkpoint_interval: Duration::ZERO, keep_images: true }
}

/// Valid content of every file below the run's folder.
pub fn valid_files() -> &'static BTreeMap<&'static str, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<&'static str, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let root = tempfile::tempdir().expect("a folder");
        let run = RunFolder::create(&root.path().join("run")).expect("a folder");
        run.record_events().expect("a file");
        train::run(&config(), &splits(), &run, &mut Cpu::new(), false, true).expect("a run");
        let [complete, interrupted] = [COMPLETE, INTERRUPTED].map(|name| run.path().join(name));
        [&complete, &interrupted].into_iter().for_each(|folder| fs::create_dir(folder).expect("a folder"));
        let done = request(run.path()).run(&mut Cpu::new(), &output_paths(&complete)).expect("an evaluation");
        folder::write(&complete, &done).expect("files");
        let save = OutputFile::check("--save", &complete.join(ADVERSARIAL), &[]).expect("a file that can be written");
        done.adversarial.as_ref().expect("images").write(&save).expect("a file");
        let mut failing = FailingDevice::after(2);
        assert!(request(run.path()).run(&mut failing, &output_paths(&interrupted)).is_err());
        let events = maxmargin::record::events::EVENTS;
        let readers = [
            Reader::Weights,
            Reader::Checkpoint,
            Reader::EvaluationState,
            Reader::Settings,
            Reader::Metrics,
            Reader::EvaluationReport,
            Reader::ImageResults,
            Reader::AdversarialImages,
        ];
        let names = readers.map(Reader::file).into_iter().chain([events]);
        names.map(|name| (name, fs::read(run.path().join(name)).expect(name))).collect()
    })
}
