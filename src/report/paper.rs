//! Figures of the paper beside which a page shows those of runs.
//!
//! Robust images of a model are correct under ten random starts of PGD on the model and as many transferred from each
//! of the paper's other models, on the 10,000 test images. AvgRobAcc is the mean over every eps, AvgAcc the mean over
//! clean images and every eps.
//!
//! The figures are a file of their own, `paper.toml` beside this one, which [`super::paper_file`] reads; users who have
//! the paper pass a file of that form. Figures that were not verified are shown only on request.

use crate::catalog::DatasetKind;
use crate::tape::Norm;
use crate::text::length;

/// Figure of the paper.
#[derive(Clone, Debug, PartialEq)]
pub struct PaperFigure {
    /// Digits of the source, after `~` if they are rounded.
    pub text: String,
    /// Value.
    pub value: f64,
    /// Place where the figure was seen.
    pub source: String,
    /// True if the figure was compared with its source; false for a transcription that nobody could check.
    pub verified: bool,
}

/// Quantity of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PaperColumn {
    /// Accuracy on clean images, in percent.
    Clean,
    /// Mean of the accuracies on clean images and at every eps.
    AverageAccuracy,
    /// Mean of the accuracies at every eps.
    AverageRobustAccuracy,
    /// Accuracy under attack at an eps, in percent.
    Eps(f64),
    /// Mean distance.
    MeanDistance,
    /// Lower quartile of the distance.
    LowerQuartile,
    /// Median of the distance.
    Median,
    /// Upper quartile of the distance.
    UpperQuartile,
}

/// Figures of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaperModel {
    /// Name of the model in the paper.
    pub name: String,
    /// The known figures.
    pub figures: Vec<(PaperColumn, PaperFigure)>,
}

impl PaperModel {
    /// Figure of a column, if it is known. Two eps are equal up to the rounding of written numbers, as 0.0314 and
    /// 8/255.
    pub fn figure(&self, column: PaperColumn) -> Option<&PaperFigure> {
        let found = self.figures.iter().find(|(known, _)| match (*known, column) {
            (PaperColumn::Eps(known), PaperColumn::Eps(eps)) => same_eps(known, eps),
            (known, column) => known == column,
        });
        found.map(|(_, figure)| figure)
    }

    /// Accuracies at each eps, and the clean one at eps 0, as points of a plot, by ascending eps.
    pub fn points(&self) -> Vec<(f64, f64)> {
        let point = |(column, figure): &(PaperColumn, PaperFigure)| match column {
            PaperColumn::Clean => Some((0.0, figure.value)),
            PaperColumn::Eps(eps) => Some((*eps, figure.value)),
            _ => None,
        };
        let mut points: Vec<_> = self.figures.iter().filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }
}

/// Figures on a data set in a norm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaperTable {
    /// Accuracies under the paper's attacks, on the 10,000 test images.
    pub models: Vec<PaperModel>,
    /// Accuracies of published weights under AutoAttack.
    pub autoattack: Vec<PaperModel>,
    /// Least l2 distances by Carlini and Wagner's attack on the first 1,000 test images.
    pub distances: Vec<PaperModel>,
}

impl PaperTable {
    /// Every eps of the accuracies under the paper's attacks, ascending.
    pub fn eps(&self) -> Vec<f64> {
        let columns = self.models.iter().flat_map(|model| model.figures.iter().map(|(column, _)| *column));
        let mut all: Vec<f64> = Vec::new();
        for column in columns {
            match column {
                PaperColumn::Eps(eps) if !all.iter().any(|known| same_eps(*known, eps)) => all.push(eps),
                _ => {}
            }
        }
        all.sort_by(f64::total_cmp);
        all
    }
}

/// Sources of the verified figures of models: each once, in the order of the figures.
pub fn sources(models: &[PaperModel]) -> String {
    let mut all: Vec<&str> = Vec::new();
    for (_, figure) in models.iter().flat_map(|model| &model.figures) {
        if figure.verified && !all.contains(&&*figure.source) {
            all.push(&figure.source);
        }
    }
    all.join(", ")
}

/// Every table, by data set and norm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaperTables {
    /// The tables.
    pub(super) tables: Vec<(DatasetKind, Norm, PaperTable)>,
    /// True if figures that were not verified are among them.
    pub unverified: bool,
}

impl PaperTables {
    /// Table for a data set in a norm; MNIST's for the bundled digits.
    pub fn of(&self, dataset: DatasetKind, norm: Norm) -> PaperTable {
        let found = self.tables.iter().find(|(known, in_norm, _)| (*known, *in_norm) == (published(dataset), norm));
        found.map(|(_, _, table)| table.clone()).unwrap_or_default()
    }
}

/// Data set that the paper has instead: MNIST for the bundled digits, which are a part of it.
pub(super) fn published(dataset: DatasetKind) -> DatasetKind {
    if dataset == DatasetKind::Digits { DatasetKind::Mnist } else { dataset }
}

