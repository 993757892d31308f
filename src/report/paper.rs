//! Figures of the paper, transcribed, to stand beside those of a run.
//!
//! A row has a model's name, accuracy on clean images, AvgAcc (mean over clean images and every eps), AvgRobAcc (mean
//! over every eps), and the accuracy at each eps, all in percent, on the 10,000 test images. Robust images are correct
//! under ten random starts of PGD on the model and as many transferred from each of the other models. The number in a
//! model's name is its d_max or the eps it was trained with, on CIFAR10 in linf as a multiple of 1/255; "ens" is an
//! ensemble of several models, "PGD-Madry" and TRADES are weights that others published.
//!
//! The sign behind a figure tells its source:
//!
//! | sign | |
//! | --- | --- |
//! | `!` | verified: seen in the paper's review thread or in AutoAttack's table of results |
//! | `*` | the mean of verified figures of its row |
//! | none | unverified transcription; the averages of its row are the means of the other figures |
//! | `~` | unverified transcription, rounded |
//! | `-` | not known |
//!
//! PGD-12, -20, -28 and -32, PGDLS-20, -28 and -32, and OMMA-32 on CIFAR10 in linf are left out: they are not known.

use crate::catalog::DatasetKind;
use crate::tape::Norm;
use crate::text::length;

/// Reliability of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transcription {
    /// Seen in the paper's review thread or in AutoAttack's table, or the mean of such figures.
    Verified,
    /// Transcribed from the paper without a second source.
    Unverified,
}

/// Figure of the paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperFigure {
    /// Digits as transcribed, after `~` if they are rounded.
    pub text: &'static str,
    /// Value.
    pub value: f64,
    /// Reliability.
    pub transcription: Transcription,
}

/// Figures of a model; `None` where one is not known.
#[derive(Clone, Debug, PartialEq)]
pub struct PaperModel {
    /// Name of the model in the paper.
    pub name: &'static str,
    /// Figures in the order of the table's columns.
    pub figures: Vec<Option<PaperFigure>>,
}

/// Accuracy of a published model under AutoAttack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperAutoAttack {
    /// Name of the model in the paper.
    pub model: &'static str,
    /// Radius of the balls.
    pub eps: f64,
    /// Accuracy in percent.
    pub accuracy: PaperFigure,
}

impl PaperModel {
    /// Reliability of all known figures; `None` if they differ.
    pub fn transcription(&self) -> Option<Transcription> {
        let mut known = self.figures.iter().flatten().map(|figure| figure.transcription);
        let first = known.next()?;
        known.all(|other| other == first).then_some(first)
    }
}

/// Table of the paper for a data set in a norm.
#[derive(Clone, Debug, PartialEq)]
pub struct PaperTable {
    /// Eps of the attacks: the columns after clean, AvgAcc and AvgRobAcc.
    pub eps: Vec<f64>,
    /// Models.
    pub models: Vec<PaperModel>,
    /// AutoAttack on the published weights.
    pub autoattack: Option<PaperAutoAttack>,
    /// Least l2 distances by Carlini and Wagner's attack on the first 1,000 test images: clean accuracy in percent,
    /// then mean, lower quartile, median and upper quartile of the distance.
    pub distances: Vec<PaperModel>,
}

