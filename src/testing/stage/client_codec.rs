//! The codec of a stage's clients, with its type erased.
//!
//! Invariant: a [`Decoder`] gets every byte that one client receives, in order.

use std::rc::Rc;

use crate::codec::{Codec, Decoded, EncodeError};

/// The codec that all clients share.
pub(super) trait ClientCodec {
    fn encode(&self, message: &[u8]) -> Result<Vec<u8>, EncodeError>;
    fn ear(&self) -> Box<dyn Decoder>;
}

/// Decodes the input of one client.
pub(super) trait Decoder {
    /// Takes the next complete message from the front of `data`. Returns `None` if there is none yet.
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
                    let message = message.ok_or("the codec returned a message outside of its input")?.to_vec();
                    data.drain(..consumed);
                    return Ok(Some(message));
                }
                // Too long for this codec, which was configured to discard such messages.
                Decoded::Skipped { consumed, .. } => drop(data.drain(..consumed.clamp(1, data.len()))),
            }
        }
        Ok(None)
    }
}
