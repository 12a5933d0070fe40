//! Pictures of what grows with the number of mailboxes, both axes logarithmic, so that what is linear is a line.

use std::path::Path;

use plotters::prelude::*;

use crate::figures::grouped;

/// What a line is about, and its points: mailboxes, and what was measured.
pub type Line<'a> = (&'a str, Vec<(f64, f64)>);

const COLOURS: [RGBColor; 2] = [RGBColor(0, 90, 181), RGBColor(220, 50, 32)];

/// Writes `docs/benchmarks/NAME`.
pub fn plot(name: &str, unit: &str, lines: &[Line<'_>]) {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks"));
    std::fs::create_dir_all(directory).expect("a directory");
    draw(&directory.join(name), unit, lines).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn draw(path: &Path, unit: &str, lines: &[Line<'_>]) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let lowest = points().map(of).fold(f64::MAX, f64::min);
        (lowest, points().map(of).fold(f64::MIN, f64::max))
    };
    let (left, right) = range(|point| point.0);
    // Whole decades, and room above for the names of the lines.
    let (low, high) = range(|point| point.1);
    let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf((high * 1.5).log10().ceil()));
    let root = SVGBackend::new(path, (560, 340)).into_drawing_area();
    // Readable on a dark page, too.
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(42)
        .y_label_area_size(72)
        .build_cartesian_2d((left / 1.5..right * 1.5).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("mailboxes")
        .y_desc(unit)
        .x_label_formatter(&|value| label(*value))
        .y_label_formatter(&|value| label(*value))
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for ((what, points), colour) in lines.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(4))?
            .label(*what)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 14))
        .background_style(WHITE)
        .draw()?;
    Ok(root.present()?)
}

fn label(value: f64) -> String {
    if value < 1.0 { value.to_string() } else { grouped(value.round() as usize) }
}
