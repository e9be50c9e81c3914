//! Bar charts as SVG: one group for each situation, one bar for each variant. Readable on light and dark pages, because
//! text has the page's colour scheme and bars have colours that stand out on both.

use std::fmt::Write as _;

use super::tables::figure;

/// One chart. A missing value leaves a gap.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// Text above the chart.
    pub(super) title: String,
    /// Names of the bars of each group.
    pub(super) variants: Vec<String>,
    /// Groups: name, and a value with its quartiles for each variant.
    pub(super) groups: Vec<(String, Vec<Option<Bar>>)>,
}

/// One bar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    /// Its height.
    pub(super) value: f64,
    /// The quartiles, shown as a whisker.
    pub(super) quartiles: (f64, f64),
}

/// Colours that differ for readers without red-green vision, on white and on black (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"];
const PLOT_HEIGHT: f64 = 220.0;
const TOP: f64 = 64.0;
const LEFT: f64 = 16.0;
const BAR_WIDTH: f64 = 26.0;
const GROUP_GAP: f64 = 24.0;
/// Width of a group at least, so that its name fits below it.
const GROUP_WIDTH_MIN: f64 = 110.0;
const LEGEND_STEP: f64 = 118.0;
const LEGEND_COLUMNS: usize = 6;

/// Draws the chart.
pub(super) fn draw(chart: &Chart) -> String {
    let bars = chart.variants.len() as f64;
    let group_width = (bars * BAR_WIDTH).max(GROUP_WIDTH_MIN);
    let legend_width = chart.variants.len().min(LEGEND_COLUMNS) as f64 * LEGEND_STEP;
    let plot_width = chart.groups.len() as f64 * (group_width + GROUP_GAP);
    let width = LEFT * 2.0 + plot_width.max(legend_width).max(420.0);
    let legend_rows = chart.variants.len().div_ceil(LEGEND_COLUMNS).saturating_sub(1) as f64;
    let top = TOP + legend_rows * 16.0;
    let height = top + PLOT_HEIGHT + 40.0;
    let all = chart.groups.iter().flat_map(|(_, bars)| bars.iter().flatten());
    let highest = all.map(|bar| bar.value.max(bar.quartiles.1)).fold(f64::MIN_POSITIVE, f64::max);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n<style>text{{fill:#24292f}}\
         .axis{{stroke:#24292f}}@media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.axis{{stroke:#e6edf3}}}}\
         </style>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(&chart.title)
    );
    legend(&mut svg, &chart.variants);
    let y = |value: f64| top + PLOT_HEIGHT - value / highest * (PLOT_HEIGHT - 16.0);
    for (index, (name, bars)) in chart.groups.iter().enumerate() {
        let x = LEFT + index as f64 * (group_width + GROUP_GAP);
        for (place, bar) in bars.iter().enumerate() {
            if let Some(bar) = bar {
                draw_bar(&mut svg, x + place as f64 * BAR_WIDTH, COLOURS[place % COLOURS.len()], *bar, &y);
            }
        }
        let label = top + PLOT_HEIGHT + 18.0;
        let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{label:.0}\">{}</text>", escaped(name));
    }

    let axis = top + PLOT_HEIGHT;
    let right = width - LEFT;
    let _ =
        writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{axis}\" x2=\"{right:.0}\" y2=\"{axis}\"/>");
    svg + "</svg>\n"
}

fn legend(svg: &mut String, variants: &[String]) {
    for (place, variant) in variants.iter().enumerate() {
        let x = LEFT + (place % LEGEND_COLUMNS) as f64 * LEGEND_STEP;
        let y = 32.0 + (place / LEGEND_COLUMNS) as f64 * 16.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            COLOURS[place % COLOURS.len()],
            x + 14.0,
            y + 9.0,
            escaped(variant)
        );
    }
}

fn draw_bar(svg: &mut String, x: f64, colour: &str, bar: Bar, y: &impl Fn(f64) -> f64) {
    let (top, bottom) = (y(bar.value), y(0.0));
    let middle = x + BAR_WIDTH / 2.0 - 1.0;
    let above = y(bar.value.max(bar.quartiles.1)) - 4.0;
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
         <line class=\"axis\" x1=\"{middle:.1}\" y1=\"{:.1}\" x2=\"{middle:.1}\" y2=\"{:.1}\"/>\
         <text x=\"{middle:.1}\" y=\"{above:.1}\" font-size=\"8\" text-anchor=\"middle\">{}</text>",
        BAR_WIDTH - 2.0,
        (bottom - top).max(0.0),
        y(bar.quartiles.0),
        y(bar.quartiles.1),
        figure(bar.value)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chart_holds_names_and_values() {
        let bar = Some(Bar { value: 12.0, quartiles: (11.0, 13.0) });
        let chart = Chart {
            title: "a < b".into(),
            variants: vec!["ours".into(), "floor".into()],
            groups: vec![("8 clients".into(), vec![bar, None])],
        };
        let svg = draw(&chart);
        for part in ["a &lt; b", ">ours<", ">floor<", ">8 clients<", ">12.0<", "</svg>"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }
}
