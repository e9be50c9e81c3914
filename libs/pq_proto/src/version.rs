//! [`ProtocolVersion`]: the version of the frontend/backend protocol that a startup packet asks for (PostgreSQL
//! documentation, "Protocol versions").

use std::fmt;

/// Version of the protocol: major in the high, minor in the low 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion(pub u32);

impl ProtocolVersion {
    /// What every client since 2003 speaks.
    pub const V3_0: Self = Self(3 << 16);

    /// PostgreSQL 18 and later, when the client asks for it: the keys of cancel requests may be longer. Otherwise 3.0.
    pub const V3_2: Self = Self(3 << 16 | 2);

    /// The newest one that is spoken here.
    pub const NEWEST: Self = Self::V3_2;

    /// A new major version is another protocol.
    pub const fn major(self) -> u32 {
        self.0 >> 16
    }

    /// A higher minor version is negotiated down.
    pub const fn minor(self) -> u32 {
        self.0 & 0xffff
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}
