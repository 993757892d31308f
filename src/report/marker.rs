//! Markers and strokes of series: what tells them apart without colour, in plots and in their keys.

use std::fmt::Write as _;

use super::colour::PageColour;
use super::escape::escape;

/// Sign at the points of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// Marker of a series by its number: a shape or, beyond the last one, the number from 1. No two are the same.
    Shape(usize),
    /// Letter by its number, for series of the paper: a to z, then a2 to z2 and so on.
    Letter(usize),
}

/// Line of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// Line.
    Solid,
    /// Thin line.
    Thin,
    /// Dashed line.
    Dashes,
    /// Dotted line.
    Dots,
}

/// Drawing of a marker whose radius is 1; y points down.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawing {
    /// Filled polygon.
    Filled(Vec<(f64, f64)>),
    /// Strokes, each through several points.
    Strokes(Vec<Vec<(f64, f64)>>),
    /// Text around the point.
    Text(String),
}

/// Number of closed shapes.
const CLOSED: usize = 6;

impl Marker {
    /// Drawing of the marker.
    pub fn drawing(self) -> Drawing {
        match self {
            Marker::Shape(i) if i < CLOSED => Drawing::Filled(closed(i)),
            Marker::Shape(6) => Drawing::Strokes(vec![vec![(-0.9, -0.9), (0.9, 0.9)], vec![(-0.9, 0.9), (0.9, -0.9)]]),
            Marker::Shape(7) => Drawing::Strokes(vec![vec![(-1.1, 0.0), (1.1, 0.0)], vec![(0.0, -1.1), (0.0, 1.1)]]),
            Marker::Shape(i) if i < CLOSED + 8 => {
                let mut outline = closed(i - 8);
                outline.push(outline[0]);
                Drawing::Strokes(vec![outline])
            }
            Marker::Shape(i) => Drawing::Text((i + 1).to_string()),
            Marker::Letter(i) => {
                let letter = char::from(b'a' + (i % 26) as u8);
                Drawing::Text(if i < 26 { letter.to_string() } else { format!("{letter}{}", i / 26 + 1) })
            }
        }
    }
}

/// Corners of a closed shape: circle, square, triangle, diamond, triangle on its tip, star.
fn closed(i: usize) -> Vec<(f64, f64)> {
    let around = |corners: usize, turn: f64, radius: &dyn Fn(usize) -> f64| {
        let corner = |k: usize| {
            let angle = std::f64::consts::TAU * (k as f64 / corners as f64 + turn);
            (radius(k) * angle.sin(), -radius(k) * angle.cos())
        };
        (0..corners).map(corner).collect::<Vec<_>>()
    };
    match i {
        0 => around(16, 0.0, &|_| 0.95),
        1 => around(4, 0.125, &|_| 1.2),
        2 => around(3, 0.0, &|_| 1.25),
        3 => around(4, 0.0, &|_| 1.25),
        4 => around(3, 0.5, &|_| 1.25),
        _ => around(10, 0.0, &|k| if k % 2 == 0 { 1.4 } else { 0.55 }),
    }
}

/// Look of a series: colour, line and marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colour of both.
    pub colour: PageColour,
    /// Line, if the points are joined.
    pub stroke: Option<Stroke>,
    /// Sign at the points, if they have one.
    pub marker: Option<Marker>,
}

impl Look {
    /// Line without markers.
    pub fn line(colour: PageColour, stroke: Stroke) -> Look {
        Look { colour, stroke: Some(stroke), marker: None }
    }

    /// Points that no line joins.
    pub fn points(colour: PageColour, marker: Marker) -> Look {
        Look { colour, stroke: None, marker: Some(marker) }
    }

    /// Key of a legend: the look, drawn, and its meaning, which is HTML.
    pub fn key(self, meaning: &str) -> String {
        let colour = self.colour.css();
        let mut drawn = String::new();
        if let Some(stroke) = self.stroke {
            let dashes = match stroke {
                Stroke::Solid | Stroke::Thin => "",
                Stroke::Dashes => " stroke-dasharray=\"10 6\"",
                Stroke::Dots => " stroke-dasharray=\"3 5\"",
            };
            let width = if stroke == Stroke::Thin { 1.5 } else { 3.0 };
            let _ = write!(drawn, "<path d=\"M1 12H43\" stroke=\"{colour}\" stroke-width=\"{width}\"{dashes}/>");
        }
        let path = |points: &[(f64, f64)]| {
            let place = |(x, y): &(f64, f64)| format!("{:.1} {:.1}", 22.0 + 7.0 * x, 12.0 + 7.0 * y);
            format!("M{}", points.iter().map(place).collect::<Vec<_>>().join("L"))
        };
        match self.marker.map(Marker::drawing) {
            None => {}
            Some(Drawing::Filled(corners)) => {
                let _ = write!(drawn, "<path d=\"{}Z\" fill=\"{colour}\"/>", path(&corners));
            }
            Some(Drawing::Strokes(strokes)) => {
                let d: String = strokes.iter().map(|points| path(points)).collect();
                let _ = write!(drawn, "<path d=\"{d}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"3\"/>");
            }
            Some(Drawing::Text(text)) => {
                let text = escape(&text);
                let _ = write!(
                    drawn,
                    "<text x=\"22\" y=\"18\" text-anchor=\"middle\" font-size=\"19\" fill=\"{colour}\">{text}</text>"
                );
            }
        }
        format!(
            "<span class=\"key\"><svg class=\"look\" viewBox=\"0 0 44 24\" aria-hidden=\"true\">{drawn}</svg>{meaning}\
             </span>"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_series_have_the_same_marker() {
        let all = (0..60).map(Marker::Shape).chain((0..60).map(Marker::Letter));
        let drawings: Vec<Drawing> = all.map(Marker::drawing).collect();
        for (i, drawing) in drawings.iter().enumerate() {
            assert!(!drawings[..i].contains(drawing), "{i}: {drawing:?}");
        }
    }

    #[test]
    fn a_key_shows_line_and_marker() {
        let key =
            Look { colour: PageColour::Ink, stroke: Some(Stroke::Dashes), marker: Some(Marker::Letter(1)) }.key("x");
        for part in ["stroke-dasharray", ">b</text>", "</svg>x</span>", "var(--c1)"] {
            assert!(key.contains(part), "{part}: {key}");
        }
    }
}
