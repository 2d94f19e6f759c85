//! Numbers and names as they are shown.

use std::collections::BTreeMap;

use beeway_telemetry::filter::LANES;
use beeway_telemetry::graph::{Place, Traffic};
use beeway_telemetry::names::UNKNOWN;

use crate::output;

/// `namespace/name`; who is in no namespace goes by the name.
pub(super) fn place(place: &Place) -> String {
    let name = match &*place.namespace {
        "" | UNKNOWN => place.name.clone(),
        namespace => format!("{namespace}/{}", place.name),
    };
    output::printable(&name)
}

/// Something a second.
pub(super) fn rate(rate: f64) -> String {
    match rate {
        ..0.0005 => "0".into(),
        ..9.995 => format!("{rate:.2}"),
        ..99.95 => format!("{rate:.1}"),
        _ => format!("{rate:.0}"),
    }
}

/// A part of a whole, in percent; `-`: there is nothing.
pub(super) fn share(part: f64, whole: f64) -> String {
    match 100.0 * part / whole {
        of if !of.is_finite() => "-".into(),
        ..0.0005 => "0 %".into(),
        of @ ..9.95 => format!("{of:.1} %"),
        of => format!("{of:.0} %"),
    }
}

/// A duration; `-`: there was no request.
pub(super) fn duration(us: Option<f64>) -> String {
    match us {
        None => "-".into(),
        Some(us @ ..9.995) => format!("{us:.2} us"),
        Some(us @ ..999.5) => format!("{us:.0} us"),
        Some(us @ ..9_995.0) => format!("{:.2} ms", us / 1e3),
        Some(us @ ..999_500.0) => format!("{:.0} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}

/// Lanes that were taken, each with its part, in the order of [`LANES`].
pub(super) fn lanes(traffic: &Traffic) -> Vec<(&str, f64)> {
    let sum: f64 = traffic.lanes.values().sum();
    let part = |lane: &str| traffic.lanes.get(lane).copied().unwrap_or(0.0) / sum;
    let unknown = traffic.lanes.keys().map(String::as_str).filter(|lane| !LANES.contains(lane));
    let all = LANES.into_iter().chain(unknown).map(|lane| (lane, part(lane)));
    all.filter(|(_, part)| *part > 0.0).collect()
}

/// Lanes in words.
pub(super) fn lanes_text(traffic: &Traffic) -> String {
    let lanes = lanes(traffic);
    let texts = lanes.iter().map(|(lane, part)| match lanes.len() {
        1 => (*lane).to_owned(),
        _ => format!("{lane} {}", share(*part, 1.0)),
    });
    match texts.collect::<Vec<_>>().join(", ") {
        text if text.is_empty() => "-".into(),
        text => output::printable(&text),
    }
}

/// How many of `width` cells each lane gets. All are given away, and whoever has a part has a cell as
/// long as there are enough.
pub(super) fn bar<'a>(lanes: &[(&'a str, f64)], width: usize) -> Vec<(&'a str, usize)> {
    let mut cells: BTreeMap<usize, usize> = lanes
        .iter()
        .enumerate()
        .map(|(at, (_, part))| (at, (part * width as f64) as usize))
        .collect();
    for count in cells.values_mut() {
        *count = (*count).max(1);
    }
    loop {
        let given: usize = cells.values().sum();
        let over = |at: usize, count: usize| count as f64 - lanes[at].1 * width as f64;
        let by_over = |(a, m): &(&usize, &mut usize), (b, n): &(&usize, &mut usize)| {
            over(**a, **m).total_cmp(&over(**b, **n))
        };
        let changed = match given.cmp(&width) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Less => cells.iter_mut().min_by(by_over).map(|(_, n)| *n += 1),
            std::cmp::Ordering::Greater => {
                let spare = cells.iter_mut().filter(|(_, n)| **n > 1);
                spare.max_by(by_over).map(|(_, n)| *n -= 1)
            }
        };
        if changed.is_none() {
            return cells.into_iter().map(|(at, count)| (lanes[at].0, count)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_two_or_three_digits() {
        assert_eq!(
            [0.0, 0.1, 9.999, 10.04, 1234.5].map(rate),
            ["0", "0.10", "10.0", "10.0", "1234"]
        );
        let parts = [(0.0, 1.0), (0.0, 0.0), (1.0, 3.0), (1.0, 1.0), (1.0, 20.0)];
        assert_eq!(parts.map(|(a, b)| share(a, b)), ["0 %", "-", "33 %", "100 %", "5.0 %"]);
        assert_eq!(
            [1.5, 850.4, 1240.0, 12_400.0, 1.5e6].map(|us| duration(Some(us))),
            ["1.50 us", "850 us", "1.24 ms", "12 ms", "1.50 s"]
        );
        assert_eq!(duration(None), "-");
    }

    #[test]
    fn a_bar_is_full_and_shows_small_parts() {
        for (parts, wanted) in [
            (&[1.0][..], &[10][..]),
            (&[0.5, 0.5], &[5, 5]),
            (&[0.999, 0.001], &[9, 1]),
            (&[0.34, 0.33, 0.33], &[4, 3, 3]),
            (&[0.96, 0.01, 0.01, 0.01, 0.01], &[6, 1, 1, 1, 1]),
            (&[], &[]),
        ] {
            let lanes: Vec<_> = LANES.into_iter().zip(parts.iter().copied()).collect();
            let cells: Vec<usize> = bar(&lanes, 10).into_iter().map(|(_, cells)| cells).collect();
            assert_eq!(cells, wanted, "{parts:?}");
        }
    }
}
