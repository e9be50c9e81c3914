//! Names of the protocol versions.

use crate::lineage::ProtocolVersion;

/// Name of the version in the parameter `proto_version` of START_WAL_PUSH.
pub const fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V2 => "2",
        ProtocolVersion::V3 => "3",
        ProtocolVersion::Holdfast2 => "holdfast-2",
    }
}

/// Name of a version that an earlier release spoke, and that this one refuses.
pub const EARLIER_VERSION_NAME: &str = "holdfast-1";

/// The version that a `proto_version` names; `None` for an unknown name.
pub fn parse_version(name: &str) -> Option<ProtocolVersion> {
    [ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::Holdfast2]
        .into_iter()
        .find(|&version| version_name(version) == name)
}
