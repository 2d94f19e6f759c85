//! Durations as people write them: Istio takes Go's `time.ParseDuration`, Gateway API a part of it.

use std::time::Duration;

/// Nanoseconds of each unit, longer names first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `1h2m3.5s`: numbers, each with a unit, none of them negative. `0` needs none.
pub(crate) fn go(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0_u64;
    loop {
        let digits = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(digits);
        let (name, scale) = UNITS.iter().find(|(name, _)| unit.starts_with(name))?;
        total = total.checked_add(scaled(number, *scale)?)?;
        rest = &unit[name.len()..];
        if rest.is_empty() {
            return Some(Duration::from_nanos(total));
        }
    }
}

fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut value = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        value = value.checked_add(place * u64::from(char::from(digit).to_digit(10)?))?;
    }
    Some(value)
}

/// Istio's own rule for durations: whole milliseconds, at least one. The error says which of them
/// is broken.
pub(crate) fn istio(text: &str) -> Result<Duration, String> {
    let duration = go(text).ok_or_else(|| format!("`{text}` is no duration"))?;
    if duration < Duration::from_millis(1) {
        Err(format!("{text} is less than 1ms"))
    } else if !duration.as_nanos().is_multiple_of(1_000_000) {
        Err(format!("{text} is not in whole milliseconds"))
    } else {
        Ok(duration)
    }
}

/// Gateway API's (GEP-2257): one to four whole numbers of at most five digits, in h, m, s or ms.
pub(crate) fn gateway(text: &str) -> Result<Duration, String> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'h' | b'm' | b's'))
        && numbers.clone().count() <= 4
        && numbers.all(|n| n.len() <= 5)
        && text != "0";
    go(text).filter(|_| plain).ok_or_else(|| format!("`{text}` is no duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("1s", 1_000),
            ("1.5s", 1_500),
            (".25s", 250),
            ("1.s", 1_000),
            ("1h1m1s1ms", 3_661_001),
            ("24h", 86_400_000),
            ("+2s", 2_000),
            ("2000us", 2),
            ("2000µs", 2),
        ] {
            assert_eq!(go(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "1", "s", ".s", "-1s", "1x", "1s1", "1 s", "1..5s", "99999999999999h"] {
            assert_eq!(go(text), None, "{text}");
        }
    }

    #[test]
    fn istio_s_are_whole_milliseconds() {
        assert_eq!(istio("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(istio("0s"), Err("0s is less than 1ms".to_owned()));
        assert_eq!(istio("1.5ms"), Err("1.5ms is not in whole milliseconds".to_owned()));
        assert_eq!(istio("soon"), Err("`soon` is no duration".to_owned()));
    }

    #[test]
    fn gateway_api_s_are_short() {
        assert_eq!(gateway("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(gateway("0s"), Ok(Duration::ZERO));
        for text in ["0", "1.5s", "100000s", "1h1m1s1ms1ms", "1us", "+1s", ""] {
            assert!(gateway(text).is_err(), "{text}");
        }
    }
}
