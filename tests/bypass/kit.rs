//! What the tests of this folder share: policies, and clients that take orders.

use anyhow::{Context, Result};
use beeway_testbed::{Place, Process, directory};
use serde_json::{Value, json};
use std::path::Path;

use crate::bed::{Bed, LIMIT, Shape, wait_until};

pub const NATIVE: Shape = Shape { servers_in_mesh: false };
pub const SHORTCUT: Shape = Shape { servers_in_mesh: true };
pub const ALL: &str = "- route: [{destination: {host: web, subset: v1}}]\n";
/// The service `web`, as a client gives it to connect().
pub const WEB: (&str, u16) = ("10.96.0.10", 80);
/// Seconds that a client waits for what shall come.
const SOON: f64 = 10.0;
/// Seconds that it waits for what shall not come.
pub const NEVER: f64 = 0.3;

/// An AuthorizationPolicy of the namespace `default` about `web`.
pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec:\n  \
         selector: {{matchLabels: {{app: web}}}}\n{spec}"
    )
}

/// Nobody may ask for what is below /admin.
pub fn no_admin() -> String {
    policy("no-admin", "  action: DENY\n  rules:\n  - to: [{operation: {paths: [/admin*]}}]\n")
}

/// Who is in this namespace may call, nobody else.
pub fn only_from(namespace: &str) -> String {
    let rule = format!("  rules:\n  - from: [{{source: {{namespaces: [{namespace}]}}}}]\n");
    policy("from", &format!("  action: ALLOW\n{rule}"))
}

/// Puts a file of the configuration in force.
pub fn apply(bed: &Bed, name: &str, text: &str) -> Result<()> {
    let before = bed.generation()?;
    bed.write(name, text)?;
    bed.wait_for_generation(before)?;
    Ok(())
}

/// A request without a body.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")
}

const MARK: &str = "/mark";

/// The paths that the server v1 was asked for until now, in order.
pub fn asked(bed: &Bed) -> Result<Vec<String>> {
    let count = || bed.recorded_paths().iter().filter(|path| *path == MARK).count();
    // what it says comes in order, so with this nothing is missing
    let before = count();
    let curl = bed.v1.command("curl").plain();
    let mark = curl.args(["-sS", "-o", "/dev/null", &format!("http://127.0.0.1:8080{MARK}")]);
    mark.output(LIMIT)?.success()?;
    wait_until("the mark is recorded", || Ok(count() > before))?;
    let paths = bed.recorded_paths().into_iter();
    Ok(paths.filter(|path| path != MARK).collect())
}

/// No server was asked for what is forbidden: any path with this word.
pub fn assert_not_asked(bed: &Bed, forbidden: &str) -> Result<()> {
    let paths = asked(bed)?;
    assert!(!paths.iter().any(|path| path.contains(forbidden)), "{forbidden}: {paths:?}");
    Ok(())
}

/// A client that does as it is told.
pub struct Client(Process);

impl Client {
    /// In the place's usual cgroup.
    pub fn start(place: &impl Place) -> Result<Client> {
        Self::spawn(place, None)
    }

    /// In another cgroup.
    pub fn start_in(place: &impl Place, cgroup: &Path) -> Result<Client> {
        Self::spawn(place, Some(cgroup))
    }

    fn spawn(place: &impl Place, cgroup: Option<&Path>) -> Result<Client> {
        let command = place.command("/usr/bin/python3").args(["-c", include_str!("client.py")]);
        let command = match cgroup {
            Some(cgroup) => command.cgroup(cgroup),
            None => command,
        };
        let mut client = Client(command.spawn()?);
        assert_eq!(client.answer()?, "here");
        Ok(client)
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.0.next_line(LIMIT)?;
        serde_json::from_str(&line).context(line)
    }

    /// Gives an order, and hands back the answer as it is.
    pub fn ask(&mut self, order: Value) -> Result<Value> {
        self.0.write_line(&order.to_string())?;
        self.answer()
    }

    /// Gives an order that is answered by a word.
    pub fn order(&mut self, order: Value) -> Result<String> {
        let answer = self.ask(order)?;
        Ok(answer.as_str().with_context(|| answer.to_string())?.to_owned())
    }

    pub fn connect(&mut self, to: (&str, u16)) -> Result<String> {
        self.order(json!({ "connect": to }))
    }

    pub fn send(&mut self, way: &str, text: &str) -> Result<String> {
        self.order(json!({ "send": text, "way": way }))
    }

    /// The status of the next answer, which shall come.
    pub fn read(&mut self) -> Result<String> {
        self.order(json!({ "read": SOON }))
    }

    /// The status of an answer that may not come.
    pub fn glimpse(&mut self) -> Result<String> {
        self.order(json!({ "read": NEVER }))
    }

    /// Sends a request the plain way; the status of its answer.
    pub fn get(&mut self, path: &str) -> Result<String> {
        let sent = self.send("plain", &get(path))?;
        if sent != "sent" {
            return Ok(sent);
        }
        self.read()
    }

    /// Whether a server of echoes answers, as it shall.
    pub fn echoes(&mut self) -> Result<bool> {
        Ok(self.order(json!({ "echo": SOON }))? == "ping")
    }

    /// Whether a server of echoes does not answer, as it shall not.
    pub fn is_cut_off(&mut self) -> Result<bool> {
        Ok(self.order(json!({ "echo": NEVER }))? != "ping")
    }

    /// Hands its connection to another client.
    pub fn hand_to(&mut self, other: &mut Client) -> Result<()> {
        let directory = directory("carrier")?;
        let path = directory.path().join("carrier");
        assert_eq!(other.order(json!({ "take": path }))?, "waiting");
        assert_eq!(self.order(json!({ "give": path }))?, "given");
        assert_eq!(other.answer()?, "taken");
        Ok(())
    }
}