/// Accuracies on CIFAR10 in linf at eps 4, 8, 12, 16, 20, 24, 28 and 32 of 255.
const CIFAR10_LINF: &str = "
STD        94.92  10.55   0.00      0      0      0      0      0     0     0     0
PGD-4      90.44  22.95  14.51  66.31  33.49  12.22   3.01   0.75  0.24  0.06  0.01
PGD-8      85.14  27.27  20.03  67.73  46.47  26.63  12.33   4.69  1.56  0.62  0.22
PGD-16     68.86  28.28  23.21  57.99  46.09  33.64  22.73  13.37  7.01  3.32  1.54
PGD-24     10.90   9.95   9.83  10.60  10.34  10.11  10.00   9.89  9.69  9.34  8.68
PGDLS-4    89.87  22.39  13.96  63.98  31.92  11.47   3.32   0.68  0.16  0.08  0.05
PGDLS-8    85.63  27.20  19.90  67.96  46.19  26.19  12.22   4.51  1.48  0.44  0.21
PGDLS-12   79.39  28.45  22.08  64.62  48.08  31.34  17.86   8.69  3.95  1.48  0.65
PGDLS-16   70.68  28.44  23.16  59.43  47.00  33.64  21.72  12.66  6.54  2.98  1.31
PGDLS-24   58.36  26.53  22.55  49.05  41.13  32.10  23.76  15.70  9.66  5.86  3.11
MMA-12     88.59  26.87  19.15  67.96  43.42  24.07  11.45   4.27  1.43  0.45  0.16
MMA-20     86.56  28.86  21.65  66.92  46.89  29.83  16.55   8.14  3.25  1.17  0.43
MMA-32    84.36! 29.39* 22.51* 64.82! 47.18! 31.49! 18.91! 10.16! 4.77! 1.97! 0.81!
OMMA-12    88.52  26.31  18.54  66.96  42.58  23.22  10.29   3.43  1.24  0.46  0.13
OMMA-20    87.06  27.41  19.95  66.54  45.39  26.29  13.09   5.32  1.96  0.79  0.23
PGD-ens    87.38  28.10  20.69  64.59  46.95  28.88  15.10   6.35  2.35  0.91  0.39
PGDLS-ens  76.73  29.52  23.62  60.52  48.21  35.06  22.14  12.28  6.17  3.14  1.43
PGD-Madry  87.14  27.22  19.73  68.01 44.68!  25.03  12.15   5.18  1.95  0.64  0.23
TRADES     84.9!  30.4*  23.6*  71.0!  52.9!  33.0!  18.2!   8.3!  3.6!  1.4!  0.7!
";

/// Accuracies on MNIST in linf at eps 0.1, 0.2, 0.3 and 0.4.
const MNIST_LINF: &str = "
STD         99.21  35.02  18.97  73.58   2.31      0      0
PGD-0.1     99.40  48.85  36.22  96.35  48.51   0.01      0
PGD-0.2     99.22  57.92  47.60  97.44  92.12   0.84      0
PGD-0.3     98.96  76.97  71.47  97.90  96.00  91.76   0.22
PGD-0.4     96.64  89.37  87.55  94.69  91.57  86.49  77.47
PGD-0.45    11.35  11.35  11.35  11.35  11.35  11.35  11.35
PGDLS-0.1   99.43  46.85  33.71  95.41  39.42      0      0
PGDLS-0.2   99.38  58.36  48.10  97.38  89.49   5.53      0
PGDLS-0.3   99.10  76.56  70.93  97.97  95.66  90.09      0
PGDLS-0.4   98.98  93.07  91.59  98.12  96.29  93.01  78.96
PGDLS-0.45  98.89  94.74  93.70  97.91  96.34  93.29  87.28
MMA-0.45   98.95! 94.13* 92.93* 97.87! 96.01! 92.59! 85.24!
OMMA-0.45   98.98  93.94  92.68  97.90  96.05  92.35  84.41
PGD-ens     99.28  57.98  47.65  97.25  89.99   3.37      0
PGDLS-ens   99.34  59.04  48.96  97.48  90.40   7.96      0
PGD-Madry   98.53  76.04  70.41  97.08  94.83  89.64   0.11
TRADES      99.5!  78.0*  72.6*  98.8!  97.3!  94.1!   0.1!
";

