//! The digits that the program bundles.

use std::collections::HashSet;
use std::path::Path;

use maxmargin::catalog::DatasetKind;
use maxmargin::data::{digits, load};

use crate::refused;

#[test]
fn the_bundled_digits_need_no_folder_and_have_equally_many_images_of_every_class() {
    let splits = load(DatasetKind::Digits, Path::new("no/such/folder"), 1000).unwrap();
    assert_eq!(splits.source, "bundled digits");
    for (part, each) in [(&splits.train, 600), (&splits.validation, 100), (&splits.test, 100)] {
        assert_eq!((part.len(), part.height, part.width, part.channels), (each * 10, 28, 28, 1));
        assert_eq!(part.images.len(), part.len() * 784);
        for class in 0..10 {
            assert_eq!(part.labels.iter().filter(|&&label| label == class).count(), each, "{class} in {}", part.name);
        }
    }
}

#[test]
fn no_bundled_digit_is_in_two_parts() {
    let splits = digits::load(digits::VALIDATION).unwrap();
    let parts = [splits.train, splits.validation, splits.test];
    let all: HashSet<&[u8]> = parts.iter().flat_map(|part| (0..part.len()).map(|i| part.image(i))).collect();
    assert_eq!(all.len(), 8000);
}

#[test]
fn val_size_only_shrinks_the_bundled_validation_images() {
    let (all, some) = (digits::load(1000).unwrap(), digits::load(300).unwrap());
    assert_eq!(some.validation, all.validation.take(300));
    assert!(some.train == all.train && some.test == all.test);
    refused(digits::load(1001), &["val_size 1001: the bundled digits have 1000 validation images"]);
}

#[test]
fn take_keeps_the_first_images_or_all_if_there_are_fewer() {
    let test = digits::load(0).unwrap().test;
    let first = test.clone().take(10);
    assert_eq!((first.len(), first.images.len()), (10, 7840));
    assert!(first.image(9) == test.image(9) && first.labels == test.labels[..10]);
    assert_eq!(test.clone().take(5000), test);
}
