//! Numbers of a config: sizes, durations, counts, ports.

use std::{error::Error, fmt, str::FromStr, time::Duration};

use toml::de::DeValue;

use super::{
    error::Reason,
    reader::{Value, integer, wrong_type},
    setting::Setting,
    types::ByteSize,
};

/// A duration that is not zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TimeLimit(pub(crate) Duration);

/// A number of things that are open at once: from one to a million, which is more than any kernel gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Count(pub(crate) usize);

/// A number of things, or zero for no bound of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct OptionalCount(pub(crate) Option<usize>);

/// Bytes a second, or zero for any rate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rate(pub(crate) u64);

/// The redirect listener's port: 0 for no listener, `auto` for one that the system chooses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct HttpPort(pub(crate) Option<u16>);

/// Why a value is no number of its kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UnitError {
    SizeUnit,
    /// `KB`, `MB`, `GB`: 1000 for some and 1024 for others.
    DecimalSize,
    Size,
    DurationUnit,
    Duration,
    DurationTooLong,
    Zero,
    Count,
    Port,
    HttpPort,
}

/// The longest duration: ten years. Far below what would overflow an `Instant`.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// A number and the unit after it.
fn split(text: &str) -> (&str, &str) {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    (number, unit.trim_start())
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text.trim());
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "KB" | "kB" | "MB" | "GB" | "K" | "M" | "G" => return Err(UnitError::DecimalSize),
            _ => return Err(UnitError::SizeUnit),
        };
        let number: u64 = number.parse().map_err(|_| UnitError::Size)?;
        match number.checked_mul(factor) {
            Some(0) => Err(UnitError::Zero),
            Some(bytes) => Ok(Self(bytes)),
            None => Err(UnitError::Size),
        }
    }
}

/// A string with the unit `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text.trim());
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(UnitError::DurationUnit),
    };
    if number.is_empty() {
        return Err(UnitError::Duration);
    }
    // Digits alone: what does not fit is too long.
    let number: u64 = number.parse().map_err(|_| UnitError::DurationTooLong)?;
    let duration = Duration::from_millis(number.saturating_mul(milliseconds));
    if duration > LONGEST {
        return Err(UnitError::DurationTooLong);
    }
    Ok(duration)
}

impl FromStr for HttpPort {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "auto" => Ok(Self(Some(0))),
            number => match number.parse().map_err(|_| UnitError::HttpPort)? {
                0 => Ok(Self(None)),
                port => Ok(Self(Some(port))),
            },
        }
    }
}

impl From<UnitError> for Reason {
    fn from(error: UnitError) -> Self {
        Self::Value(Box::new(error))
    }
}

impl Value for ByteSize {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match (integer(value), value.as_str()) {
            (Some(0), _) => Err(UnitError::Zero.into()),
            (Some(bytes), _) => Ok(Self(u64::try_from(bytes).map_err(|_| UnitError::Size)?)),
            (None, Some(text)) => Ok(text.parse()?),
            (None, None) => Err(wrong_type("a number of bytes, or a string with a unit,", value)),
        }
    }
}

impl Value for Rate {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        let is_zero = integer(value) == Some(0) || value.as_str().is_some_and(|text| split(text).0 == "0");
        if is_zero { Ok(Self(0)) } else { ByteSize::read(value).map(|ByteSize(bytes)| Self(bytes)) }
    }
}

impl Value for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match value {
            DeValue::Integer(_) | DeValue::Float(_) => Err(UnitError::DurationUnit.into()),
            DeValue::String(text) => Ok(duration(text)?),
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                Err(wrong_type("a string with a unit, such as \"30s\",", value))
            }
        }
    }
}

impl Setting<TimeLimit> {
    /// The duration, or this many seconds where there is none.
    pub(crate) fn or_seconds(self, default: u64) -> Duration {
        self.or(TimeLimit(Duration::from_secs(default))).0
    }
}

impl Value for TimeLimit {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match Duration::read(value)? {
            Duration::ZERO => Err(UnitError::Zero.into()),
            duration => Ok(Self(duration)),
        }
    }
}

impl Value for Count {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        if !value.is_integer() {
            return Err(wrong_type("a number", value));
        }
        integer(value)
            .filter(|count| (1..=1_000_000).contains(count))
            .and_then(|count| usize::try_from(count).ok())
            .map(Self)
            .ok_or_else(|| UnitError::Count.into())
    }
}

impl Value for OptionalCount {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match integer(value) {
            Some(0) => Ok(Self(None)),
            _ => Count::read(value).map(|Count(count)| Self(Some(count))),
        }
    }
}

impl Value for u16 {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        if !value.is_integer() {
            return Err(wrong_type("a port number", value));
        }
        let port = integer(value).and_then(|port| Self::try_from(port).ok());
        port.ok_or_else(|| UnitError::Port.into())
    }
}

