//! Numbers as they are typed, and the bounds that they keep.

/// More threads than any one machine has.
pub(crate) const MOST_THREADS: u64 = 1024;
/// More GPUs than one deployment is cut from; the ways to cut them grow faster than their number.
pub(crate) const MOST_GPUS: u64 = 1024;

/// A whole number between two bounds.
pub(crate) fn whole<T: TryFrom<u64>, const LEAST: u64, const MOST: u64>(
    text: &str,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|n| (LEAST..=MOST).contains(n));
    number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| match MOST {
        u64::MAX => format!("expected a whole number from {LEAST}"),
        _ => format!("expected a whole number from {LEAST} to {MOST}"),
    })
}

/// A rate or factor.
pub(crate) fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err("expected a finite number above 0, such as 2.5".to_owned()),
    }
}

/// A number of GPUs.
pub(crate) fn gpus(text: &str) -> Result<u32, String> {
    whole::<u32, 1, MOST_GPUS>(text)
}

/// More is no rate but a mistake: the whole world asks for less.
const MOST_RPS: f64 = 1e9;

/// A rate of requests: per second as a bare number or as `8rps`, `8req/s`, `8/s`, per minute as `480rpm`, `480req/min`,
/// `480/min`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 6] = [
        ("rps", 1.0),
        ("req/s", 1.0),
        ("/s", 1.0),
        ("rpm", 60.0),
        ("req/min", 60.0),
        ("/min", 60.0),
    ];
    let typed = text.trim().to_ascii_lowercase();
    let found = UNITS.iter().find_map(|&(unit, s)| typed.strip_suffix(unit).map(|n| (n, s)));
    let (number, seconds) = found.unwrap_or((&typed, 1.0));
    let rate = above_zero(number.trim()).ok().map(|n| n / seconds).filter(|rate| *rate < MOST_RPS);
    rate.ok_or_else(|| "expected requests/s above 0, such as 2.5, 2.5rps or 150rpm".to_owned())
}

/// The address of a server: a URL, or `HOST:PORT`, `:PORT` or `PORT` of one that speaks plain HTTP.
pub(crate) fn url(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bad =
        || "expected an address such as http://localhost:8000, localhost:8000 or :8000".to_owned();
    match text {
        "" => Err(bad()),
        url if url.contains("://") => Ok(url.to_owned()),
        host if host.starts_with('/') || host.contains(char::is_whitespace) => Err(bad()),
        port if is_port(port.trim_start_matches(':')) => {
            Ok(format!("http://localhost:{}", port.trim_start_matches(':')))
        }
        host => Ok(format!("http://{host}")),
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

/// An address to listen on, in the same forms: `ADDRESS:PORT`, `:PORT` or `PORT`, also behind `http://`.
pub(crate) fn listen(text: &str) -> Result<(String, u16), String> {
    let bad = || "expected ADDRESS:PORT such as 127.0.0.1:8000, or a port".to_owned();
    let text = text.trim();
    let place = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = place.rsplit_once(':').unwrap_or(("", place));
    let host = host.trim_matches(|c| c == '[' || c == ']');
    let host = if host.is_empty() { LOCALHOST } else { host };
    let port = port.parse().map_err(|_| bad())?;
    if host.contains('/') { Err(bad()) } else { Ok((host.to_owned(), port)) }
}

/// The address of this machine that no other one reaches.
pub(crate) const LOCALHOST: &str = "127.0.0.1";

/// A number of tokens, in the units of context windows: `16k` is 16,384, `1M` is 1,048,576.
pub(crate) fn tokens(text: &str) -> Result<u32, String> {
    let (number, scale) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "k" | "K")) => (number, 1 << 10),
        Some((number, "m" | "M")) => (number, 1 << 20),
        _ => (text, 1),
    };
    let tokens = number.parse::<u32>().ok().and_then(|n| n.checked_mul(scale)).filter(|n| *n > 1);
    tokens.ok_or_else(|| "expected a number of tokens above 1, such as 16k, 65536 or 1M".to_owned())
}

