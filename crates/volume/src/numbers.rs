//! Numbers and words as people read them.

/// A number of nats: grouped by thousands, two decimals where they can be told from the error.
#[must_use]
pub fn nats(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "unknown".to_owned()
        } else if value > 0.0 {
            "\u{221e}".to_owned()
        } else {
            "\u{2212}\u{221e}".to_owned()
        };
    }
    let decimals = if value.abs() < 1e4 { 2 } else { 0 };
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let grouped = grouped(whole);
    let sign = if value < 0.0 && text.chars().any(|c| ('1'..='9').contains(&c)) { "\u{2212}" } else { "" };
    match fraction {
        Some(fraction) => format!("{sign}{grouped}.{fraction}"),
        None => format!("{sign}{grouped}"),
    }
}

/// Digits with a comma between groups of three.
pub fn grouped(digits: impl ToString) -> String {
    let digits = digits.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// An interval in words, whose ends may be unknown.
#[must_use]
pub fn interval_words(interval: (Option<f64>, Option<f64>)) -> String {
    match interval {
        (Some(low), Some(high)) => format!("[{}, {}]", nats(low), nats(high)),
        (Some(low), None) => format!("\u{2265} {}", nats(low)),
        (None, Some(high)) => format!("\u{2264} {}", nats(high)),
        (None, None) => "unknown".to_owned(),
    }
}

/// Text with its first letter large, as a sentence begins.
#[must_use]
pub fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(nats(-2_952_411.4), "\u{2212}2,952,411");
        assert_eq!(nats(-328.126), "\u{2212}328.13");
        assert_eq!(nats(1234.5), "1,234.50");
        assert_eq!(nats(-0.001), "0.00");
        assert_eq!(nats(f64::NEG_INFINITY), "\u{2212}\u{221e}");
        assert_eq!(interval_words((Some(-1.0), None)), "\u{2265} \u{2212}1.00");
    }
}