impl Value for HttpPort {
    fn read(value: &DeValue<'_>) -> Result<Self, Reason> {
        match value.as_str() {
            Some("auto") => Ok(Self(Some(0))),
            Some(_) => Err(UnitError::HttpPort.into()),
            None => Ok(Self(Some(u16::read(value)?).filter(|port| *port != 0))),
        }
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SizeUnit => "a size is a number of bytes, or a string that ends in B, KiB, MiB or GiB",
            Self::DecimalSize => "sizes are counted in powers of 1024: write KiB, MiB or GiB",
            Self::Size => "no such number of bytes",
            Self::DurationUnit => {
                "add a unit: a duration is a string that ends in ms, s, m, h or d, as \"30s\""
            }
            Self::Duration => "a duration begins with a number, as \"30s\"",
            Self::DurationTooLong => "a duration is at most ten years",
            Self::Zero => "zero makes no sense here",
            Self::Count => "it is a number from 1 to 1000000",
            Self::Port => "a port is a number from 0 to 65535",
            Self::HttpPort => {
                "it is a port from 1 to 65535, 0 for none, or `auto` for one that the system chooses"
            }
        })
    }
}

impl Error for UnitError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Value>(text: &str) -> Result<T, String> {
        let value = DeValue::parse(text).unwrap();
        T::read(value.get_ref()).map_err(|reason| reason.to_string())
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        for (text, bytes) in [
            ("1", 1),
            ("67_108_864", 64 << 20),
            ("0x10", 16),
            ("'512B'", 512),
            ("'16 KiB'", 16 << 10),
            ("'64MiB'", 64 << 20),
            ("'2GiB'", 2 << 30),
        ] {
            assert_eq!(read(text), Ok(ByteSize(bytes)), "{text}");
        }
        for (text, error) in [
            ("0", UnitError::Zero),
            ("'0MiB'", UnitError::Zero),
            ("-1", UnitError::Size),
            ("'MiB'", UnitError::Size),
            ("'99999999999GiB'", UnitError::Size),
            ("'1MB'", UnitError::DecimalSize),
            ("'1mib'", UnitError::SizeUnit),
            ("'64'", UnitError::SizeUnit),
            ("'1.5MiB'", UnitError::SizeUnit),
        ] {
            assert_eq!(read::<ByteSize>(text), Err(error.to_string()), "{text}");
        }
        assert!(read::<ByteSize>("true").unwrap_err().contains("not true or false"));
    }

    #[test]
    fn a_rate_is_a_size_or_zero() {
        for (text, bytes) in
            [("240", 240), ("'240B'", 240), ("'1KiB'", 1024), ("0", 0), ("'0'", 0), ("'0B'", 0)]
        {
            assert_eq!(read(text), Ok(Rate(bytes)), "{text}");
        }
        assert_eq!(read::<Rate>("'240'"), Err(UnitError::SizeUnit.to_string()));
        assert_eq!(read::<Rate>("-1"), Err(UnitError::Size.to_string()));
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, milliseconds) in [
            ("'250ms'", 250),
            ("'30s'", 30_000),
            ("'2m'", 120_000),
            ("'1h'", 3_600_000),
            ("'180d'", 180 * 86_400_000),
            ("'0s'", 0),
        ] {
            assert_eq!(read(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, error) in [
            ("30", UnitError::DurationUnit),
            ("1.5", UnitError::DurationUnit),
            ("'30'", UnitError::DurationUnit),
            ("'30 sec'", UnitError::DurationUnit),
            ("'-1s'", UnitError::DurationUnit),
            ("'s'", UnitError::Duration),
            ("'3651d'", UnitError::DurationTooLong),
            ("'99999999999999999999d'", UnitError::DurationTooLong),
            ("'18446744073709551615d'", UnitError::DurationTooLong),
        ] {
            assert_eq!(read::<Duration>(text), Err(error.to_string()), "{text}");
        }
        assert_eq!(read::<TimeLimit>("'0ms'"), Err("zero makes no sense here".to_owned()));
    }

    #[test]
    fn counts_and_ports_have_bounds() {
        assert_eq!(read("90"), Ok(Count(90)));
        for text in ["0", "-1", "1000001", "99999999999999999999"] {
            assert_eq!(read::<Count>(text), Err(UnitError::Count.to_string()), "{text}");
        }
        assert_eq!(read("0"), Ok(0_u16));
        assert_eq!(read::<u16>("65536"), Err(UnitError::Port.to_string()));
        assert_eq!(read::<u16>("'443'"), Err("a port number is expected, not a string".to_owned()));
    }

    #[test]
    fn the_http_port_is_a_port_none_or_auto() {
        assert_eq!(read("80"), Ok(HttpPort(Some(80))));
        assert_eq!(read("0"), Ok(HttpPort(None)));
        assert_eq!(read("'auto'"), Ok(HttpPort(Some(0))));
        assert_eq!("8080".parse(), Ok(HttpPort(Some(8080))));
        assert_eq!("0".parse(), Ok(HttpPort(None)));
        assert_eq!("auto".parse(), Ok(HttpPort(Some(0))));
        assert_eq!("x".parse::<HttpPort>(), Err(UnitError::HttpPort));
        assert!(read::<HttpPort>("'x'").is_err());
    }
}
