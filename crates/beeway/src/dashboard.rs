//! `beeway dashboard`: where to look.

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cli::DashboardArgs;
use crate::output;
use crate::status::{admin_socket, dashboard_url};

/// Exit status when there is no dashboard.
const NONE: u8 = 3;

/// Prints the address of the dashboard with its token.
pub fn dashboard(args: &DashboardArgs) -> Result<ExitCode> {
    let path = dashboard_url(&args.state);
    let url = match std::fs::read_to_string(&path) {
        Ok(url) => url,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return none(args),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("only root may know the token: try `sudo beeway dashboard`")
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    // an agent that was killed leaves the file
    if UnixStream::connect(admin_socket(&args.state)).is_err() {
        return none(args);
    }
    output::text(&url)?;
    Ok(ExitCode::SUCCESS)
}

fn none(args: &DashboardArgs) -> Result<ExitCode> {
    output::text(&format!(
        "no agent with a dashboard has its state in {}\n\
         (`beeway run --dashboard ...` serves one, or name its directory with --state)\n",
        args.state.display()
    ))?;
    Ok(ExitCode::from(NONE))
}