/// A share of a whole.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| (0.0..=1.0).contains(x));
    number.ok_or_else(|| "expected a share from 0 to 1, such as 0.8".to_owned())
}

/// A share in percent: `3%`.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
    let share = number.filter(|percent| (0.0..100.0).contains(percent)).map(|n| n / 100.0);
    share.ok_or_else(|| "expected a percentage from 0% to below 100%".to_owned())
}

/// A device and its price.
pub(crate) fn priced(text: &str) -> Result<(String, f64), String> {
    let expected = || "expected DEVICE=USD per GPU and hour, such as h200-sxm=2.80".to_owned();
    let (device, price) = text.split_once('=').ok_or_else(expected)?;
    let price = above_zero(price.trim()).map_err(|_| expected())?;
    Ok((device.trim().to_ascii_lowercase(), price))
}

/// A quantity with its unit, as data sheets have it: bytes (`192GB`, `180GiB`), bytes per second (`5.3TB/s`) or operations
/// per second (`1307TFLOPS`). A bare number has no unit, and is refused.
pub(crate) fn quantity(text: &str) -> Result<f64, String> {
    let expected =
        || "expected a number with its unit, such as 192GB, 5.3TB/s or 1307TFLOPS".to_owned();
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(expected)?;
    let (number, unit) = (above_zero(text[..end].trim()).map_err(|_| expected())?, &text[end..]);
    let prefix = |power: i32| Some(1e3_f64.powi(power));
    let binary = |power: i32| Some(1024_f64.powi(power));
    let (scale, rest) = match unit.split_at_checked(1) {
        Some(("M", rest)) => (2, rest),
        Some(("G", rest)) => (3, rest),
        Some(("T", rest)) => (4, rest),
        Some(("P", rest)) => (5, rest),
        _ => return Err(expected()),
    };
    let factor = match rest {
        "B" | "B/s" | "FLOPS" | "FLOP/s" => prefix(scale),
        "iB" | "iB/s" => binary(scale),
        _ => None,
    };
    Ok(number * factor.ok_or_else(expected)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_or_per_minute() {
        for text in ["8", "8rps", "480rpm", " 8 RPS", "8 req/s", "8/s", "480req/min", "4.8e2/min"] {
            assert_eq!(rate(text), Ok(8.0), "{text}");
        }
        for text in
            ["", "rps", "0", "-1rpm", "8rph", "inf", "8rps2", "1e300rps", "4 5rps", "nanrps"]
        {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_have_one_form() {
        for (text, whole) in [
            ("http://localhost:8000/v1", "http://localhost:8000/v1"),
            ("https://api.example", "https://api.example"),
            ("localhost:8000", "http://localhost:8000"),
            ("10.0.0.7:80/v1", "http://10.0.0.7:80/v1"),
            (":8000", "http://localhost:8000"),
            ("8000", "http://localhost:8000"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(whole));
        }
        assert!(url("").is_err() && url("/v1").is_err() && url("a b").is_err());
        for (text, host, port) in [
            ("127.0.0.1:8000", "127.0.0.1", 8000),
            ("http://0.0.0.0:1/", "0.0.0.0", 1),
            ("[::1]:80", "::1", 80),
            (":0", "127.0.0.1", 0),
            ("9000", "127.0.0.1", 9000),
        ] {
            assert_eq!(listen(text), Ok((host.to_owned(), port)));
        }
        assert!(
            listen("localhost").is_err() && listen("h/x:1").is_err() && listen(":70000").is_err()
        );
    }

    #[test]
    fn quantities_have_their_unit() {
        for (text, value) in [
            ("192GB", 192e9),
            ("180 GiB", 180.0 * 1024.0 * 1024.0 * 1024.0),
            ("5.3TB/s", 5.3e12),
            ("1307TFLOPS", 1307e12),
            ("2.5PFLOP/s", 2.5e15),
        ] {
            assert_eq!(quantity(text), Ok(value), "{text}");
        }
        for text in ["192", "GB", "192Gb", "-1GB", "5.3TB/h", "nan GB", "1e400GB", ""] {
            assert!(quantity(text).is_err(), "{text}");
        }
    }
}
