//! What [`send_all`](crate::Context::send_all) is given: bytes that are fetched piece by piece, as the peer reads them.
//!
//! Invariant: a fetch appends at most as many bytes as it is asked for, and keeps the rest of a longer piece. After an
//! error, a panic or the end nothing more is fetched.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

/// How many pieces in a row may be empty, or refused by the framing. Chosen: a source that yields nothing for longer
/// would stop the loop.
const MAX_EMPTY: usize = 1_000;
/// The bytes that are read from a reader at a time. Chosen: as many as one fetch takes.
const CHUNK: u64 = 64 * 1024;

/// Bytes for [`Context::send_all`](crate::Context::send_all): owned ones, or a source of pieces that are fetched only
/// when the peer has read those before. On a connection with a framing each piece is a message.
///
/// Converts from `Vec<u8>`, [`Bytes`], `String`, `&'static str`, `&'static [u8]` (one piece each) and from a
/// [`File`], which is read from its current position to its end.
///
/// A source must always have the next piece at hand: the event loop waits for it. A file on a local disk is fine; a
/// pipe or a socket would block all connections.
pub struct Pieces {
    source: Option<Source>,
    /// The rest of a piece that was too long for one fetch, encoded.
    rest: Bytes,
}

/// Appends a message to the buffer in the framing of its receiver.
pub(crate) type Encode<'a> = &'a dyn Fn(&[u8], &mut Vec<u8>) -> Result<(), Refused>;
type Source = Box<dyn Iterator<Item = io::Result<Bytes>>>;

/// What ended a fetch early.
pub(crate) enum FetchError {
    /// The source failed.
    Failed(io::Error),
    /// The source, or the encoder, panicked.
    Panicked(Box<dyn Any + Send>),
}

/// A message that the encoder refused, or its panic.
pub(crate) enum Refused {
    Unencodable,
    Panicked(Box<dyn Any + Send>),
}

impl Pieces {
    /// Returns pieces from anything that yields them.
    pub fn new<I>(pieces: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Bytes>,
        I::IntoIter: 'static,
    {
        Self::fallible(pieces.into_iter().map(|piece| Ok(piece.into())))
    }

    /// Like [`new`](Pieces::new), for a source that can fail: an error closes the connection, with
    /// [`Reason::PiecesFailed`](crate::Reason::PiecesFailed).
    pub fn fallible<I>(pieces: I) -> Self
    where
        I: IntoIterator<Item = io::Result<Bytes>>,
        I::IntoIter: 'static,
    {
        Self { source: Some(Box::new(pieces.into_iter())), rest: Bytes::new() }
    }

    /// Returns pieces of 64 KiB from a reader, which is read to its end. Each read blocks the event loop.
    pub fn read(reader: impl Read + 'static) -> Self {
        let mut reader = reader;
        Self::fallible(std::iter::from_fn(move || {
            let mut piece = Vec::with_capacity(CHUNK as usize);
            match reader.by_ref().take(CHUNK).read_to_end(&mut piece) {
                Ok(0) => None,
                Ok(_) => Some(Ok(piece.into())),
                Err(error) => Some(Err(error)),
            }
        }))
    }

    fn of(bytes: Bytes) -> Self {
        Self { source: None, rest: bytes }
    }

    /// Appends up to `spare` bytes to `out`. `encode` is called for each piece, if there is a framing. Returns whether
    /// there is more, and how many pieces the encoder refused.
    pub(crate) fn fetch(
        &mut self,
        mut spare: usize,
        out: &mut Vec<u8>,
        encode: Option<Encode<'_>>,
    ) -> Result<(bool, u64), FetchError> {
        let (mut refused, mut empty) = (0, 0);
        while spare > 0 {
            if self.rest.is_empty() {
                let Some(piece) = self.next()? else { return Ok((false, refused)) };
                match encode.map(|encode| encoded(&piece, encode)) {
                    None => self.rest = piece,
                    Some(Ok(message)) => self.rest = message,
                    Some(Err(Refused::Unencodable)) => refused += 1,
                    Some(Err(Refused::Panicked(panic))) => return Err(FetchError::Panicked(panic)),
                }
                empty = if self.rest.is_empty() { empty + 1 } else { 0 };
                if empty > MAX_EMPTY {
                    return Err(FetchError::Failed(io::Error::other("a thousand pieces in a row had no bytes")));
                }
            }
            let part = self.rest.split_to(spare.min(self.rest.len()));
            spare -= part.len();
            out.extend_from_slice(&part);
        }
        Ok((self.source.is_some() || !self.rest.is_empty(), refused))
    }

    /// Encodes the only piece, or leaves it to [`fetch`](Self::fetch) if there may be more.
    pub(crate) fn encode_whole(&mut self, encode: Encode<'_>) -> Result<(), Refused> {
        if self.source.is_none() {
            self.rest = encoded(&self.rest, encode)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Some(source) = &mut self.source else { return Ok(None) };
        match catch_unwind(AssertUnwindSafe(|| source.next())) {
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(None) => {
                self.end();
                Ok(None)
            }
            Ok(Some(Err(error))) => Err(FetchError::Failed(error)),
            Err(panic) => Err(FetchError::Panicked(panic)),
        }
    }

    /// Drops the source. A panic in its drop must not unwind through the loop, and two in one unwinding would abort.
    fn end(&mut self) {
        let source = self.source.take();
        if catch_unwind(AssertUnwindSafe(|| drop(source))).is_err() {
            log::error!("the drop of a source of pieces panicked");
        }
    }
}

fn encoded(piece: &[u8], encode: Encode<'_>) -> Result<Bytes, Refused> {
    let mut message = Vec::new();
    encode(piece, &mut message)?;
    Ok(message.into())
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("rest", &self.rest.len()).field("source", &self.source.is_some()).finish()
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        Self::of(bytes)
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(bytes: Vec<u8>) -> Self {
        Self::of(bytes.into())
    }
}

impl From<String> for Pieces {
    fn from(text: String) -> Self {
        Self::of(text.into())
    }
}

impl From<&'static str> for Pieces {
    fn from(text: &'static str) -> Self {
        Self::of(text.into())
    }
}

impl From<&'static [u8]> for Pieces {
    fn from(bytes: &'static [u8]) -> Self {
        Self::of(bytes.into())
    }
}

impl From<File> for Pieces {
    fn from(file: File) -> Self {
        Self::read(file)
    }
}
