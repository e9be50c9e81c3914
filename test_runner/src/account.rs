//! Account: the operating system user that PostgreSQL's programs run as, because PostgreSQL refuses to run as root.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::User;

/// A user of this machine, other than root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's id.
    pub uid: u32,
    /// The id of the user's group.
    pub gid: u32,
    /// The user's login name.
    name: String,
    /// The user's home directory.
    home: PathBuf,
}

impl Account {
    /// Looks an account up by its name.
    ///
    /// # Errors
    ///
    /// Fails when the account does not exist or is root.
    pub fn find(name: &str) -> Result<Self> {
        let user =
            User::from_name(name)?.with_context(|| format!("there is no user {name}: run ./dev setup"))?;
        if user.uid.is_root() {
            bail!(
                "PostgreSQL refuses to run as root, and .holdfast/tools/env names root: run ./dev setup again"
            );
        }
        Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: user.name, home: user.dir })
    }

    /// Lets a command run as this account, in an environment that names the account's home.
    ///
    /// libpq looks for certificates below HOME. With root's HOME it stops at `/root/.postgresql/postgresql.crt`, which
    /// the account may not read.
    pub fn run_as(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_as_sets_the_accounts_home() {
        let account = Account {
            uid: nix::unistd::Uid::effective().as_raw(),
            gid: nix::unistd::Gid::effective().as_raw(),
            name: "postgres".into(),
            home: "/var/lib/postgresql".into(),
        };
        let mut command = Command::new("sh");
        command.args(["-c", "echo $HOME $USER $LOGNAME"]).env("HOME", "/root");

        account.run_as(&mut command);

        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/var/lib/postgresql postgres postgres\n");
    }
}
