//! Random framings and random traffic for them, mostly valid and sometimes invalid in ways that occur in practice.
//!
//! Used by the property tests of the codecs and of the reactor. A [`Shape`] provides a text spec, a naive oracle, and
//! the messages it can carry; these share only the parameters.

use proptest::prelude::*;

use super::error::MOST;
use super::oracle_tests::{Length, Step, crlf, decimal, delimited, fixed, lf, netstring, varint};
use super::*;

/// A framing, by its parameters.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Lines { crlf: bool, discard: bool, max: usize },
    Delimited { delimiter: Vec<u8>, discard: bool, max: usize },
    Length(Length),
    Decimal { width: usize, max: usize },
    Varint { max: usize },
    Netstring { max: usize },
    Fixed { size: usize },
}

impl Shape {
    /// Returns the spec as a user would write it.
    pub(crate) fn spec(&self) -> String {
        let flag = |on, text| if on { text } else { "" };
        match self {
            Self::Lines { crlf, discard, max } => {
                format!("lines{},max={max}{}", flag(*crlf, ":crlf"), flag(*discard, ",discard"))
            }
            Self::Delimited { delimiter, discard, max } => {
                let hex: String = delimiter.iter().map(|byte| format!("\\x{byte:02x}")).collect();
                format!("delim:{hex},max={max}{}", flag(*discard, ",discard"))
            }
            Self::Length(Length { max, offset, width, big, adjustment, strip }) => {
                let strip = if *strip { offset + width } else { 0 };
                let (bits, order) = (width * 8, if *big { "be" } else { "le" });
                format!("len:u{bits}{order},offset={offset},adjust={adjustment},strip={strip},max={max}")
            }
            Self::Decimal { width, max } => format!("dec:{width},max={max}"),
            Self::Varint { max } => format!("varint,max={max}"),
            Self::Netstring { max } => format!("netstring,max={max}"),
            Self::Fixed { size } => format!("fixed:{size}"),
        }
    }

    pub(crate) fn codec(&self) -> AnyCodec {
        self.spec().parse().unwrap()
    }

    pub(crate) fn oracle(&self, rest: &[u8]) -> Step {
        match self {
            Self::Lines { crlf: false, discard, max } => lf(rest, *max, *discard),
            Self::Lines { crlf: true, discard, max } => crlf(rest, *max, *discard),
            Self::Delimited { delimiter, discard, max } => delimited(rest, delimiter, *max, *discard),
            Self::Length(length) => length.oracle(rest),
            Self::Decimal { width, max } => decimal(rest, *width, *max as u64),
            Self::Varint { max } => varint(rest, *max as u128),
            Self::Netstring { max } => netstring(rest, *max as u64),
            Self::Fixed { size } => fixed(rest, *size),
        }
    }

    pub(crate) fn max(&self) -> usize {
        match self {
            Self::Lines { max, .. }
            | Self::Delimited { max, .. }
            | Self::Length(Length { max, .. })
            | Self::Decimal { max, .. }
            | Self::Varint { max }
            | Self::Netstring { max } => *max,
            Self::Fixed { size } => *size,
        }
    }

    /// Returns whether the framing can carry a message, without using the codec. A message that brings its own header
    /// must contain all of it.
    pub(crate) fn carries(&self, message: &[u8]) -> bool {
        let has = |bad: &[u8]| message.iter().any(|byte| bad.contains(byte));
        let fits = message.len() <= self.max();
        match self {
            Self::Lines { crlf: true, .. } => fits && !has(b"\r\n"),
            Self::Lines { .. } => fits && !has(b"\n"),
            Self::Delimited { delimiter, .. } => {
                let framed = [message, delimiter].concat();
                let first = framed.windows(delimiter.len()).position(|window| window == delimiter);
                fits && first == Some(message.len())
            }
            Self::Length(Length { offset, width, adjustment, strip, .. }) => {
                let header = if *strip { 0 } else { offset + width };
                let value = message.len() as i128 - header as i128 - i128::from(*adjustment);
                fits && message.len() >= header && (0..1i128 << (width * 8)).contains(&value)
            }
            Self::Fixed { size } => message.len() == *size,
            Self::Decimal { .. } | Self::Varint { .. } | Self::Netstring { .. } => fits,
        }
    }

    /// Bytes with a meaning in this framing, and a few without.
    fn letters(&self) -> Vec<u8> {
        match self {
            Self::Lines { .. } => b"aaa\r\n\x80".to_vec(),
            Self::Delimited { delimiter, .. } => [delimiter, &b"ab\0"[..]].concat(),
            Self::Length(length) => vec![0, 0, 0, 1, 2, 3, 0x7f, 0x80, 0xff, length.max as u8],
            Self::Decimal { .. } => b"00123  -9".to_vec(),
            Self::Varint { .. } => vec![0, 1, 2, 0x7f, 0x80, 0x81, 0xff],
            Self::Netstring { .. } => b"0123::,,9".to_vec(),
            Self::Fixed { .. } => b"a\n\xff".to_vec(),
        }
    }

