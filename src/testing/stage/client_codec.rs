//! How clients speak where messages are framed: a codec, with its type forgotten.
//!
//! Knows nothing of clients. Invariant: an [`Decoder`] is shown every byte that one client receives, in order.

use std::rc::Rc;

use crate::codec::{Codec, Decoded, EncodeError};

/// The codec that all clients share.
pub(super) trait ClientCodec {
    fn encode(&self, message: &[u8]) -> Result<Vec<u8>, EncodeError>;
    fn ear(&self) -> Box<dyn Decoder>;
}

/// What one client has to remember between two messages.
pub(super) trait Decoder {
    /// Takes the next whole message from the front of `data`; `None` if there is none yet.
    fn hear(&mut self, data: &mut Vec<u8>) -> Result<Option<Vec<u8>>, String>;
}

pub(super) struct Spoken<C>(pub(super) Rc<C>);

struct Listening<C: Codec> {
    codec: Rc<C>,
    state: C::State,
}

impl<C: Codec> ClientCodec for Spoken<C> {
    fn encode(&self, message: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let mut wire = Vec::new();
        self.0.encode(message, &mut wire).map(|()| wire)
    }

    fn ear(&self) -> Box<dyn Decoder> {
        Box::new(Listening { codec: Rc::clone(&self.0), state: C::State::default() })
    }
}

impl<C: Codec> Decoder for Listening<C> {
    fn hear(&mut self, data: &mut Vec<u8>) -> Result<Option<Vec<u8>>, String> {
        while !data.is_empty() {
            match self.codec.decode(&mut self.state, data).map_err(|e| e.to_string())? {
                Decoded::Incomplete => return Ok(None),
                Decoded::Message { start, end, consumed } => {
                    let message = data.get(start..end).filter(|_| (1..=data.len()).contains(&consumed));
                    let message =
                        message.ok_or("the codec returned a message outside of its input")?.to_vec();
                    data.drain(..consumed);
                    return Ok(Some(message));
                }
                // Over-long for this codec, which was told to throw such messages away.
                Decoded::Skipped { consumed, .. } => drop(data.drain(..consumed.clamp(1, data.len()))),
            }
        }
        Ok(None)
    }
}
