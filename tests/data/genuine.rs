//! The genuine files, if they are in the data folder.

use std::io::Write;
use std::path::{Path, PathBuf};

use maxmargin::catalog::DatasetKind;
use maxmargin::data::{DatasetCondition, Provenance, PublishedPart, cifar, digits, idx, load};

use crate::survey::surveyed;

/// Folder of the genuine files of `kind` in the repository's data folder; `None`, after a note that the test is
/// skipped, if they are not there.
pub fn genuine(kind: DatasetKind, test: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let found = match kind {
        DatasetKind::Cifar10 => cifar::find(&folder, PublishedPart::Train),
        _ => idx::find(&folder, PublishedPart::Train),
    };
    if let Err(reason) = &found {
        // The test harness hides the output of `eprintln` when a test passes.
        std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
    }
    found.ok().map(|_| folder)
}

#[test]
fn the_bundled_digits_are_the_first_of_each_class_in_mnist() {
    let Some(folder) = genuine(DatasetKind::Mnist, "the_bundled_digits_are_the_first_of_each_class_in_mnist") else {
        return;
    };
    let mnist = load(DatasetKind::Mnist, &folder, 5000).unwrap();
    let bundled = digits::load(1000).unwrap();
    let parts = [
        (mnist.train, bundled.train, 600),
        (mnist.validation, bundled.validation, 100),
        (mnist.test, bundled.test, 100),
    ];
    for (whole, part, each) in parts {
        let mut taken = [0; 10];
        let chosen = (0..whole.len()).filter(|&i| {
            let class = &mut taken[usize::from(whole.labels[i])];
            *class += 1;
            *class <= each
        });
        let chosen: Vec<usize> = chosen.collect();
        assert_eq!(part.len(), chosen.len());
        for (k, &i) in chosen.iter().enumerate() {
            assert!(part.image(k) == whole.image(i) && part.labels[k] == whole.labels[i], "{} {k}", part.name);
        }
    }
}

#[test]
fn the_files_in_the_data_folder_are_the_published_ones() {
    for (kind, name) in [(DatasetKind::Mnist, "mnist"), (DatasetKind::Cifar10, "cifar10")] {
        let Some(folder) = genuine(kind, "the_files_in_the_data_folder_are_the_published_ones") else { continue };
        let found = surveyed(&folder, kind);
        assert!(found.condition == DatasetCondition::Genuine && found.description.contains(", genuine"), "{found}");
        let splits = load(kind, &folder, 5000).unwrap().cut(Some(100), Some(100));
        let parts = [splits.train, splits.validation, splits.test].map(|part| part.provenance);
        assert_eq!(parts, [Provenance::Published; 3], "{name}");
    }
}
