//! Shares as percent, for sentences.

/// To a tenth: `98.5 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Of a share that may be small: three significant digits at most, without zeros that only pad, and never `0 %` of one
/// above 0.
#[must_use]
pub fn small_percent(share: f64) -> String {
    let value = 100.0 * share;
    if value > 0.0 && value < 5e-5 {
        return "less than 0.0001 %".to_owned();
    }
    let decimals = if value > 0.0 { (2 - value.log10().floor() as i32).clamp(0, 4) } else { 0 };
    let text = format!("{value:.*}", decimals as usize);
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}
