//! Small values with a unit, as an operator writes them: sizes, durations, CPU shares, endpoints.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A number of bytes, written with a unit: `"64MiB"`.
///
/// Units: `B`, `KiB`, `MiB`, `GiB` (powers of 1024) and `kB`, `MB`, `GB` (powers of 1000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Processor time that may be used in each second: `"250ms/s"` is a quarter of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuShare {
    micros_per_second: u32,
}

/// One server: a name or an address, and a port, as in `"etcd1:2379"` or `"[::1]:2181"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Name or address; an IPv6 address stands here without brackets.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

/// Why a text is none of the values of this module: what was expected instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

const BYTE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const TIME_UNITS: [(&str, u64); 6] = [
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl ByteSize {
    /// That many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// That many mebibytes.
    pub const fn from_mib(mebibytes: u32) -> Self {
        Self((mebibytes as u64) << 20)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let expected = || ValueError("expected a size with a unit, like \"64MiB\"".into());
        let (digits, unit) = split_number(text).ok_or_else(expected)?;
        let (_, factor) =
            BYTE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(|| {
                unit_error(unit, "a size", &["B", "kB", "KiB", "MB", "MiB", "GB", "GiB"])
            })?;
        let bytes = digits.checked_mul(factor).ok_or_else(expected)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = BYTE_UNITS
            .into_iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(out, "{}{unit}", self.0 / factor)
    }
}

impl CpuShare {
    /// One whole core.
    pub const WHOLE_CORE: Self = Self { micros_per_second: 1_000_000 };

    /// With less a plugin would be held back for seconds each time that it does something.
    pub const LEAST: Self = Self { micros_per_second: 20_000 };

    /// That many milliseconds in each second, from the least share to a whole core.
    pub const fn from_millis_per_second(millis: u32) -> Self {
        match millis {
            ..20 => Self::LEAST,
            20..1_000 => Self { micros_per_second: millis * 1_000 },
            1_000.. => Self::WHOLE_CORE,
        }
    }

    /// Processor time in each second of the clock, at most one second.
    pub const fn per_second(self) -> Duration {
        Duration::from_micros(self.micros_per_second as u64)
    }
}

impl FromStr for CpuShare {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let expected = || ValueError("expected processor time per second, like \"250ms/s\"".into());
        let per_second = text.strip_suffix("/s").ok_or_else(expected)?;
        let time = parse_duration(per_second).map_err(|_| expected())?;
        if time < Self::LEAST.per_second() || time > Duration::from_secs(1) {
            return Err(ValueError("expected a share between \"20ms/s\" and \"1s/s\"".into()));
        }
        let micros = u32::try_from(time.as_micros()).map_err(|_| expected())?;
        Ok(Self { micros_per_second: micros })
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/s", duration_text(self.per_second()))
    }
}

impl FromStr for Endpoint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (host, port) = split_host_port(text)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            ValueError(format!("the port {port:?} is not a number between 1 and 65535"))
        })?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads a duration with a unit: `"5s"`, `"250ms"`; `"1min"`, `"2h"` and `"100us"` are others.
///
/// # Errors
/// The text has no unit, an unknown one, or a number that is not whole.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let expected =
        || ValueError("expected a duration with a unit, like \"5s\" or \"250ms\"".into());
    let (number, unit) = split_number(text).ok_or_else(expected)?;
    let (_, nanos) = TIME_UNITS
        .into_iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| unit_error(unit, "a duration", &["us", "ms", "s", "min", "h"]))?;
    number.checked_mul(nanos).map(Duration::from_nanos).ok_or_else(expected)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that leaves no fraction.
pub fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let whole = |unit: u128| nanos != 0 && nanos.is_multiple_of(unit);
    if whole(3_600_000_000_000) {
        format!("{}h", nanos / 3_600_000_000_000)
    } else if whole(60_000_000_000) {
        format!("{}min", nanos / 60_000_000_000)
    } else if nanos == 0 || whole(1_000_000_000) {
        format!("{}s", nanos / 1_000_000_000)
    } else if whole(1_000_000) {
        format!("{}ms", nanos / 1_000_000)
    } else {
        format!("{}us", nanos / 1_000)
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim_start()))
}

fn unit_error(unit: &str, what: &str, units: &[&str]) -> ValueError {
    ValueError(format!("{unit:?} is no unit of {what}; units are {}", units.join(", ")))
}

fn split_host_port(text: &str) -> Result<(String, &str), ValueError> {
    let shown = text;
    if text.contains("://") || text.contains('/') {
        return Err(ValueError(format!(
            "{shown:?} is not an endpoint; write \"host:port\" without a scheme or path"
        )));
    }
    let no_port = || ValueError(format!("the endpoint {shown:?} has no port; write \"host:port\""));
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(|| {
            ValueError(format!("the endpoint {shown:?} has a \"[\" without \"]\""))
        })?;
        let address: Ipv6Addr = address
            .parse()
            .map_err(|_| ValueError(format!("{address:?} is not an IPv6 address")))?;
        return Ok((address.to_string(), rest.strip_prefix(':').ok_or_else(no_port)?));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(ValueError(format!(
            "an IPv6 address needs brackets and a port: \"[{text}]:PORT\""
        )));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
    if port.is_empty() {
        return Err(no_port());
    }
    if !is_host(host) {
        return Err(ValueError(format!("{host:?} is neither a host name nor an address")));
    }
    Ok((host.to_ascii_lowercase(), port))
}

