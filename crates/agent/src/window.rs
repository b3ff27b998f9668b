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
    size: u32,
    left: u32,
    used: u32,
}

impl Default for Received {
    fn default() -> Self {
        Received { size: WINDOW_BYTES, left: WINDOW_BYTES, used: 0 }
    }
}

impl Received {
    /// Credit is given in pieces of at least this part of the window, so that it costs few frames.
    const CREDIT_PART: u32 = 4;

    /// How much may be on the way.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Makes the window `bytes` wide, where it is narrower. The credit for that goes out with the
    /// next that [`Received::passed_on`] returns.
    pub fn widen(&mut self, bytes: u32) {
        let more = bytes.saturating_sub(self.size);
        self.size += more;
        self.used += more;
    }

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
        self.used = self.used.saturating_add(bytes).min(self.size - self.left);
        (self.used >= self.size / Self::CREDIT_PART).then(|| {
            let credit = std::mem::take(&mut self.used);
            self.left += credit;
            credit
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_widened_is_given_as_credit_once() {
        let (mut sending, mut received) = (Sending::default(), Received::default());
        let mut pass = |received: &mut Received, bytes: u32| {
            sending.sent(bytes as usize).unwrap();
            received.arrived(bytes as usize).unwrap();
            let credit = received.passed_on(bytes as usize);
            credit.inspect(|&credit| sending.credit(credit));
            (credit, sending.left())
        };
        let (window, wide) = (WINDOW_BYTES, 8 * WINDOW_BYTES);
        assert_eq!(pass(&mut received, window / 4), (Some(window / 4), window as usize));
        received.widen(wide);
        received.widen(window);
        assert_eq!(pass(&mut received, 1), (Some(wide - window + 1), wide as usize));
        // Then it is given in pieces of a quarter of what it is now.
        assert_eq!(pass(&mut received, wide / 4 - 1), (None, (wide - wide / 4 + 1) as usize));
        assert_eq!(pass(&mut received, 1), (Some(wide / 4), wide as usize));
        assert!(received.arrived(wide as usize + 1).is_err());
    }
}
