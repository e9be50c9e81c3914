//! [`Parameters`]: the settings that a server has reported with ParameterStatus.

use std::collections::BTreeMap;

use pq_proto::{ProtocolError, Text};

/// Most settings that a server may report.
const PARAMETERS_MAX: usize = 256;

/// Values of settings by name.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Stores a setting. More than [`PARAMETERS_MAX`] different names are an error, so that a server cannot fill the
    /// client's memory.
    pub(super) fn set(&mut self, name: &Text, value: &Text) -> Result<(), ProtocolError> {
        let name = name.to_str_lossy().into_owned();
        if self.0.len() >= PARAMETERS_MAX && !self.0.contains_key(&name) {
            return Err(ProtocolError::InvalidValue {
                field: "number of parameters",
                value: PARAMETERS_MAX as i64,
            });
        }
        self.0.insert(name, value.to_str_lossy().into_owned());
        Ok(())
    }
}
