//! The options of a binary length field, and which combinations are valid.
//!
//! Invariant: a codec is built only if it can send at least one message. Its arithmetic cannot overflow.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use super::error::check_max;
use super::{BuildError, LengthDelimited};

/// The options of a [`LengthDelimited`] codec, named as in Netty. Created by [`LengthDelimited::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct LengthDelimitedBuilder {
    max: usize,
    offset: usize,
    width: usize,
    big_endian: bool,
    adjustment: i64,
    includes_header: bool,
    strip: Option<usize>,
    prefix: Option<Vec<u8>>,
}

impl LengthDelimited {
    /// Returns a builder for messages of at most `max` bytes. The defaults are 4 bytes, big endian, header stripped.
    pub fn builder(max: usize) -> LengthDelimitedBuilder {
        LengthDelimitedBuilder::new(max)
    }

    /// Creates a codec with a length of 2 bytes, big endian, before messages of at most `max` bytes. It can carry at
    /// most 65 535.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn u16_be(max: usize) -> Result<Self, BuildError> {
        Self::builder(max).length_field_length(2).build()
    }

    /// Creates a codec with a length of 4 bytes, big endian (network order), before messages of at most `max` bytes.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn u32_be(max: usize) -> Result<Self, BuildError> {
        Self::builder(max).build()
    }

    /// Creates a codec with a length of 4 bytes, little endian, before messages of at most `max` bytes.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn u32_le(max: usize) -> Result<Self, BuildError> {
        Self::builder(max).little_endian().build()
    }
}

impl LengthDelimitedBuilder {
    pub(super) fn new(max: usize) -> Self {
        let (strip, prefix) = (None, None);
        Self { max, offset: 0, width: 4, big_endian: true, adjustment: 0, includes_header: false, strip, prefix }
    }

    /// Sets another maximum.
    pub(super) fn max(mut self, max: usize) -> Self {
        self.max = max;
        self
    }

    /// Sets the number of bytes before the length field: 0 to 65 535. Default: 0.
    pub fn length_field_offset(mut self, bytes: usize) -> Self {
        self.offset = bytes;
        self
    }

    /// Sets the number of bytes in the length field: 1 to 8. Default: 4.
    pub fn length_field_length(mut self, bytes: usize) -> Self {
        self.width = bytes;
        self
    }

    /// Sends the most significant byte of the length first (the default).
    pub fn big_endian(mut self) -> Self {
        self.big_endian = true;
        self
    }

    /// Sends the least significant byte of the length first.
    pub fn little_endian(mut self) -> Self {
        self.big_endian = false;
        self
    }

    /// Sets what to add to the value of the length field to get the number of bytes after it. Default: 0.
    pub fn length_adjustment(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self
    }

    /// Sets whether the length also counts the header (the bytes before the field, and the field). This equals an
    /// adjustment of minus `offset + length`, and is added to any other adjustment. Default: no.
    pub fn length_includes_header(mut self, yes: bool) -> Self {
        self.includes_header = yes;
        self
    }

    /// Sets how many bytes at the front of a frame are not part of the message: the whole header (the default), or 0.
    /// With 0 every message is a whole frame including its header, in both directions.
    pub fn initial_bytes_to_strip(mut self, bytes: usize) -> Self {
        self.strip = Some(bytes);
        self
    }

    /// Sets what the encoder writes before the length field: exactly as many bytes as the offset. Default: zeros. What
    /// a peer sends there is not compared with it.
    pub fn header_prefix(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.prefix = Some(bytes.into());
        self
    }

    /// Builds the codec. A maximum beyond what the length field can hold is clipped.
    ///
    /// # Errors
    /// Returns an error if an option is out of range, or if no message could be sent with the combination.
    pub fn build(self) -> Result<LengthDelimited, BuildError> {
        let refuse = |text: String| Err(BuildError::new(text));
        let Self { offset, width, big_endian, .. } = self;
        if !(1..=8).contains(&width) {
            return refuse(format!("length_field_length is {width} bytes; accepted: 1 to 8"));
        }
        if offset > MAX_OFFSET {
            return refuse(format!("length_field_offset is {offset} bytes; accepted: 0 to {MAX_OFFSET}"));
        }
        let header = offset.saturating_add(width);
        let start = self.strip.unwrap_or(header);
        if start != 0 && start != header {
            return refuse(format!(
                "initial_bytes_to_strip is {start}; accepted: {header} (the header) or 0 (the message is the frame)"
            ));
        }
        let prefix = self.checked_prefix(start)?;
        let shift = 64u32.saturating_sub((width as u32).saturating_mul(8));
        let counted = if self.includes_header { header as i64 } else { 0 };
        let Some(adjustment) = self.adjustment.checked_sub(counted) else {
            return refuse(format!("length_adjustment of {} and the header overflow", self.adjustment));
        };
        let max_body = Self::max_body(check_max(self.max)?, header, start, adjustment, u64::MAX >> shift)?;
        Ok(LengthDelimited { offset, header, start, shift, big_endian, adjustment, max_body, prefix })
    }

    /// Returns the maximum number of bytes after the length field: what `max` allows and a field of at most `field`
    /// can express.
    fn max_body(max: usize, header: usize, start: usize, adjustment: i64, field: u64) -> Result<usize, BuildError> {
        let Some(allowed) = max.checked_sub(header.saturating_sub(start)) else {
            return Err(BuildError::new(format!(
                "the maximum message of {max} bytes cannot hold the header, which is not stripped; \
                 accepted: {header} or more"
            )));
        };
        // In 128 bits no field of 64 bits plus an adjustment of 64 bits overflows.
        let sayable = i128::from(field).saturating_add(i128::from(adjustment));
        let most = sayable.min(allowed as i128);
        let least = i128::from(adjustment.max(0)).max(i128::from(start != 0 && adjustment < 0));
        match usize::try_from(most) {
            Ok(most_body) if most >= least => Ok(most_body),
            _ => Err(BuildError::new(format!(
                "a length_adjustment of {adjustment} (including the header) leaves no message to send; \
                 accepted here: {} to {allowed}",
                i128::from(start != 0).saturating_sub(i128::from(field))
            ))),
        }
    }

    fn checked_prefix(&self, start: usize) -> Result<Box<[u8]>, BuildError> {
        let offset = self.offset;
        match &self.prefix {
            None if start == 0 => Ok(Box::default()),
            None => Ok(vec![0; offset].into()),
            Some(_) if start == 0 => Err(BuildError::new(
                "header_prefix is given, but with initial_bytes_to_strip = 0 each message contains its own header; \
                 accepted: one of the two",
            )),
            Some(prefix) if prefix.len() == offset => Ok(prefix.as_slice().into()),
            Some(prefix) => Err(BuildError::new(format!(
                "header_prefix has {} bytes; accepted: exactly length_field_offset, {offset}",
                prefix.len()
            ))),
        }
    }
}

/// The maximum number of bytes before a length field (chosen).
const MAX_OFFSET: usize = 65_535;
