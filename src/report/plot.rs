//! Plots as inline SVG: lines, bars, and fractions as shades.
//!
//! A plot has no legend: the page names the colours. Colours are CSS variables of the page, so that they follow a light
//! or dark theme. Any number may be plotted: NaN and infinity are gaps, points outside the axes lie on their edge.

use std::fmt::Write as _;
use std::ops::Range;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::escape::escape;
use crate::{Error, Result};

/// Size of a plot, twice that of a column of the page, because coordinates are whole numbers.
const SIZE: (u32, u32) = (960, 600);
/// Size of a plot as wide as the page.
const WIDE: (u32, u32) = (1920, 640);
/// Size of a label's letters in plotters' unit, 1.24 times the SVG's.
const LETTERS: u32 = 31;
/// Largest number of points of a line; more are averaged.
const POINTS: usize = 600;
/// End of the longest axis: on a longer one single steps are lost in rounding.
const FAR: f64 = 1e12;

/// Colours on a light and on a dark page. The first ones are those of series, in turn.
const COLOURS: [(RGBColor, &str); 12] = [
    (RGBColor(0x1f, 0x6f, 0xc5), "#6aaef5"),
    (RGBColor(0xd9, 0x5f, 0x0e), "#ff9c56"),
    (RGBColor(0x13, 0x8a, 0x60), "#4fcf9f"),
    (RGBColor(0x8b, 0x4d, 0xb8), "#c79af0"),
    (RGBColor(0xb8, 0x86, 0x0b), "#e8c14b"),
    (RGBColor(0xc6, 0x2f, 0x63), "#ff84ab"),
    (RGBColor(0x4d, 0x78, 0x1d), "#a5d05c"),
    (RGBColor(0x0e, 0x82, 0x95), "#4ecbdd"),
    (RGBColor(0xb4, 0x23, 0x18), "#ff7b6e"),
    (RGBColor(0x1d, 0x23, 0x2a), "#e7eaee"),
    (RGBColor(0x6b, 0x75, 0x80), "#97a2ae"),
    (RGBColor(0xdd, 0xe1, 0xe6), "#333a43"),
];
/// Number of colours for series.
const SERIES: usize = 8;

/// Colour of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageColour {
    /// Colour of a series by its number; colours repeat.
    Series(usize),
    /// Colour of misclassified images, and of warnings.
    Misclassified,
    /// Colour of text.
    Ink,
    /// Colour of remarks.
    Muted,
    /// Colour of lines in the background.
    Grid,
}

impl PageColour {
    fn number(self) -> usize {
        match self {
            PageColour::Series(i) => i % SERIES,
            PageColour::Misclassified => SERIES,
            PageColour::Ink => SERIES + 1,
            PageColour::Muted => SERIES + 2,
            PageColour::Grid => SERIES + 3,
        }
    }

    fn rgb(self) -> RGBColor {
        COLOURS[self.number()].0
    }

    /// CSS variable of the colour.
    pub fn css(self) -> String {
        format!("var(--c{})", self.number())
    }
}

/// CSS variables of all colours, on a light page and on a dark one.
pub fn variables() -> [String; 2] {
    let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02x}{g:02x}{b:02x}");
    let list = |value: &dyn Fn(usize) -> String| {
        (0..COLOURS.len()).fold(String::new(), |mut text, i| {
            let _ = write!(text, "--c{i}:{};", value(i));
            text
        })
    };
    [list(&|i| hex(COLOURS[i].0)), list(&|i| COLOURS[i].1.into())]
}

/// Look of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Line.
    Line,
    /// Thin line behind the others.
    Thin,
    /// Dashed line.
    Dashes,
    /// Dotted line.
    Specks,
    /// Line through dots.
    Dots,
}

/// Points that are drawn in one colour.
#[derive(Clone, Debug)]
pub struct Series {
    /// Colour of the points.
    pub colour: PageColour,
    /// Look of the points.
    pub mark: Mark,
    /// Points `(x, y)`, by ascending x.
    pub points: Vec<(f64, f64)>,
}

