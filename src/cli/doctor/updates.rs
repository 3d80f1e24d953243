//! Automatic updates: whether the last one went well.

use super::Finding;

const UNIT: &str = "parley-relay-update.service";

/// Nothing, where there are none, or nothing is known of them.
pub(super) async fn look() -> Option<Finding> {
    let asked = tokio::process::Command::new("systemctl").args(["is-failed", UNIT]).output().await.ok()?;
    if String::from_utf8_lossy(&asked.stdout).trim() != "failed" {
        return None;
    }
    let text = "the last automatic update failed: journalctl -u parley-relay-update tells why";
    Some(Finding::doubt("updates", text, ""))
}
