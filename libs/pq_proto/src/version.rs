//! [`ProtocolVersion`]: the version of the frontend/backend protocol that a startup packet asks for (PostgreSQL
//! documentation, "Protocol versions").

use std::fmt;

/// Version of the protocol: major in the high, minor in the low 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion(pub u32);

impl ProtocolVersion {
    /// Version 3.0, which every client since 2003 speaks.
    pub const V3_0: Self = Self(3 << 16);

    /// Version 3.2 (PostgreSQL 18): the keys of cancel requests may be longer. Used only when the client asks for it.
    pub const V3_2: Self = Self(3 << 16 | 2);

    /// The newest version that this crate speaks.
    pub const NEWEST: Self = Self::V3_2;

    /// The major version. Another major version is another protocol.
    pub const fn major(self) -> u32 {
        self.0 >> 16
    }

    /// The minor version. A server negotiates a higher one down (NegotiateProtocolVersion).
    pub const fn minor(self) -> u32 {
        self.0 & 0xffff
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}
