//! Plots as inline SVG: lines, markers, error bars, bars, and fractions as shades.
//!
//! A plot has no legend: the page has a key of each look ([`super::marker`]). Any number may be plotted: NaN and
//! infinity are gaps, points outside the axes lie on their edge.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::colour::{PageColour, variable};
use super::escape::escape;
use super::marker::{Drawing, Look, Marker, Stroke};
use crate::{Error, Result};

/// Size of a plot, twice that of a column of the page, because coordinates are whole numbers.
const SIZE: (u32, u32) = (960, 600);
/// Size of a plot as wide as the page.
const WIDE: (u32, u32) = (1920, 640);
/// Size of a label's letters in plotters' unit, 1.24 times the SVG's.
const LETTERS: u32 = 31;
/// Largest number of points of a line; more are averaged.
const POINTS: usize = 600;
/// Number of markers on a line of more points.
const MARKERS: usize = 8;
/// Radius of a marker.
const RADIUS: f64 = 9.0;
/// End of the longest axis: on a longer one single steps are lost in rounding.
const FAR: f64 = 1e12;
/// Width that a scale takes on the right.
const SCALE: u32 = 170;

/// Points with one look.
#[derive(Clone, Debug)]
pub struct Series {
    /// Colour, line and marker.
    pub look: Look,
    /// Points `(x, y)`, by ascending x.
    pub points: Vec<(f64, f64)>,
    /// Ends of the error bar of each point; empty if there are none.
    pub bars: Vec<(f64, f64)>,
}

impl Series {
    /// Series without error bars.
    pub fn new(look: Look, points: Vec<(f64, f64)>) -> Series {
        Series { look, points, bars: Vec::new() }
    }
}

/// Axis of a plot.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Quantity and unit.
    pub title: String,
    /// Ends of the axis.
    pub range: Range<f64>,
    /// Text behind the number at a tick, such as `/255`; not behind 0.
    pub unit: &'static str,
    /// Least value that has a number: below it the axis has another meaning, or none.
    pub numbered_from: f64,
}

impl Axis {
    /// Axis of a range.
    pub fn new(title: &str, range: Range<f64>) -> Self {
        Axis { title: title.into(), range, unit: "", numbered_from: f64::NEG_INFINITY }
    }

    /// Axis from 0, or from the least value if that is less, to a little beyond the largest.
    pub fn from_zero(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (0f64, 0f64);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value.max(-FAR)), high.max(value.min(FAR)));
        }
        if high - low < 1e-9 {
            high = low + 1.0;
        }
        Axis::new(title, low..high + 0.02 * (high - low))
    }

    /// Axis from 0 to 100 percent.
    pub fn percent(title: &str) -> Self {
        Axis::new(title, 0.0..100.0)
    }

    fn clamp(&self, value: f64) -> f64 {
        value.clamp(self.range.start, self.range.end)
    }

    /// Number at a tick.
    fn tick(&self, value: f64) -> String {
        match tick(value) {
            text if text == "0" => text,
            _ if value < self.numbered_from => String::new(),
            text => text + self.unit,
        }
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

/// Colour bar beside a plot: the shade of a cell by its value, which is by the square of the shade.
#[derive(Clone, Debug)]
pub struct ShadeScale {
    /// Value of the full colour.
    pub full: f64,
    /// Unit of the values.
    pub unit: &'static str,
    /// Colours of the cells.
    pub colours: Vec<PageColour>,
}

impl ShadeScale {
    /// Shade of a value.
    pub fn shade(&self, value: f64) -> f64 {
        (value / self.full).sqrt()
    }
}

/// Content of a plot, in the order in which it is drawn.
#[derive(Clone, Debug, Default)]
pub struct Plot<'a> {
    /// Rectangles.
    pub cells: &'a [Cell],
    /// Scale of the rectangles' shades.
    pub scale: Option<ShadeScale>,
    /// Lines and points.
    pub series: &'a [Series],
    /// True for a plot as wide as the page.
    pub wide: bool,
}