/// Accuracies on CIFAR10 in l2 at eps 0.5, 1, 1.5, 2 and 2.5.
const CIFAR10_L2: &str = "
PGD-0.5    89.10  33.6  22.5  65.61 33.21 11.25  2.31  0.38
PGD-1.0    83.25 39.70 30.99  66.69 46.08 26.05 11.92  4.21
PGD-1.5    75.80 41.75 34.94  62.70 48.32 33.72 20.07  9.91
PGD-2.0    71.05 41.78 35.92  59.76 47.85 35.29 23.15 13.56
PGD-2.5    65.17 40.93 36.08  55.60 45.76 35.76 26.00 17.27
PGDLS-0.5  89.43 33.41 22.21  65.49 32.40 10.73  2.09  0.33
PGDLS-1.5  77.03 41.74 34.68  63.76 48.43 33.04 19.00  9.17
PGDLS-2.0  72.14 42.15 36.16  60.90 48.22 35.21 23.19 13.26
MMA-1.0   88.02! 35.55 25.06 66.18! 37.75 15.58  4.74  1.03
MMA-2.0    84.22 ~40.5 ~31.7  ~65.9 ~45.7     -     -     -
MMA-3.0    82.11 41.59 33.49  64.22 46.41 30.23 17.85  8.73
OMMA-1.0   89.02 35.18 24.41  65.43 36.89 14.77  4.18  0.79
OMMA-2.0   86.06 39.32 29.97  65.28 43.82 24.85 11.53  4.36
";

/// Accuracies on MNIST in l2 at eps 1, 2, 3 and 4.
const MNIST_L2: &str = "
STD       99.21 41.84 27.49 86.61 22.78  0.59     0
PGD-1.0   99.30 48.78 36.15 95.06 46.84  2.71     0
PGD-2.0   98.76 56.14 45.48 94.82 72.70 14.20  0.21
PGD-3.0   97.14 60.36 51.17 90.01 71.03 38.93  4.71
PGD-4.0   93.41 59.52 51.05 82.34 66.25 43.44 12.18
PGDLS-1.0 99.39 47.61 34.66 94.33 42.44  1.89     0
PGDLS-2.0 99.09 54.73 43.64 95.22 69.33 10.01  0.01
PGDLS-3.0 97.52 60.13 50.78 90.86 71.91 36.80  3.56
PGDLS-4.0 93.68 59.49 50.95 82.67 67.21 43.68 10.23
MMA-2.0   99.27 53.85 42.50 95.59 68.37  6.03  0.01
MMA-4.0   98.57 ~62.3 ~53.2 ~93.7     -     -     -
MMA-6.0   97.72 ~62.3 ~53.5     -     -     -     -
";

/// Distances on CIFAR10 in l2.
const CIFAR10_L2_DISTANCES: &str = "
STD       95.1! 0.09! 0.05! 0.08! 0.13!
PGD-0.5   89.2! 0.80! 0.32! 0.76! 1.21!
PGD-1.0   83.8! 1.01! 0.30! 0.91! 1.62!
PGD-1.5   76.0! 1.11! 0.04! 0.96! 1.87!
PGD-2.0   71.6! 1.16!    0! 0.96! 2.03!
PGD-2.5   65.2! 1.19!    0! 0.88! 2.10!
PGDLS-0.5 90.5! 0.79! 0.34! 0.76! 1.17!
PGDLS-1.0 83.8! 1.00! 0.30! 0.91! 1.59!
PGDLS-1.5 77.6! 1.10! 0.11! 0.97! 1.83!
PGDLS-2.0 73.1! 1.16!    0! 0.98! 2.02!
PGDLS-2.5 66.0! 1.19!    0! 0.88! 2.13!
MMA-1.0   88.4! 0.85! 0.32! 0.80! 1.27!
MMA-2.0   84.2! 1.03! 0.26! 0.92! 1.62!
MMA-3.0   81.2! 1.09! 0.21! 0.92! 1.73!
";

