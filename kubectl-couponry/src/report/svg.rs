//! The curve of an event as SVG.

use std::fmt::Write as _;

use super::figures::Figures;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
/// Around the plot, for its labels.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;
/// Points of the curve.
const MAX_POINTS: u64 = 600;
const LINES: u32 = 4;

pub(super) fn format(figures: &Figures) -> String {
    let mut svg = String::new();
    let title = escape(&format!("{}: coupons issued per second", figures.name));
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"38\" fill=\"#555\">{}</text>\n",
        escape(&subtitle(figures))
    );
    if let Some(issuing) = &figures.issuing {
        let (seconds, rates) = issuing.rates(MAX_POINTS);
        let max = rates.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        #[expect(clippy::cast_precision_loss, reason = "a position")]
        let x = |index: usize| LEFT + width * index as f64 / rates.len() as f64;
        let y = |rate: f64| TOP + height * (1.0 - rate / max);
        for line in 0..=LINES {
            let rate = max * f64::from(line) / f64::from(LINES);
            let (at, right) = (y(rate), WIDTH - RIGHT);
            let _ = write!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{rate:.0}</text>\n",
                LEFT - 8.0,
                at + 4.0
            );
        }
        let mut path = format!("M{LEFT:.1} {:.1}", y(0.0));
        for (index, (_, rate)) in rates.iter().enumerate() {
            let _ = write!(path, " L{:.1} {:.1} L{:.1} {:.1}", x(index), y(*rate), x(index + 1), y(*rate));
        }
        let _ = write!(path, " L{:.1} {:.1} Z", x(rates.len()), y(0.0));
        let _ = writeln!(svg, "<path d=\"{path}\" fill=\"#1f77b4\" fill-opacity=\"0.35\" stroke=\"#1f77b4\"/>");
        let time = |at: jiff::Timestamp| at.strftime("%H:%M:%S").to_string();
        let bottom = HEIGHT - BOTTOM + 18.0;
        let _ = write!(
            svg,
            "<text x=\"{LEFT}\" y=\"{bottom}\" fill=\"#555\">{}</text>\n\
             <text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\" fill=\"#555\">{}</text>\n\
             <text x=\"{LEFT}\" y=\"{}\" fill=\"#555\">UTC, intervals of {seconds} s</text>\n",
            time(issuing.first_at),
            WIDTH - RIGHT,
            time(issuing.last_at),
            bottom + 18.0
        );
    }
    svg + "</svg>\n"
}

fn subtitle(figures: &Figures) -> String {
    let sold_out = figures.sold_out_after_milliseconds.map_or_else(String::new, |milliseconds| {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let seconds = milliseconds as f64 / 1000.0;
        format!(", sold out after {seconds:.1} s")
    });
    format!("{}: {} of {} coupons{sold_out}", figures.policy_name, figures.recorded, figures.total)
}

/// Text of an element. XML has no control characters.
fn escape(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{super::figures::tests::summer, *};

    #[test]
    fn svg_of_an_event_has_its_curve_and_escaped_texts() {
        let svg = format(&summer());
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
        for part in [
            "<title>summer: coupons issued per second</title>",
            ">Summer &lt;sale&gt;: 1000 of 1000 coupons, sold out after 3.2 s</text>",
            "M70.0 310.0 L70.0 180.0 L237.5 180.0 L237.5 50.0 L405.0 50.0 L405.0 310.0 L572.5 310.0 L572.5 266.7 \
             L740.0 266.7 L740.0 310.0 Z",
            ">00:00:00</text>",
            ">00:00:03</text>",
            ">600</text>",
            ">UTC, intervals of 1 s</text>",
        ] {
            assert!(svg.contains(part), "{part} is not in\n{svg}");
        }
    }

    #[test]
    fn svg_of_an_event_without_issuances_is_complete() {
        let svg = format(&Figures { issuing: None, policy_name: "a\u{1b}&b".to_owned(), ..summer() });
        assert!(
            svg.contains("a&amp;b: 1000 of 1000 coupons") && svg.ends_with("</svg>\n") && !svg.contains("<path"),
            "{svg}"
        );
    }
}