impl Plot<'_> {
    /// SVG of the plot; `label` describes it for screen readers.
    ///
    /// # Errors
    /// The plot cannot be drawn.
    pub fn draw(&self, label: &str, x: &Axis, y: &Axis) -> Result<String> {
        let mut svg = String::new();
        let size = if self.wide { WIDE } else { SIZE };
        self.paint(&mut svg, size, x, y).map_err(|e| Error::failed(format!("plot of {label}: {e}")))?;
        Ok(themed(label, size, &svg))
    }

    fn paint(&self, svg: &mut String, size: (u32, u32), x: &Axis, y: &Axis) -> Painted {
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        let (area, beside) = match &self.scale {
            Some(_) => root.split_horizontally(size.0 - SCALE),
            None => (root.clone(), root.clone()),
        };
        let mut chart = ChartBuilder::on(&area)
            .margin_top(16)
            .margin_right(28)
            .x_label_area_size(84)
            .y_label_area_size(128)
            .build_cartesian_2d(x.range.clone(), y.range.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(rgb(PageColour::Muted).stroke_width(2))
            .bold_line_style(rgb(PageColour::Grid).stroke_width(2))
            .light_line_style(TRANSPARENT)
            .label_style(letters(PageColour::Muted))
            .axis_desc_style(letters(PageColour::Ink))
            .set_all_tick_mark_size(8)
            .x_labels(if self.wide { 12 } else { 7 })
            .y_labels(6)
            .x_desc(x.title.as_str())
            .y_desc(y.title.as_str())
            .x_label_formatter(&|value| x.tick(*value))
            .y_label_formatter(&|value| y.tick(*value))
            .draw()?;
        for cell in self.cells {
            let corners = [(x.clamp(cell.x.start), y.clamp(cell.y.start)), (x.clamp(cell.x.end), y.clamp(cell.y.end))];
            let style = rgb(cell.colour).mix(cell.shade.clamp(0.0, 1.0)).filled();
            chart.draw_series([Rectangle::new(corners, style)])?;
        }
        for series in self.series {
            for ((at, _), (low, high)) in series.points.iter().zip(&series.bars) {
                if [*at, *low, *high].iter().all(|value| value.is_finite()) {
                    error_bar(&mut chart, series.look.colour, x.clamp(*at), y.clamp(*low), y.clamp(*high))?;
                }
            }
            for part in series.points.split(|point| !(point.0.is_finite() && point.1.is_finite())) {
                let part: Vec<_> = match series.look.stroke {
                    Some(_) => averaged(part),
                    None => part.to_vec(),
                };
                let part = part.into_iter().map(|point| (x.clamp(point.0), y.clamp(point.1))).collect();
                stroke(&mut chart, series.look, part)?;
            }
        }
        if let Some(scale) = &self.scale {
            scale.paint(&beside, size.1)?;
        }
        root.present()?;
        Ok(())
    }
}

type Painted = std::result::Result<(), Box<dyn std::error::Error>>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// First byte of the colours in plotters' output, whose other two bytes are the number of the page's colour.
const NUMBERED: u8 = 0x5e;

/// Colour in plotters' output in place of one of the page's.
fn rgb(colour: PageColour) -> RGBColor {
    let [low, high, ..] = colour.number().to_le_bytes();
    RGBColor(NUMBERED, high, low)
}

fn letters(colour: PageColour) -> TextStyle<'static> {
    TextStyle { color: rgb(colour).to_backend_color(), ..TextStyle::from(("sans-serif", LETTERS).into_font()) }
}

fn stroke(chart: &mut Chart, look: Look, points: Vec<(f64, f64)>) -> Painted {
    let rgb = rgb(look.colour);
    let marker = match look.marker {
        // A line of a single point is seen as a marker alone.
        None if look.stroke.is_some() && points.len() == 1 => Some(Marker::Shape(0)),
        marker => marker,
    };
    let marked: Vec<(f64, f64)> = match (marker, look.stroke) {
        (None, _) => Vec::new(),
        (Some(Marker::Shape(i)), Some(_)) if points.len() > 2 * MARKERS => {
            // Markers of series beside each other lie at different places.
            let every = points.len() / MARKERS;
            points.iter().copied().skip(i * every / 3 % every).step_by(every).collect()
        }
        _ => points.clone(),
    };
    match look.stroke {
        None => {}
        Some(Stroke::Solid) => drop(chart.draw_series(LineSeries::new(points, rgb.stroke_width(4)))?),
        Some(Stroke::Thin) => drop(chart.draw_series(LineSeries::new(points, rgb.mix(0.7).stroke_width(2)))?),
        Some(Stroke::Dots) => drop(chart.draw_series(DashedLineSeries::new(points, 4, 8, rgb.stroke_width(4)))?),
        Some(Stroke::Dashes) => drop(chart.draw_series(DashedLineSeries::new(points, 14, 8, rgb.stroke_width(4)))?),
    }
    if let Some(marker) = marker {
        mark(chart, marker.drawing(), look.colour, &marked)?;
    }
    Ok(())
}