/// Distances on MNIST in l2.
const MNIST_L2_DISTANCES: &str = "
STD       99.0! 1.57! 1.19! 1.57! 1.95!
PGD-1.0   99.2! 1.95! 1.58! 1.95! 2.33!
PGD-2.0   98.6! 2.32! 1.85! 2.43! 2.82!
PGD-3.0   96.8! 2.54! 1.79! 2.76! 3.39!
PGD-4.0   91.8! 2.53! 1.38! 2.75! 3.75!
PGDLS-1.0 99.3! 1.88! 1.53! 1.88! 2.24!
PGDLS-2.0 99.3! 2.23! 1.82! 2.30! 2.68!
PGDLS-3.0 96.9! 2.51! 1.81! 2.74! 3.29!
PGDLS-4.0 91.8! 2.53! 1.46! 2.79! 3.72!
MMA-2.0   99.3! 2.15! 1.81! 2.22! 2.58!
MMA-4.0   98.5! 2.67! 1.86! 2.72! 3.52!
MMA-6.0   97.7! 2.76! 1.84! 2.72! 3.61!
";

/// Table of the paper for a data set in a norm; MNIST's for the bundled digits.
pub fn table(dataset: DatasetKind, norm: Norm) -> PaperTable {
    let radii = dataset.radii(norm);
    let (models, model, accuracy, distances) = match (dataset, norm) {
        (DatasetKind::Cifar10, Norm::Linf) => (CIFAR10_LINF, "MMA-32", "41.44!", ""),
        (DatasetKind::Cifar10, Norm::L2) => (CIFAR10_L2, "MMA-1.0", "66.09!", CIFAR10_L2_DISTANCES),
        (_, Norm::Linf) => (MNIST_LINF, "MMA-0.45", "91.40!", ""),
        (_, Norm::L2) => (MNIST_L2, "", "-", MNIST_L2_DISTANCES),
    };
    let autoattack = figure(accuracy).map(|accuracy| PaperAutoAttack { model, eps: radii.autoattack, accuracy });
    PaperTable { eps: radii.paper.to_vec(), models: parse(models), autoattack, distances: parse(distances) }
}

/// Name in the paper of a model trained by `method` ("MMA", "OMMA", "PGD", "PGDLS") with the d_max or eps `length`;
/// "STD" has neither.
pub fn model_name(dataset: DatasetKind, norm: Norm, method: &str, length: f64) -> String {
    if method == "STD" {
        return method.into();
    }
    if dataset == DatasetKind::Cifar10 && norm == Norm::Linf {
        // 0.0471, as the released scripts have it, is 12/255 too.
        return format!("{method}-{:.0}", length * 255.0);
    }
    let text = self::length(length);
    if text.contains('.') { format!("{method}-{text}") } else { format!("{method}-{text}.0") }
}

fn parse(text: &'static str) -> Vec<PaperModel> {
    let row = |line: &'static str| {
        let mut words = line.split_whitespace();
        Some(PaperModel { name: words.next()?, figures: words.map(figure).collect() })
    };
    text.lines().filter_map(row).collect()
}

