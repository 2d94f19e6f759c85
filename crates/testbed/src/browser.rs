//! A page in headless Chromium (Debian package chromium), driven by the Chrome DevTools protocol
//! (chromedevtools.github.io/devtools-protocol).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::node::Place;
use crate::process::{Process, debian_python, needs};
use crate::sweep::directory;

/// What it does is written at its top.
const SCRIPT: &str = include_str!("browser.py");

/// How long the browser may take to start, and to answer.
const LIMIT: Duration = Duration::from_secs(90);

/// A page.
#[derive(Debug)]
pub struct Browser {
    process: Process,
}

impl Browser {
    /// Starts a browser with an empty page of that many pixels, and nothing left of an earlier one.
    pub fn start(place: &impl Place, (width, height): (u32, u32)) -> Result<Browser> {
        let profile = directory("browser")?;
        let process = place
            .command(debian_python("python3")?)
            .args(["-c", SCRIPT])
            .arg(needs("chromium", "chromium")?)
            // its sandbox cannot be had by root
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--disable-background-networking", "--no-first-run", "--hide-scrollbars"])
            .args(["--remote-debugging-pipe", &format!("--window-size={width},{height}")])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .keep(profile)
            .spawn()?;
        process.wait_for_line("ready", LIMIT).with_context(|| process.stderr().join("\n"))?;
        let mut browser = Browser { process };
        ensure!(browser.line()? == "ready", "the browser says something else first");
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        browser.call("Emulation.setDeviceMetricsOverride", size)?;
        Ok(browser)
    }

    /// Calls a method of the protocol.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let answer = self.ask(&json!({ "method": method, "params": params }))?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => bail!("{method}: {answer}"),
        }
    }

    /// The events of a method of the protocol, since the browser was started.
    pub fn events(&mut self, method: &str) -> Result<Vec<Value>> {
        let answer = self.ask(&json!({ "events": method }))?;
        Ok(answer["result"].as_array().cloned().unwrap_or_default())
    }

    /// Opens an address, and waits until its scripts have run.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", json!({ "url": url }))?;
        ensure!(answer.get("errorText").is_none(), "{url}: {answer}");
        self.wait(url, "document.readyState === 'complete' && location.href !== 'about:blank'")
    }

    /// The value of an expression of JavaScript; a promise is awaited.
    pub fn run(&mut self, expression: &str) -> Result<Value> {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", params)?;
        match answer.get("exceptionDetails") {
            Some(details) => bail!("{expression}: {details}"),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Waits until an expression of JavaScript is true.
    pub fn wait(&mut self, what: &str, expression: &str) -> Result<()> {
        let end = Instant::now() + LIMIT / 3;
        while self.run(expression)? != true {
            ensure!(Instant::now() < end, "{what}: never {expression}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Says that the user prefers `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) -> Result<()> {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }))?;
        Ok(())
    }

    /// What is seen, as PNG.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        Ok(STANDARD.decode(answer["data"].as_str().context("no picture")?)?)
    }

    /// What went wrong in the page: exceptions, errors that were logged, answers that were refused.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        let mut found = self.events("Runtime.exceptionThrown")?;
        let serious = |level: &Value| level == "error" || level == "warning";
        let console = self.events("Runtime.consoleAPICalled")?.into_iter();
        found.extend(console.filter(|event| serious(&event["type"])));
        let log = self.events("Log.entryAdded")?.into_iter();
        found.extend(log.filter(|event| serious(&event["entry"]["level"])));
        Ok(found.iter().map(Value::to_string).collect())
    }

    fn ask(&mut self, command: &Value) -> Result<Value> {
        self.process.write_line(&command.to_string())?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    fn line(&mut self) -> Result<String> {
        let line = self.process.next_line(LIMIT);
        line.with_context(|| self.process.stderr().join("\n"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // the script ends the browser when its input ends
        self.process.close_stdin();
        let _ = self.process.wait(Duration::from_secs(5));
    }
}