/// Draws a marker at each point.
fn mark(chart: &mut Chart, drawing: Drawing, colour: PageColour, at: &[(f64, f64)]) -> Painted {
    let pixels = |corners: &[(f64, f64)]| -> Vec<(i32, i32)> {
        corners.iter().map(|(x, y)| ((RADIUS * x).round() as i32, (RADIUS * y).round() as i32)).collect()
    };
    match drawing {
        Drawing::Filled(corners) => {
            let marker = |&at| EmptyElement::at(at) + Polygon::new(pixels(&corners), rgb(colour).filled());
            chart.draw_series(at.iter().map(marker))?;
        }
        Drawing::Strokes(strokes) => {
            for points in strokes {
                let marker =
                    |&at| EmptyElement::at(at) + PathElement::new(pixels(&points), rgb(colour).stroke_width(4));
                chart.draw_series(at.iter().map(marker))?;
            }
        }
        Drawing::Text(text) => {
            let style = letters(colour).pos(Pos::new(HPos::Center, VPos::Center));
            let marker = |&at| EmptyElement::at(at) + Text::new(text.clone(), (0, 0), style.clone());
            chart.draw_series(at.iter().map(marker))?;
        }
    }
    Ok(())
}

/// Draws an error bar with a serif at each end.
fn error_bar(chart: &mut Chart, colour: PageColour, x: f64, low: f64, high: f64) -> Painted {
    let style = rgb(colour).stroke_width(2);
    chart.draw_series([PathElement::new(vec![(x, low), (x, high)], style)])?;
    let serif = |y| EmptyElement::at((x, y)) + PathElement::new(vec![(-7, 0), (7, 0)], style);
    chart.draw_series([low, high].map(serif))?;
    Ok(())
}

impl ShadeScale {
    /// Draws the bar and its numbers beside a plot of a height.
    fn paint(&self, area: &DrawingArea<SVGBackend, Shift>, height: u32) -> Painted {
        const SLICES: i32 = 24;
        const WIDTH: i32 = 30;
        let (top, bottom) = (16, height as i32 - 84);
        let y = |slice: i32| bottom - (bottom - top) * slice / SLICES;
        for (i, colour) in self.colours.iter().enumerate() {
            let left = i as i32 * WIDTH;
            for slice in 0..SLICES {
                let style = rgb(*colour).mix((f64::from(slice) + 0.5) / f64::from(SLICES)).filled();
                area.draw(&Rectangle::new([(left, y(slice + 1)), (left + WIDTH, y(slice))], style))?;
            }
        }
        let right = self.colours.len() as i32 * WIDTH;
        area.draw(&Rectangle::new([(0, top), (right, bottom)], rgb(PageColour::Muted).stroke_width(2)))?;
        for quarter in 0..=4 {
            let value = self.full * (f64::from(quarter) / 4.0).powi(2);
            let text = if value == 0.0 { "0".into() } else { format!("{}{}", tick(rounded(value)), self.unit) };
            let at = match quarter {
                0 => VPos::Bottom,
                4 => VPos::Top,
                _ => VPos::Center,
            };
            let style = letters(PageColour::Muted).pos(Pos::new(HPos::Left, at));
            area.draw(&Text::new(text, (right + 8, y(quarter * SLICES / 4)), style))?;
        }
        Ok(())
    }
}

/// Value with two significant digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
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
        v if v >= 1e9 => return format!("{value:.1e}"),
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e4 => (value / 1e3, " k"),
        v if v < 1e-3 && v > 1e-12 => return format!("{value:.1e}"),
        _ => (value, ""),
    };
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

