//! Runs transcripts: takes the steps one by one, and reports the first expectation that fails.
//!
//! Invariant: a transcript is parsed completely before anything happens, and at its end no client has received bytes
//! that no line consumed.

use super::parties::ClientState;
use super::{Done, Stage};
use crate::handler::Handler;
use crate::sys::script::End;
use crate::testing::transcript::{Act, Shared, Step, parse, show};

/// Prints the current line if the handler panics in it.
struct Playing<'a>(&'a Shared<'a>);

impl Drop for Playing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the panic occurred in line {} of the transcript: {}", self.0.number, self.0.text);
        }
    }
}

impl<H: Handler> Stage<H> {
    pub(super) fn perform(&mut self, transcript: &str) -> Done {
        let lines = parse(transcript).map_err(|e| e.to_string())?;
        self.rest()?;
        for line in &lines {
            let playing = Playing(line);
            let place = |said| format!("line {} of the transcript: `{}`: {said}", line.number, line.text);
            self.take(&line.step).map_err(place)?;
            drop(playing);
        }
        self.nothing_unheard()
    }

    fn take(&mut self, step: &Step<'_>) -> Done {
        match step {
            Step::Wait(time) => self.pass(*time),
            Step::Shutdown(grace) => {
                let usual = self.inner.dispatcher.core.limits.shutdown_grace;
                self.begin_shutdown(grace.unwrap_or(usual))
            }
            Step::Client(name, Act::Connects) => self.bring(name).map(drop),
            Step::Client(name, act) => {
                let i = match self.find(name) {
                    Ok(i) => i,
                    Err(_) => self.bring(name)?,
                };
                self.act(i, act)
            }
        }
    }

    fn act(&mut self, i: usize, act: &Act) -> Done {
        match act {
            Act::Sends(bytes) | Act::Hears(bytes) if bytes.is_empty() && self.codec.is_none() => {
                Err("no bytes given; use `hears nothing` to expect none".to_owned())
            }
            Act::Sends(message) if self.codec.is_some() => self.say_from(i, message),
            Act::Sends(bytes) => self.send_from(i, bytes),
            Act::Hears(message) if self.codec.is_some() => self.expect_message(i, message),
            Act::Hears(bytes) => self.expect_bytes(i, bytes),
            Act::HearsWhatever => {
                self.take_heard(i);
                Ok(())
            }
            Act::HearsNothing => match self.unheard(i).as_slice() {
                [] => Ok(()),
                got => Err(format!("it has received {}", part(got, 0))),
            },
            Act::Connects => Ok(()),
            Act::Closes => self.finish_from(i),
            Act::Resets => self.reset_from(i),
            Act::StopsReading => self.set_reading(i, false),
            Act::ReadsOn => self.set_reading(i, true),
            Act::IsOpen if self.state(i) == ClientState::Open => Ok(()),
            Act::SeesEnd if self.sees(i) == Some(End::Fin) => Ok(()),
            Act::SeesReset if self.sees(i) == Some(End::Reset) => Ok(()),
            Act::SeesEnd | Act::SeesReset => Err(format!("it does not; {}", self.state(i))),
            Act::IsOpen => Err(self.state(i).to_string()),
            Act::IsClosed(wanted) => match self.state(i) {
                ClientState::Ended(why) if wanted.is_none_or(|name| name == why.name()) => Ok(()),
                state => Err(state.to_string()),
            },
        }
    }

    /// Consumes these bytes from the front of what a client has received.
    fn expect_bytes(&mut self, i: usize, expected: &[u8]) -> Done {
        let got = self.unheard(i);
        if got.starts_with(expected) {
            got.drain(..expected.len());
            return Ok(());
        }
        let got = got.clone();
        Err(difference(expected, &got, &self.state(i)))
    }

    /// Consumes this message from the front of what a client has received.
    fn expect_message(&mut self, i: usize, expected: &[u8]) -> Done {
        match self.next_message(i)? {
            Some(got) if got == expected => Ok(()),
            Some(got) => Err(difference(expected, &got, &self.state(i))),
            None => {
                let got = part(self.unheard(i), 0);
                Err(format!("no complete message, only these bytes: {got} ({})", self.state(i)))
            }
        }
    }

    fn nothing_unheard(&mut self) -> Done {
        let mut left = String::new();
        for i in 0..self.clients.len() {
            let bytes = self.unheard(i);
            if !bytes.is_empty() {
                let shown = part(bytes, 0);
                left += &format!("\n    {} received {shown}", self.clients[i].name);
            }
        }
        if left.is_empty() { Ok(()) } else { Err(format!("end of the transcript, but no line mentions:{left}")) }
    }
}

/// Shows what was expected, what was received, and where they differ.
fn difference(expected: &[u8], got: &[u8], state: &ClientState) -> String {
    let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let (expected, got) = (part(expected, at), part(got, at));
    format!("they differ at byte {at} ({state})\n    expected {expected}\n    received {got}")
}

/// Shows bytes in the notation of transcripts; of a long text, the part around one offset.
fn part(bytes: &[u8], around: usize) -> String {
    const MOST: usize = 160;
    match bytes.len() {
        0 => "nothing".to_owned(),
        len @ ..=MOST => format!("\"{}\" ({len} bytes)", show(bytes)),
        len => {
            let from = around.saturating_sub(MOST / 2).min(len - MOST);
            format!("... \"{}\" ... ({MOST} of {len} bytes, from byte {from})", show(&bytes[from..from + MOST]))
        }
    }
}

#[cfg(test)]
#[path = "play_tests.rs"]
mod tests;
