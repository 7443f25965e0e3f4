//! Durations as Kafka's settings write them: ISO 8601, as `java.time.Duration` reads it.

use std::time::Duration;

const UNITS: [(char, u64); 4] = [('D', 86_400), ('H', 3_600), ('M', 60), ('S', 1)];

/// `PnDTnHnMn.nS`; `None` for anything else, negative parts among it.
pub(super) fn parse_iso(text: &str) -> Option<Duration> {
    let text = text.to_ascii_uppercase();
    let text = text.strip_prefix('P')?;
    let (days, time) = text.split_once('T').unwrap_or((text, "0S"));
    if time.is_empty() || text == days && days.is_empty() {
        return None;
    }
    let (day, others) = UNITS.split_at(1);
    add_parts(days, day)?.checked_add(add_parts(time, others)?)
}

/// The sum of numbers with units, which must come in this order.
fn add_parts(mut text: &str, mut units: &[(char, u64)]) -> Option<Duration> {
    let mut total = Duration::ZERO;
    while let Some(at) = text.find(|c: char| c.is_ascii_alphabetic()) {
        let (number, unit) = (text.get(..at)?, text[at..].chars().next()?);
        text = text.get(at + 1..)?;
        let place = units.iter().position(|(known, _)| *known == unit)?;
        let (_, seconds) = units.get(place)?;
        units = units.get(place + 1..)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
            return None;
        }
        total = total.checked_add(Duration::from_secs(whole.parse::<u64>().ok()?.checked_mul(*seconds)?))?;
        if !fraction.is_empty() {
            if unit != 'S' || fraction.len() > 9 {
                return None;
            }
            total = total.checked_add(Duration::from_nanos(format!("{fraction:0<9}").parse().ok()?))?;
        }
    }
    text.is_empty().then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_java() {
        let seconds = |text| parse_iso(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("PT1H"), Some(3_600.0));
        assert_eq!(seconds("P2DT3H4M5.5S"), Some(2.0 * 86_400.0 + 3.0 * 3_600.0 + 4.0 * 60.0 + 5.5));
        assert_eq!(seconds("pt0.001s"), Some(0.001));
        assert_eq!(seconds("P7D"), Some(7.0 * 86_400.0));
        for bad in [
            "", "P", "PT", "1H", "PT1", "PT1D", "P1H", "PT-1H", "PT1M1H", "PTS", "PT1.5H", "PT1.2.3S", "P1DT",
        ] {
            assert_eq!(parse_iso(bad), None, "{bad}");
        }
        assert_eq!(parse_iso("P999999999999999999D"), None);
    }
}