/// SVG for a page: labelled, as large as its container, in the page's colours.
fn themed(label: &str, (width, height): (u32, u32), svg: &str) -> String {
    let inner = svg.split_once('>').map_or("", |(_, inner)| inner);
    let mut text = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", escape(label));
    let numbered = format!("\"#{NUMBERED:02X}");
    let mut parts = inner.split(&*numbered);
    text += parts.next().unwrap_or_default();
    for part in parts {
        let number = part.get(..4).and_then(|digits| usize::from_str_radix(digits, 16).ok());
        text += &format!("\"{}{}", variable(number.unwrap_or_default()), part.get(4..).unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Look {
        Look { colour: PageColour::Series(0), stroke: Some(Stroke::Solid), marker: Some(Marker::Shape(0)) }
    }

    fn drawn(series: &[Series]) -> String {
        let points = || series.iter().flat_map(|series| &series.points);
        let x = Axis::from_zero("x", points().map(|point| point.0));
        let y = Axis::from_zero("y", points().map(|point| point.1));
        Plot { series, ..Plot::default() }.draw("a plot", &x, &y).unwrap()
    }

    fn plot(points: &[(f64, f64)]) -> String {
        drawn(&[Series::new(look(), points.to_vec())])
    }

    #[test]
    fn a_plot_has_a_label_and_the_page_s_colours_and_loads_nothing() {
        let svg = plot(&[(0.0, 1.0), (10.0, 2.0)]);
        assert!(svg.starts_with("<svg viewBox=\"0 0 960 600\" role=\"img\" aria-label=\"a plot\">"), "{svg}");
        assert!(svg.contains("stroke=\"var(--c4)\"") && !svg.contains("=\"#") && !svg.contains("http"), "{svg}");
        assert_eq!(svg.matches("<polygon").count(), 2);
        let named = Plot::default().draw("<b>\"", &Axis::percent("a & b"), &Axis::percent("<y>"));
        assert!(named.unwrap().contains("&lt;b&gt;&quot;"));
        let last = Look { colour: PageColour::Series(700), ..look() };
        assert!(drawn(&[Series::new(last, vec![(0.0, 1.0), (1.0, 1.0)])]).contains("var(--c704)"));
    }

    #[test]
    fn nan_and_infinity_are_gaps() {
        let svg = plot(&[(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, f64::INFINITY), (5.0, 2.0)]);
        assert_eq!(svg.matches("<polygon").count(), 4);
        let line = "fill=\"none\" opacity=\"1\" stroke=\"var(--c4)\"";
        assert!(svg.matches(line).count() >= 2, "{svg}");
    }

    #[test]
    fn points_without_a_line_are_not_joined_and_have_error_bars() {
        let look = Look::points(PageColour::Series(0), Marker::Shape(1));
        let points = vec![(0.0, 90.0), (0.1, 80.0), (0.3, f64::NAN)];
        let bars = vec![(88.0, 92.0), (77.0, 83.0), (f64::NAN, 1.0)];
        let svg = drawn(&[Series { look, points, bars }]);
        assert_eq!(svg.matches("<polygon").count(), 2);
        let strokes = svg.matches("stroke=\"var(--c4)\"").count();
        assert_eq!(strokes, 2 * 3, "a bar and two serifs at each point: {svg}");
    }

    #[test]
    fn every_marker_can_be_drawn() {
        for marker in (0..20).map(Marker::Shape).chain([Marker::Letter(1), Marker::Letter(30)]) {
            let svg = drawn(&[Series::new(Look::points(PageColour::Ink, marker), vec![(0.0, 1.0)])]);
            assert!(svg.matches("var(--c1)").count() > 2, "{marker:?}: {svg}");
        }
    }

    #[test]
    fn long_lines_have_few_markers_at_places_of_their_own() {
        let points: Vec<_> = (0..500).map(|i| (f64::from(i), 1.0)).collect();
        let one = |i| Series::new(Look { marker: Some(Marker::Shape(i)), ..look() }, points.clone());
        let svg = drawn(&[one(0), one(1)]);
        let markers: Vec<&str> = svg.split("<polygon").skip(1).collect();
        assert!((2 * MARKERS..=2 * MARKERS + 2).contains(&markers.len()), "{}", markers.len());
    }

    #[test]
    fn a_scale_has_a_bar_with_numbers() {
        let scale =
            ShadeScale { full: 48.0, unit: " %", colours: vec![PageColour::Series(1), PageColour::Misclassified] };
        assert_eq!((scale.shade(48.0), scale.shade(12.0), scale.shade(0.0)), (1.0, 0.5, 0.0));
        let plot = Plot { scale: Some(scale), ..Plot::default() };
        let svg = plot.draw("x", &Axis::percent("x"), &Axis::percent("y")).unwrap();
        for number in ["0\n", "3 %", "12 %", "27 %", "48 %"] {
            assert!(svg.contains(&format!("\n{number}")), "{number}: {svg}");
        }
        assert!(svg.matches("<rect").count() >= 48 && svg.contains("var(--c5)") && svg.contains("var(--c0)"));
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
            (-1e-13, "0"),
            (0.30000000000000004, "0.3"),
            (0.0125, "0.0125"),
            (0.0002, "2.0e-4"),
            (2500.0, "2500"),
            (50_000.0, "50 k"),
            (1_500_000.0, "1.5 M"),
            (1e12, "1.0e12"),
        ] {
            assert_eq!(tick(value), text);
        }
        let eps = Axis { unit: "/255", numbered_from: 0.0, ..Axis::new("eps", -1.0..8.0) };
        assert_eq!([-1.0, 0.0, 8.0].map(|value| eps.tick(value)), ["", "0", "8/255"]);
    }
}