/// True if two eps are equal up to the rounding of written numbers, as 0.0314 and 8/255.
pub fn same_eps(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-3 * a.abs().max(b.abs())
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

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(DatasetKind, Norm); 4] = [
        (DatasetKind::Cifar10, Norm::Linf),
        (DatasetKind::Cifar10, Norm::L2),
        (DatasetKind::Mnist, Norm::Linf),
        (DatasetKind::Mnist, Norm::L2),
    ];

    fn tables(unverified: bool) -> [PaperTable; 4] {
        let tables = PaperTables::load(None, unverified).unwrap();
        ALL.map(|(dataset, norm)| tables.of(dataset, norm))
    }

    fn named<'a>(models: &'a [PaperModel], name: &str) -> &'a PaperModel {
        models.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn the_bundled_tables_have_the_paper_s_radii_and_models() {
        for ((dataset, norm), table) in ALL.into_iter().zip(tables(true)) {
            assert_eq!(table.eps(), dataset.radii(norm).paper, "{dataset}, {norm}");
            for row in &table.distances {
                assert_eq!(row.figures.len(), 5, "{dataset}, {norm}: {}", row.name);
            }
        }
        assert_eq!(tables(true).map(|table| table.models.len()), [19, 13, 17, 12]);
        assert_eq!(tables(true).map(|table| table.distances.len()), [0, 14, 0, 12]);
        assert_eq!(tables(true).map(|table| table.autoattack.len()), [1, 1, 1, 0]);
    }

    #[test]
    fn unverified_figures_are_left_out_unless_asked_for() {
        let names = |table: &PaperTable| table.models.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        let verified = tables(false);
        assert_eq!(names(&verified[0]), ["MMA-32", "PGD-Madry", "TRADES"]);
        assert_eq!(names(&verified[1]), ["MMA-1.0"]);
        assert_eq!(names(&verified[2]), ["MMA-0.45", "TRADES"]);
        assert!(names(&verified[3]).is_empty());
        for table in &verified {
            let all = [&table.models, &table.autoattack, &table.distances].into_iter().flatten();
            assert!(all.flat_map(|row| &row.figures).all(|(_, figure)| figure.verified));
        }
        let madry = |table: &PaperTable| named(&table.models, "PGD-Madry").figures.len();
        assert_eq!([&tables(false)[0], &tables(true)[0]].map(madry), [1, 11]);
        let verified_distances = verified.iter().flat_map(|table| &table.distances).map(|row| row.figures.len());
        assert_eq!(verified_distances.sum::<usize>(), 130);
    }

    /// The review thread prints one decimal, AutoAttack's table two.
    #[test]
    fn a_verified_figure_has_no_decimal_that_its_source_lacks() {
        let [cifar10, _, mnist, _] = tables(false);
        let digits = |table: &PaperTable, name: &str| {
            let figures = &named(&table.models, name).figures;
            let mut texts: Vec<_> = figures.iter().map(|(_, figure)| figure.text.clone()).collect();
            texts.sort_by(|a, b| b.parse::<f64>().unwrap().total_cmp(&a.parse().unwrap()));
            texts.join(" ")
        };
        assert_eq!(digits(&cifar10, "MMA-32"), "84.36 64.8 47.18 31.5 29.4 22.5 18.9 10.2 4.8 2.0 0.8");
        assert_eq!(digits(&mnist, "MMA-0.45"), "98.95 97.9 96.0 94.1 92.9 92.59 85.2");
        assert_eq!(digits(&cifar10, "TRADES"), "84.9 71.0 52.9 33.0 30.4 23.6 18.2 8.3 3.6 1.4 0.7");
        assert_eq!(digits(&cifar10, "PGD-Madry"), "44.68");
        let expected = "AutoAttack's table of results, the paper's review thread, means of verified figures";
        assert_eq!(sources(&cifar10.models), expected);
        let autoattack = &cifar10.autoattack[0];
        assert_eq!(autoattack.figure(PaperColumn::Eps(8.0 / 255.0)).unwrap().text, "41.44");
    }

    #[test]
    fn averages_are_the_means_of_their_rows() {
        let mut checked = 0;
        for ((dataset, norm), table) in ALL.into_iter().zip(tables(true)) {
            let eps = table.eps();
            for row in &table.models {
                let robust: Option<Vec<f64>> =
                    eps.iter().map(|&eps| Some(row.figure(PaperColumn::Eps(eps))?.value)).collect();
                let Some(robust) = robust else { continue };
                let clean = row.figure(PaperColumn::Clean).unwrap().value;
                let sum: f64 = robust.iter().sum();
                let n = robust.len() as f64;
                for (column, mean) in [
                    (PaperColumn::AverageRobustAccuracy, sum / n),
                    (PaperColumn::AverageAccuracy, (sum + clean) / (n + 1.0)),
                ] {
                    let found = row.figure(column).unwrap();
                    // Half a unit of the last digit, and that of the figures averaged.
                    let digits = found.text.split_once('.').map_or(0, |(_, digits)| digits.len());
                    let near = (found.value - mean).abs() < 1.1 * 10f64.powi(-(digits as i32));
                    assert!(near, "{dataset}, {norm}: {}: {column:?} {mean}", row.name);
                    checked += 1;
                }
            }
        }
        assert_eq!(checked, 2 * (19 + 12 + 17 + 10));
    }

    #[test]
    fn accuracy_falls_with_eps() {
        for table in tables(true) {
            for row in &table.models {
                assert!(row.points().is_sorted_by(|a, b| a.1 >= b.1), "{}: {:?}", row.name, row.points());
            }
        }
    }

    #[test]
    fn rounded_eps_are_the_same() {
        assert!(same_eps(0.0314, 8.0 / 255.0) && same_eps(0.3, f64::from(0.3f32)) && same_eps(0.0, 0.0));
        assert!(!same_eps(0.1, 0.11) && !same_eps(0.0, 0.1) && !same_eps(12.0 / 255.0, 16.0 / 255.0));
    }

    #[test]
    fn a_model_has_the_paper_s_name() {
        use DatasetKind::{Cifar10, Digits, Mnist};
        let tables = PaperTables::load(None, true).unwrap();
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
            named(&tables.of(dataset, norm).models, name);
        }
    }
}