    fn spell(&self, bytes: &[u8]) -> Vec<u8> {
        let letters = self.letters();
        bytes.iter().map(|byte| letters[usize::from(*byte) % letters.len()]).collect()
    }

    /// Returns a message of one of the interesting sizes, made of this framing's letters.
    pub(crate) fn message(&self, size: usize, bytes: &[u8]) -> Vec<u8> {
        let max = self.max();
        let sizes = [0, 1, 2, 5, max.saturating_sub(1), max, max.saturating_add(1)];
        let size = sizes[size % sizes.len()].min(400);
        self.spell(bytes).into_iter().chain([b'x']).cycle().take(size).collect()
    }

    /// Returns the same framing with a larger maximum if it can have one, as a peer with other settings would use.
    fn generous(&self) -> AnyCodec {
        let mut other = self.clone();
        match &mut other {
            Self::Lines { max, .. }
            | Self::Delimited { max, .. }
            | Self::Length(Length { max, .. })
            | Self::Decimal { max, .. }
            | Self::Varint { max }
            | Self::Netstring { max } => *max = max.saturating_mul(2),
            Self::Fixed { .. } => {}
        }
        other.spec().parse().unwrap_or_else(|_| self.codec())
    }
}

/// What a peer sends, independent of the framing, so that a failing case can be shrunk independently of it.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pieces: Vec<Part>,
    /// A byte that is changed in transit, and its new value.
    damage: Option<(usize, u8)>,
    /// Bytes missing at the end.
    lost: usize,
}

#[derive(Clone, Debug)]
enum Part {
    Message { size: usize, bytes: Vec<u8> },
    Letters(Vec<u8>),
    Noise(Vec<u8>),
}

impl Traffic {
    /// Returns the bytes sent by a peer that uses this framing.
    pub(crate) fn spoken(&self, shape: &Shape) -> Vec<u8> {
        let codec = shape.generous();
        let mut wire = Vec::new();
        for piece in &self.pieces {
            match piece {
                Part::Message { size, bytes } => {
                    let message = shape.message(*size, bytes);
                    if codec.encode(&message, &mut wire).is_err() {
                        wire.extend(message);
                    }
                }
                Part::Letters(bytes) => wire.extend(shape.spell(bytes)),
                Part::Noise(bytes) => wire.extend(bytes),
            }
        }
        wire.truncate(wire.len().saturating_sub(self.lost));
        if let Some((at, byte)) = self.damage.filter(|_| !wire.is_empty()) {
            let at = at % wire.len();
            wire[at] = byte;
        }
        wire
    }
}

/// Generates framings of every kind, most with small maxima, some with the largest.
pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let max = prop_oneof![1..20usize, Just(99), Just(100), 126..131usize, Just(255)];
    let any_max = prop_oneof![6 => max.clone(), 1 => Just(MOST)];
    let delimiter = prop::collection::vec(prop::sample::select(b"ab\0\n".to_vec()), 1..4);
    prop_oneof![
        2 => (any::<bool>(), any::<bool>(), max.clone())
            .prop_map(|(crlf, discard, max)| Shape::Lines { crlf, discard, max }),
        2 => (delimiter, any::<bool>(), max)
            .prop_map(|(delimiter, discard, max)| Shape::Delimited { delimiter, discard, max }),
        3 => lengths().prop_map(Shape::Length),
        1 => (1..65usize, any_max.clone()).prop_map(|(width, max)| {
            let most = 10usize.saturating_pow(width.min(19) as u32) - 1;
            Shape::Decimal { width, max: max.min(most) }
        }),
        1 => any_max.clone().prop_map(|max| Shape::Varint { max }),
        1 => any_max.prop_map(|max| Shape::Netstring { max }),
        1 => (1..9usize).prop_map(|size| Shape::Fixed { size }),
    ]
}

/// Generates valid combinations of the options of a length field; the maximum is clipped to what the field can hold.
fn lengths() -> impl Strategy<Value = Length> {
    let max = prop_oneof![6 => 1..40usize, 1 => Just(300), 1 => Just(MOST)];
    let numbers = (max, 0..4usize, 1..9usize, -12..9i64);
    (numbers, any::<bool>(), any::<bool>()).prop_filter_map("contradictory", |(numbers, big, strip)| {
        let (max, offset, width, adjustment) = numbers;
        let length = Length { max, offset, width, big, adjustment, strip };
        let codec = length.build().ok()?;
        Some(Length { max: codec.max_message(), ..length })
    })
}

pub(crate) fn traffic() -> impl Strategy<Value = Traffic> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..12);
    let piece = prop_oneof![
        6 => (0..7usize, bytes()).prop_map(|(size, bytes)| Part::Message { size, bytes }),
        2 => bytes().prop_map(Part::Letters),
        1 => bytes().prop_map(Part::Noise),
    ];
    let damage = prop::option::weighted(0.3, (0..1000usize, any::<u8>()));
    let lost = prop_oneof![2 => Just(0), 1 => 0..6usize];
    (prop::collection::vec(piece, 0..6), damage, lost).prop_map(|(pieces, damage, lost)| Traffic {
        pieces,
        damage,
        lost,
    })
}
