//! Credit: how much data may be on the way on one stream of one channel.

use crate::{ProtocolError, WINDOW_BYTES};

/// The sender's side of a window.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    left: u32,
}

impl Default for Sending {
    fn default() -> Self {
        Sending { left: WINDOW_BYTES }
    }
}

impl Sending {
    /// How many bytes may be sent now.
    pub fn left(&self) -> usize {
        self.left as usize
    }

    /// `bytes` were sent.
    ///
    /// # Errors
    /// [`ProtocolError::Overrun`] where that is more than [`Sending::left`].
    pub fn sent(&mut self, bytes: usize) -> Result<(), ProtocolError> {
        let bytes = u32::try_from(bytes).map_err(|_| ProtocolError::Overrun)?;
        self.left = self.left.checked_sub(bytes).ok_or(ProtocolError::Overrun)?;
        Ok(())
    }

    /// The receiver allows `bytes` more. It may go beyond [`WINDOW_BYTES`]: a receiver that has
    /// the memory widens its window by giving credit for nothing.
    pub fn credit(&mut self, bytes: u32) {
        self.left = self.left.saturating_add(bytes);
    }
}

/// The receiver's side of a window.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    left: u32,
    used: u32,
}

impl Default for Received {
    fn default() -> Self {
        Received { left: WINDOW_BYTES, used: 0 }
    }
}

impl Received {
    /// Credit is given in pieces of at least this, so that it costs few frames.
    const CREDIT_BYTES_MIN: u32 = WINDOW_BYTES / 4;

    /// `bytes` arrived.
    ///
    /// # Errors
    /// [`ProtocolError::Overrun`] where the sender had no credit for them.
    pub fn arrived(&mut self, bytes: usize) -> Result<(), ProtocolError> {
        let bytes = u32::try_from(bytes).map_err(|_| ProtocolError::Overrun)?;
        self.left = self.left.checked_sub(bytes).ok_or(ProtocolError::Overrun)?;
        Ok(())
    }

    /// `bytes` that arrived have been passed on. Returns the credit to send now, if any.
    pub fn passed_on(&mut self, bytes: usize) -> Option<u32> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.used = self.used.saturating_add(bytes).min(WINDOW_BYTES - self.left);
        (self.used >= Self::CREDIT_BYTES_MIN).then(|| {
            let credit = std::mem::take(&mut self.used);
            self.left += credit;
            credit
        })
    }
}