/// Axis of a plot.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Quantity and unit.
    pub title: String,
    /// Ends of the axis.
    pub range: Range<f64>,
}

impl Axis {
    /// Axis from 0, or from the least value if that is less, to a little beyond the largest.
    pub fn from_zero(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (0f64, 0f64);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value.max(-FAR)), high.max(value.min(FAR)));
        }
        if high - low < 1e-9 {
            high = low + 1.0;
        }
        Axis { title: title.into(), range: low..high + 0.02 * (high - low) }
    }

    /// Axis from 0 to 100 percent.
    pub fn percent(title: &str) -> Self {
        Axis { title: title.into(), range: 0.0..100.0 }
    }

    fn clamp(&self, value: f64) -> f64 {
        value.clamp(self.range.start, self.range.end)
    }
}

/// Rectangle whose shade tells a fraction.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Left and right edge.
    pub x: Range<f64>,
    /// Lower and upper edge.
    pub y: Range<f64>,
    /// Colour.
    pub colour: PageColour,
    /// Shade from 0, transparent, to 1, the full colour.
    pub shade: f64,
}

/// Plot of lines and dots; `label` describes it for screen readers.
///
/// # Errors
/// The plot cannot be drawn.
pub fn lines(label: &str, x: &Axis, y: &Axis, series: &[Series]) -> Result<String> {
    draw(label, SIZE, x, y, &[], series)
}

/// Plot of rectangles, and lines over them, as wide as the page if `wide`.
///
/// # Errors
/// The plot cannot be drawn.
pub fn cells(label: &str, wide: bool, x: &Axis, y: &Axis, cells: &[Cell], series: &[Series]) -> Result<String> {
    draw(label, if wide { WIDE } else { SIZE }, x, y, cells, series)
}

fn draw(label: &str, size: (u32, u32), x: &Axis, y: &Axis, cells: &[Cell], series: &[Series]) -> Result<String> {
    let mut svg = String::new();
    paint(&mut svg, size, x, y, cells, series).map_err(|e| Error::failed(format!("plot of {label}: {e}")))?;
    Ok(themed(label, size, &svg))
}

type Painted = std::result::Result<(), Box<dyn std::error::Error>>;

fn paint(svg: &mut String, size: (u32, u32), x: &Axis, y: &Axis, cells: &[Cell], series: &[Series]) -> Painted {
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    let letters = |colour: PageColour| TextStyle {
        color: colour.rgb().to_backend_color(),
        ..TextStyle::from(("sans-serif", LETTERS).into_font())
    };
    let mut chart = ChartBuilder::on(&root)
        .margin_top(16)
        .margin_right(28)
        .x_label_area_size(84)
        .y_label_area_size(128)
        .build_cartesian_2d(x.range.clone(), y.range.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .axis_style(PageColour::Muted.rgb().stroke_width(2))
        .bold_line_style(PageColour::Grid.rgb().stroke_width(2))
        .light_line_style(TRANSPARENT)
        .label_style(letters(PageColour::Muted))
        .axis_desc_style(letters(PageColour::Ink))
        .set_all_tick_mark_size(8)
        .x_labels(if size.0 > SIZE.0 { 12 } else { 7 })
        .y_labels(6)
        .x_desc(x.title.as_str())
        .y_desc(y.title.as_str())
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .draw()?;
    for cell in cells {
        let corners = [(x.clamp(cell.x.start), y.clamp(cell.y.start)), (x.clamp(cell.x.end), y.clamp(cell.y.end))];
        let style = cell.colour.rgb().mix(cell.shade.clamp(0.0, 1.0)).filled();
        chart.draw_series([Rectangle::new(corners, style)])?;
    }
    for Series { colour, mark, points } in series {
        for part in points.split(|point| !(point.0.is_finite() && point.1.is_finite())) {
            let part: Vec<_> = averaged(part).into_iter().map(|point| (x.clamp(point.0), y.clamp(point.1))).collect();
            stroke(&mut chart, *mark, *colour, part)?;
        }
    }
    root.present()?;
    Ok(())
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn stroke(chart: &mut Chart, mark: Mark, colour: PageColour, points: Vec<(f64, f64)>) -> Painted {
    let rgb = colour.rgb();
    if mark == Mark::Dots || points.len() == 1 {
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 7, rgb.filled())))?;
    }
    match mark {
        Mark::Line | Mark::Dots => chart.draw_series(LineSeries::new(points, rgb.stroke_width(4)))?,
        Mark::Thin => chart.draw_series(LineSeries::new(points, rgb.mix(0.6).stroke_width(2)))?,
        Mark::Specks => chart.draw_series(DashedLineSeries::new(points, 4, 8, rgb.stroke_width(4)))?,
        Mark::Dashes => chart.draw_series(DashedLineSeries::new(points, 12, 8, rgb.stroke_width(4)))?,
    };
    Ok(())
}