/// Figure of a word with its sign; `None` for `-`.
fn figure(word: &'static str) -> Option<PaperFigure> {
    let text = word.trim_end_matches(['!', '*']);
    let transcription = if text == word { Transcription::Unverified } else { Transcription::Verified };
    text.trim_start_matches('~').parse().ok().map(|value| PaperFigure { text, value, transcription })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(DatasetKind, Norm); 4] = [
        (DatasetKind::Cifar10, Norm::Linf),
        (DatasetKind::Cifar10, Norm::L2),
        (DatasetKind::Mnist, Norm::Linf),
        (DatasetKind::Mnist, Norm::L2),
    ];

    #[test]
    fn every_row_has_as_many_figures_as_columns() {
        for (dataset, norm) in ALL {
            let table = table(dataset, norm);
            for row in &table.models {
                assert_eq!(row.figures.len(), 3 + table.eps.len(), "{dataset}, {norm}: {}", row.name);
            }
            for row in &table.distances {
                assert_eq!(row.figures.iter().flatten().count(), 5, "{dataset}, {norm}: {}", row.name);
                assert_eq!(row.transcription(), Some(Transcription::Verified));
            }
        }
        assert_eq!(ALL.map(|(dataset, norm)| table(dataset, norm).models.len()), [19, 13, 17, 12]);
        assert_eq!(ALL.map(|(dataset, norm)| table(dataset, norm).distances.len()), [0, 14, 0, 12]);
    }

    #[test]
    fn averages_are_the_means_of_their_rows() {
        for (dataset, norm) in ALL {
            let table = table(dataset, norm);
            for row in &table.models {
                let Some(all) = row.figures.iter().copied().collect::<Option<Vec<_>>>() else { continue };
                let mean =
                    |figures: &[PaperFigure]| figures.iter().map(|f| f.value).sum::<f64>() / figures.len() as f64;
                let robust = mean(&all[3..]);
                let every = (all[0].value + robust * table.eps.len() as f64) / (1 + table.eps.len()) as f64;
                // Half a unit of the last digit, and that of the figures averaged.
                let digits = |figure: &PaperFigure| figure.text.split_once('.').map_or(0, |(_, digits)| digits.len());
                let near = |found: &PaperFigure, mean: f64| {
                    (found.value - mean).abs() < 1.1 * 10f64.powi(-(digits(found) as i32))
                };
                assert!(near(&all[2], robust), "{dataset}, {norm}: {}: AvgRobAcc {robust}", row.name);
                assert!(near(&all[1], every), "{dataset}, {norm}: {}: AvgAcc {every}", row.name);
            }
        }
    }

    #[test]
    fn accuracy_falls_with_eps() {
        for (dataset, norm) in ALL {
            let table = table(dataset, norm);
            for row in &table.models {
                let values: Vec<_> = row.figures[3..].iter().flatten().map(|figure| figure.value).collect();
                assert!(values.is_sorted_by(|a, b| a >= b), "{dataset}, {norm}: {}", row.name);
            }
        }
    }

    #[test]
    fn verified_figures_are_told_from_unverified_ones() {
        let table = table(DatasetKind::Cifar10, Norm::Linf);
        let row = |name: &str| table.models.iter().find(|row| row.name == name).unwrap();
        assert_eq!(row("MMA-32").transcription(), Some(Transcription::Verified));
        assert_eq!(row("TRADES").transcription(), Some(Transcription::Verified));
        assert_eq!(row("PGD-8").transcription(), Some(Transcription::Unverified));
        assert_eq!(row("PGD-Madry").transcription(), None, "some figures are verified");
        let eight = row("PGD-Madry").figures[4].unwrap();
        assert_eq!((eight.text, eight.value, eight.transcription), ("44.68", 44.68, Transcription::Verified));
        assert_eq!(table.autoattack.unwrap().accuracy.value, 41.44);
    }

    #[test]
    fn a_model_has_the_paper_s_name() {
        use DatasetKind::{Cifar10, Digits, Mnist};
        for (dataset, norm, method, length, name) in [
            (Cifar10, Norm::Linf, "MMA", 0.1255, "MMA-32"),
            (Cifar10, Norm::Linf, "OMMA", 0.0471, "OMMA-12"),
            (Cifar10, Norm::Linf, "PGD", 8.0 / 255.0, "PGD-8"),
            (Cifar10, Norm::L2, "MMA", 1.0, "MMA-1.0"),
            (Digits, Norm::Linf, "MMA", 0.45, "MMA-0.45"),
            (Mnist, Norm::L2, "MMA", 6.0, "MMA-6.0"),
            (Mnist, Norm::L2, "STD", 4.0, "STD"),
        ] {
            assert_eq!(model_name(dataset, norm, method, length), name);
            let known = table(dataset, norm).models;
            assert!(known.iter().any(|row| row.name == name), "{name}");
        }
    }
}
