//! Plots: grouped bars on a logarithmic axis, as SVG. Pure.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::results::Results;
use crate::summary::{Cell, cell};
use crate::variant::{Mode, Variant};

/// Size of a plot in pixels.
pub(super) const SIZE: (u32, u32) = (1080, 380);

/// Width of the legend, right of all panels.
pub(super) const LEGEND: u32 = 150;

pub(super) type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Requests per second.
pub fn requests(results: &Results) -> Result<String> {
    draw(results, "requests/s", |cell| cell.rps)
}

/// Median latency.
pub fn latency(results: &Results) -> Result<String> {
    draw(results, "p50 latency, µs", |cell| cell.p50_us)
}

/// A panel for each mode, a group for each number of connections, a bar for each variant.
fn draw(results: &Results, what: &str, value: fn(&Cell) -> f64) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (charts, legend) = root.split_horizontally(SIZE.0 - LEGEND);
        let modes = &results.settings.modes;
        for (mode, panel) in modes.iter().zip(charts.split_evenly((1, modes.len().max(1)))) {
            let title = format!("{what}, {}", mode.title());
            draw_panel(results, *mode, &panel, &title, value)?;
        }
        draw_legend(&results.settings.variants, &legend)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn draw_panel(
    results: &Results,
    mode: Mode,
    panel: &Panel<'_>,
    title: &str,
    value: fn(&Cell) -> f64,
) -> Result<()> {
    let (connections, variants) = (&results.settings.connections, &results.settings.variants);
    let bar = |variant, connections| {
        let cell = cell(results, variant, mode, connections)?;
        Some(value(&cell)).filter(|value| *value > 0.0)
    };
    let all: Vec<f64> = connections
        .iter()
        .flat_map(|n| variants.iter().filter_map(move |variant| bar(*variant, *n)))
        .collect();
    let (low, high) = bounds(&all);
    let mut chart = ChartBuilder::on(panel)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.5..connections.len() as f64 - 0.5, (low..high).log_scale())
        .map_err(failed)?;
    // Groups stand around the whole numbers.
    let group_name = |x: &f64| {
        let whole = (x - x.round()).abs() < 1e-6 && *x > -0.5;
        let name = connections.get(x.round() as usize).filter(|_| whole);
        name.map_or_else(String::new, u32::to_string)
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(connections.len() + 1)
        .x_label_formatter(&group_name)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .x_desc("connections")
        .draw()
        .map_err(failed)?;
    let width = 0.84 / variants.len().max(1) as f64;
    for (index, variant) in variants.iter().enumerate() {
        let bars = connections.iter().enumerate().filter_map(|(group, n)| {
            let left = group as f64 - 0.42 + index as f64 * width;
            let corners = [(left, low), (left + width * 0.9, bar(*variant, *n)?)];
            Some(Rectangle::new(corners, color(*variant).filled()))
        });
        chart.draw_series(bars).map_err(failed)?;
    }
    Ok(())
}

pub(super) fn draw_legend(variants: &[Variant], area: &Panel<'_>) -> Result<()> {
    for (index, variant) in variants.iter().enumerate() {
        let y = 40 + index as i32 * 20;
        let bar = Rectangle::new([(0, y), (12, y + 12)], color(*variant).filled());
        area.draw(&bar).map_err(failed)?;
        let name = Text::new(variant.title(), (18, y + 1), ("sans-serif", 12));
        area.draw(&name).map_err(failed)?;
    }
    Ok(())
}

/// Whole decades around the values.
pub(super) fn bounds(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    if high <= 0.0 {
        return (1.0, 10.0);
    }
    // A value on the edge would have a bar of no height.
    (10f64.powf((low * 0.9).log10().floor()), 10f64.powf(high.log10().ceil()))
}

pub(super) fn color(variant: Variant) -> RGBColor {
    match variant {
        Variant::NoMesh => RGBColor(120, 120, 120),
        Variant::Native => RGBColor(230, 159, 0),
        Variant::Shortcut => RGBColor(240, 200, 40),
        Variant::Detour => RGBColor(213, 94, 0),
        Variant::AnsweredHere => RGBColor(0, 158, 115),
        Variant::Guarded => RGBColor(160, 110, 0),
        Variant::Denied => RGBColor(0, 95, 70),
        Variant::SidecarPair => RGBColor(0, 114, 178),
        Variant::OneEnvoy => RGBColor(86, 180, 233),
    }
}

/// The error of a drawing borrows its backend, so only its words can leave.
pub(super) fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("plot: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::example;

    #[test]
    fn a_plot_names_what_it_shows() {
        let svg = requests(&example()).expect("a plot");
        for wanted in ["<svg", "requests/s, keep-alive", "no mesh", "Beeway native", "</svg>"] {
            assert!(svg.contains(wanted), "no {wanted:?}");
        }
    }

    #[test]
    fn bounds_hold_all_values() {
        assert_eq!(bounds(&[]), (1.0, 10.0));
        assert_eq!(bounds(&[12.0, 101.0]), (10.0, 1000.0));
        assert_eq!(bounds(&[10.0, 100.0]), (1.0, 100.0));
    }
}
