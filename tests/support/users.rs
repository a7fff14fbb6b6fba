//! Being somebody else on this machine, as the tests about other users need: as root, or by `sudo`
//! without a password, as machines of continuous integration have it.

use std::process::{Command, Stdio};

/// Nobody, as every Linux has it.
pub const NOBODY: &str = "65534";

/// Our own user.
pub fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("/proc is there").uid()
}

/// Whether we are root.
pub fn is_root() -> bool {
    own_uid() == 0
}

/// A program that is to run as root; none if we cannot have that.
pub fn as_root(program: &str) -> Option<Command> {
    if is_root() {
        return Some(Command::new(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sudo.status().is_ok_and(|status| status.success()).then(|| {
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        command
    })
}

/// Whether we can be somebody else. A machine of continuous integration has to let us; on another
/// one it is said that something was not shown.
#[track_caller]
pub fn can_be_others() -> bool {
    super::need("setpriv");
    if as_root("true").is_some() {
        return true;
    }
    let sentence = "needs root, or sudo without a password, to become another user";
    assert!(std::env::var_os("CI").is_none(), "this test {sentence}");
    eprintln!("NOT SHOWN: this test {sentence}");
    false
}

/// A program that is to run as this user.
#[track_caller]
pub fn as_user(uid: &str, program: &str) -> Command {
    let mut command = as_root("setpriv").expect("asked before: can_be_others");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups", program]);
    command
}
