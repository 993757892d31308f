//! Hash and provenance of images.

use std::collections::HashSet;

use maxmargin::catalog::DatasetKind;
use maxmargin::data::{Dataset, Provenance, digits, load};

use crate::{folder, write_mnist};

#[test]
fn the_hash_of_a_data_set_tells_other_pixels_labels_and_numbers_of_images_apart_and_nothing_else() {
    let data = digits::load(1000).unwrap().test.take(20);
    let changed = |change: fn(&mut Dataset)| {
        let mut other = data.clone();
        change(&mut other);
        other.sha256()
    };
    assert_eq!(data.sha256(), changed(|data| data.name = "another name".into()));
    let different = [
        data.sha256(),
        data.clone().take(19).sha256(),
        changed(|data| data.images[3] ^= 1),
        changed(|data| data.labels.swap(0, 1)),
        changed(|data| (data.height, data.width) = (14, 56)),
    ];
    assert_eq!(HashSet::from(different).len(), 5);
}

#[test]
fn the_hash_of_splits_tells_where_they_were_parted() {
    let hash = |val_size| digits::load(val_size).unwrap().sha256();
    assert_eq!(hash(300), hash(300));
    assert_ne!(hash(300), hash(301));
}

#[test]
fn other_images_under_the_published_names_are_not_taken_for_the_published_ones() {
    let folder = folder();
    write_mnist(folder.path());
    let splits = load(DatasetKind::Mnist, folder.path(), 5).unwrap();
    let parts = [&splits.train, &splits.validation, &splits.test].map(|part| part.provenance);
    assert_eq!(parts, [Provenance::Other; 3]);
    assert_eq!(splits.provenance(), Provenance::Other);
    assert_eq!(digits::load(10).unwrap().cut(Some(10), Some(10)).provenance(), Provenance::Bundled);
}
