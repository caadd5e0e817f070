//! The waker of the scripted system, and of tests of what wakes a loop.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::Wake;

/// A waker that counts how often it is called.
#[derive(Debug, Default)]
pub(crate) struct Bell(AtomicUsize);

impl Bell {
    pub(crate) fn times_rung(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
