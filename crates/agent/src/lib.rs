//! The guest agent's wire protocol, shared by host and guest.