fn is_host(text: &str) -> bool {
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // Such a name would be read as an address by the resolver of some systems: `127.1`, `0x7f.1`.
    let looks_like_an_address = name.rsplit('.').next().is_some_and(|label| {
        label.bytes().all(|byte| byte.is_ascii_digit()) || label.starts_with("0x")
    });
    if looks_like_an_address {
        return name.parse::<IpAddr>().is_ok();
    }
    name.len() <= 253 && name.split('.').all(label_ok)
}

struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, ValueError>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

macro_rules! serde_as_text {
    ($type:ty, $expected:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text { expected: $expected, parse: <$type>::from_str })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

serde_as_text!(ByteSize, "a size with a unit, like \"64MiB\"");
serde_as_text!(CpuShare, "processor time per second, like \"250ms/s\"");
serde_as_text!(Endpoint, "an endpoint, like \"etcd1:2379\"");

/// For `#[serde(with)]`: a duration as text.
pub(crate) mod duration_as_text {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let expected = "a duration with a unit, like \"5s\" or \"250ms\"";
        from.deserialize_str(Text { expected, parse: parse_duration })
    }

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&duration_text(*value))
    }
}

/// For `#[serde(deserialize_with)]`: one name, or a list of names.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a name or a list of names")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
            Ok(vec![name.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            names: A,
        ) -> Result<Self::Value, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(names))
        }
    }

    from.deserialize_any(Names)
}

/// For `#[serde(deserialize_with)]`: an address and a port to listen on.
pub(crate) fn listen_address<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<std::net::SocketAddr, D::Error> {
    struct Address;

    impl Visitor<'_> for Address {
        type Value = std::net::SocketAddr;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an address and a port, like \"127.0.0.1:7468\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map_err(|_| {
                E::custom(format!(
                    "{text:?} is not an address to listen on; expected one like \"127.0.0.1:7468\""
                ))
            })
        }
    }

    from.deserialize_str(Address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plugin::grants::Grants;

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<ByteSize>().map(ByteSize::bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("1kB"), Ok(1000));
        assert_eq!(size("0B"), Ok(0));
        assert_eq!(ByteSize::from_bytes(0).to_string(), "0B");
        assert_eq!(ByteSize::from_bytes(1_500_000).to_string(), "1500kB");
        assert_eq!(ByteSize::from_mib(4096).to_string(), "4GiB");
    }

    #[test]
    fn what_is_no_size_is_refused_with_what_would_be() {
        let expected = Err("expected a size with a unit, like \"64MiB\"".to_owned());
        for text in ["", "64", "MiB", "-1MiB", "99999999999999GiB", "99999999999999999999B"] {
            assert_eq!(size(text), expected, "{text}");
        }
        assert_eq!(
            size("64MB/s"),
            Err("\"MB/s\" is no unit of a size; units are B, kB, KiB, MB, MiB, GB, GiB".into())
        );
        assert!(size("1.5MiB").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::ZERO), "0s");
        assert!(parse_duration("5").is_err());
        assert!(parse_duration("99999999999h").is_err());
    }

    #[test]
    fn a_share_of_the_processor_is_at_most_one_core() {
        let share = |text: &str| text.parse::<CpuShare>();
        assert_eq!(share("1s/s"), Ok(CpuShare::WHOLE_CORE));
        assert_eq!(share("250ms/s").unwrap().to_string(), "250ms/s");
        assert_eq!(CpuShare::from_millis_per_second(5_000), CpuShare::WHOLE_CORE);
        for text in ["250ms", "25%", "1100ms/s", "19ms/s", "s/s"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints_are_compared_however_they_are_written() {
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        assert_eq!(endpoint("ETCD1.example:2379"), endpoint("etcd1.example:2379"));
        assert_eq!(endpoint("[0:0:0:0:0:0:0:1]:1"), endpoint("[::1]:1"));
        assert_eq!(endpoint("[::1]:1").to_string(), "[::1]:1");
        assert_eq!(endpoint("my_host-1:65535").port, 65535);
        for text in [
            "a:65536",
            ":1",
            "-a:1",
            "a..b:1",
            "256.1.1.1:1",
            "127.1:1",
            "0x7f.1:1",
            "a.0x1:1",
            "a/b:1",
            "ä:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn values_are_read_as_they_are_written(
            bytes in any::<u64>(),
            micros in 0..u64::from(u32::MAX),
            millis_per_second in 1..=1000_u32,
        ) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
            let share = CpuShare::from_millis_per_second(millis_per_second);
            prop_assert_eq!(share.to_string().parse(), Ok(share));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,20}") {
            let _ = (text.parse::<ByteSize>(), text.parse::<CpuShare>(), parse_duration(&text));
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
            }
        }

        #[test]
        fn every_endpoint_can_be_granted(
            text in "(\\[[0-9a-f:]{2,12}\\]|[a-z0-9._-]{1,12}):[0-9]{1,5}",
        ) {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                let texts = [endpoint.to_string()];
                prop_assert!(Grants::parse("main", &texts, &texts, None).is_ok(), "{}", texts[0]);
            }
        }
    }
}
