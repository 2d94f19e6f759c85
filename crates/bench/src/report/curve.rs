//! The plot of cost over routes: lines on logarithmic axes, as SVG. Pure.

use anyhow::Result;
use plotters::prelude::*;

use super::plot::{LEGEND, Panel, SIZE, bounds, color, draw_legend, failed};
use crate::routes::Results;
use crate::variant::Variant;

/// From the top of the legend downwards.
const VARIANTS: [Variant; 3] = [Variant::NoMesh, Variant::Native, Variant::OneEnvoy];

/// Median latency over the number of routes of one service, a panel for each number of
/// connections.
pub fn routes(results: &Results) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (charts, legend) = root.split_horizontally(SIZE.0 - LEGEND);
        let connections = &results.settings.connections;
        for (n, panel) in connections.iter().zip(charts.split_evenly((1, connections.len().max(1))))
        {
            draw_panel(results, *n, &panel)?;
        }
        draw_legend(&VARIANTS, &legend)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn draw_panel(results: &Results, connections: u32, panel: &Panel<'_>) -> Result<()> {
    let curve = |variant| -> Vec<(f64, f64)> {
        let sizes = results.curve();
        let points = sizes.iter().filter_map(|size| {
            let cell = results.cell(variant, *size, connections)?;
            Some((f64::from(size.routes), cell.p50_us))
        });
        points.filter(|(_, p50)| *p50 > 0.0).collect()
    };
    let values: Vec<f64> = VARIANTS.iter().flat_map(|v| curve(*v)).map(|(_, p50)| p50).collect();
    let (low, high) = bounds(&values);
    let counts: Vec<f64> = results.curve().iter().map(|size| f64::from(size.routes)).collect();
    let (least, most) = match counts[..] {
        [first, .., last] => (first, last),
        _ => bounds(&counts),
    };
    let s = if connections == 1 { "" } else { "s" };
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("p50 latency, µs, {connections} connection{s}"), ("sans-serif", 15))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((least..most).log_scale(), (low..high).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(5)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .x_desc("routes of one service")
        .draw()
        .map_err(failed)?;
    for variant in VARIANTS {
        let style = color(variant).stroke_width(2);
        let points = curve(variant);
        chart.draw_series([PathElement::new(points.clone(), style)]).map_err(failed)?;
        // No mesh has no routes: a line without points.
        if variant != Variant::NoMesh {
            let dots = points.into_iter().map(|at| Circle::new(at, 3, color(variant).filled()));
            chart.draw_series(dots).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::summary::tests::example;

    #[test]
    fn a_plot_names_what_it_shows() {
        let svg = routes(&example(1.0)).expect("a plot");
        for wanted in
            ["<svg", "p50 latency, µs, 64 connections", "routes of one service", "one Envoy"]
        {
            assert!(svg.contains(wanted), "no {wanted:?}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
