//! Configuration: [`Flags`] parse the command line, and become the validated [`Config`]. Opens no file and no socket.
//!
//! Called by `main`, and by tests that build a [`Config`] by hand.

mod flags;
mod options;
mod settings;
mod toml;

pub use self::flags::Flags;
pub use self::options::{CacheOptions, OptionError, RateOptions};
pub use self::settings::{
    Caches, ClientAuth, ComputeTls, Config, ConfigError, ControlPlaneSource, LoginLimits, ProxyProtocol,
    TlsFiles, TlsSources,
};
pub(crate) use self::toml::describe_toml_error;
