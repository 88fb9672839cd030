//! Draws curves as SVG.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::table::Curve;

const SIZE: (u32, u32) = (760, 420);
const COLORS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(127, 127, 127), RGBColor(188, 189, 34)];

/// The labels of a plot.
pub(super) struct Labels<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

/// Both axes are linear and start at 0.
pub(super) fn linear(path: &Path, labels: &Labels<'_>, curves: &[Curve]) -> Result<()> {
    draw(path, labels, curves, 0.0..max(curves, |point| point.0), 0.0..max(curves, |point| point.1))
}

/// The vertical axis is logarithmic.
pub(super) fn logarithmic(path: &Path, labels: &Labels<'_>, curves: &[Curve]) -> Result<()> {
    let y = (min(curves, |point| point.1)..max(curves, |point| point.1)).log_scale();
    draw(path, labels, curves, 0.0..max(curves, |point| point.0), y)
}

/// Both axes are logarithmic.
pub(super) fn double_logarithmic(path: &Path, labels: &Labels<'_>, curves: &[Curve]) -> Result<()> {
    let x = (min(curves, |point| point.0)..max(curves, |point| point.0)).log_scale();
    let y = (min(curves, |point| point.1)..max(curves, |point| point.1)).log_scale();
    draw(path, labels, curves, x, y)
}

fn values(curves: &[Curve], value: fn(&(f64, f64)) -> f64) -> impl Iterator<Item = f64> {
    curves.iter().flat_map(move |curve| curve.points.iter().map(value))
}

fn max(curves: &[Curve], value: fn(&(f64, f64)) -> f64) -> f64 {
    1.1 * values(curves, value).fold(f64::MIN_POSITIVE, f64::max)
}

fn min(curves: &[Curve], value: fn(&(f64, f64)) -> f64) -> f64 {
    0.8 * values(curves, value).filter(|value| *value > 0.0).fold(f64::MAX, f64::min)
}

fn draw<X, Y>(path: &Path, labels: &Labels<'_>, curves: &[Curve], x: X, y: Y) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error + '_>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(labels.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(labels.x)
            .y_desc(labels.y)
            .x_label_formatter(&|value| label(*value))
            .y_label_formatter(&|value| label(*value))
            .draw()?;
        for (curve, color) in curves.iter().zip(COLORS) {
            let points = || curve.points.iter().copied();
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
                .label(curve.name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("{error}")).with_context(|| format!("cannot draw {}", path.display()))
}

/// Formats a number as `12k`, `1.5M` or `0.25`.
fn label(value: f64) -> String {
    let short = |value: f64| format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned();
    match value.abs() {
        1e6.. => short(value / 1e6) + "M",
        1e3..1e6 => short(value / 1e3) + "k",
        _ => short(value),
    }
}

#[cfg(test)]
mod tests {
    use couponry_testbed::scratch::Scratch;

    use super::*;

    #[test]
    fn label_is_short() {
        let all = [0.0, 0.25, 12.0, 1000.0, 12_500.0, 1.5e6].map(label);
        assert_eq!(all, ["0", "0.25", "12", "1k", "12.5k", "1.5M"]);
    }

    #[test]
    fn plot_has_labels_and_curves() {
        let scratch = Scratch::new("plot").unwrap();
        let path = scratch.path().join("plot.svg");
        let curves = [Curve { name: "issuer".to_owned(), points: vec![(1.0, 2.0), (1000.0, 4.0)] }];
        let labels = Labels { title: "how fast", x: "load", y: "time" };
        for drawn in [linear, logarithmic, double_logarithmic] {
            drawn(&path, &labels, &curves).unwrap();
            let svg = std::fs::read_to_string(&path).unwrap();
            assert!(["how fast", "load", "time", "issuer", "<polyline"].iter().all(|word| svg.contains(word)), "{svg}");
        }
    }
}
