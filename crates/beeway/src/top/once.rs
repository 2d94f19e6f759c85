//! The picture as a table, once.

use beeway_telemetry::graph::{Asked, Snapshot, Traffic};

use super::{cells, view};
use crate::cli::Sort;
use crate::output;

/// Totals of the node, then a row for each service.
pub(super) fn text(picture: &Snapshot, sort: Sort) -> String {
    let window = picture.window_seconds.round();
    if picture.services.is_empty() {
        return "no traffic yet\n".into();
    }
    let mut text = match picture.all.requests {
        0 => format!("no traffic in the last {window} s\n"),
        _ => format!("the last {window} s: {}\n", sums(&picture.all)),
    };
    let head =
        ["SERVICE", "REQUESTS/S", "ERRORS", "DENIED/S", "P50", "P90", "P99", "TOTAL", "LANES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(view::sorted(picture, sort, "").into_iter().map(row));
    text += "\n";
    text += &output::table(&rows, &[1, 2, 3, 4, 5, 6, 7]);
    text
}

fn sums(all: &Traffic) -> String {
    format!(
        "{} requests/s, {} errors/s, {} denied/s; p50 {}, p99 {}; {}",
        cells::rate(all.requests_per_second),
        cells::rate(all.errors_per_second),
        cells::rate(all.denied_per_second),
        cells::duration(all.p50_us),
        cells::duration(all.p99_us),
        cells::lanes_text(all),
    )
}

fn row(asked: &Asked) -> Vec<String> {
    let traffic = &asked.traffic;
    vec![
        cells::place(&asked.service),
        cells::rate(traffic.requests_per_second),
        cells::share(traffic.errors_per_second, traffic.requests_per_second),
        cells::rate(traffic.denied_per_second),
        cells::duration(traffic.p50_us),
        cells::duration(traffic.p90_us),
        cells::duration(traffic.p99_us),
        traffic.total.to_string(),
        cells::lanes_text(traffic),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::view::tests::picture;

    #[test]
    fn a_table_says_what_there_is_and_when_there_is_nothing() {
        assert_eq!(text(&Snapshot::default(), Sort::Requests), "no traffic yet\n");
        let text_of = text(&picture(), Sort::Requests);
        let wanted = "\
the last 10 s: 12.0 requests/s, 0.50 errors/s, 1.00 denied/s; p50 1.00 ms, p99 20 ms; \
native 83 %, detour 17 %

  SERVICE    REQUESTS/S  ERRORS  DENIED/S      P50      P90    P99  TOTAL  LANES
  shop/web         10.0   5.0 %         0  1.00 ms  2.00 ms  20 ms    500  native
  shop/db          2.00     0 %      1.00   300 us   400 us   1.00 ms     20  detour
  shop/idle           0       -         0        -        -      -      3  -
";
        assert_eq!(squeezed(&text_of), squeezed(wanted), "{text_of}");
        let mut quiet = picture();
        quiet.all = Traffic::default();
        assert!(text(&quiet, Sort::Name).starts_with("no traffic in the last 10 s\n\n  SERVICE"));
    }

    fn squeezed(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}