/// At most [`POINTS`] points, each the mean of equally many neighbours.
fn averaged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let many = points.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / part.len() as f64, sum.1 / part.len() as f64)
    };
    points.chunks(many).map(mean).collect()
}

/// Number at a tick of an axis.
fn tick(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

/// SVG for a page: labelled, as large as its container, in the page's colours.
fn themed(label: &str, (width, height): (u32, u32), svg: &str) -> String {
    let inner = svg.split_once('>').map_or("", |(_, inner)| inner);
    let begin = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", escape(label));
    (0..COLOURS.len()).fold(begin + inner, |text, i| {
        let RGBColor(r, g, b) = COLOURS[i].0;
        text.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"var(--c{i})\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> String {
        let x = Axis::from_zero("x", points.iter().map(|point| point.0));
        let y = Axis::from_zero("y", points.iter().map(|point| point.1));
        let series = Series { colour: PageColour::Series(0), mark: Mark::Dots, points: points.to_vec() };
        lines("a plot", &x, &y, &[series]).unwrap()
    }

    #[test]
    fn a_plot_has_a_label_and_the_page_s_colours_and_loads_nothing() {
        let svg = plot(&[(0.0, 1.0), (10.0, 2.0)]);
        assert!(svg.starts_with("<svg viewBox=\"0 0 960 600\" role=\"img\" aria-label=\"a plot\">"), "{svg}");
        assert!(svg.contains("stroke=\"var(--c0)\"") && !svg.contains("=\"#") && !svg.contains("http"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(
            lines("<b>\"", &Axis::percent("a & b"), &Axis::percent("<y>"), &[]).unwrap().contains("&lt;b&gt;&quot;")
        );
    }

    #[test]
    fn nan_and_infinity_are_gaps() {
        let svg = plot(&[(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, f64::INFINITY), (5.0, 2.0)]);
        assert_eq!(svg.matches("<circle").count(), 4);
        let line = "fill=\"none\" opacity=\"1\" stroke=\"var(--c0)\"";
        assert!(svg.matches(line).count() >= 2, "{svg}");
    }

    #[test]
    fn absurd_numbers_are_plotted_at_the_edge() {
        for points in [
            &[(0.0, 0.0)][..],
            &[(1e300, -1e300), (f64::MAX, f64::MAX)],
            &[(1e15, 1e15), (1e15 + 1.0, 1e15)],
            &[(f64::NAN, f64::NAN)],
            &[(1e-300, 1e-300), (2e-300, 1e-300)],
            &[],
        ] {
            assert!(plot(points).ends_with("</svg>\n"), "{points:?}");
        }
    }

    #[test]
    fn long_lines_are_averaged() {
        let points: Vec<_> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        let few = averaged(&points);
        assert!(few.len() <= POINTS && few.len() > POINTS / 2, "{}", few.len());
        assert_eq!(few[0], (83.0, 1.0));
        assert_eq!(averaged(&points[..600]), points[..600]);
        assert!(averaged(&[]).is_empty());
    }

    #[test]
    fn ticks_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-0.00001, "0"),
            (0.30000000000000004, "0.3"),
            (0.0125, "0.0125"),
            (2500.0, "2500"),
            (50_000.0, "50 k"),
            (1_500_000.0, "1.5 M"),
        ] {
            assert_eq!(tick(value), text);
        }
    }
}
