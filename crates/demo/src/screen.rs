//! What the demo says, and that it never falls silent.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After so much silence the time is told, so that nothing is silent for two seconds.
const SILENCE: Duration = Duration::from_millis(1900);

/// Standard output, with colours where somebody looks at them.
pub struct Screen {
    colour: bool,
    started: Instant,
    last: Arc<Mutex<Instant>>,
    end: Option<Sender<()>>,
    heart: Option<JoinHandle<()>>,
}

impl Screen {
    /// Starts the clock.
    pub fn start() -> Screen {
        let started = Instant::now();
        let last = Arc::new(Mutex::new(started));
        let (end, ended) = channel::<()>();
        let heard = Arc::clone(&last);
        let heart = std::thread::spawn(move || {
            let mut wait = SILENCE;
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                let silent = heard.lock().expect("no panic while locked").elapsed();
                wait = SILENCE.saturating_sub(silent);
                if wait.is_zero() {
                    print(&heard, &format!("   … {:.0} s", started.elapsed().as_secs_f64()));
                    wait = SILENCE;
                }
            }
        });
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Screen { colour, started, last, end: Some(end), heart: Some(heart) }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The heading of a step.
    pub fn heading(&self, text: &str) {
        self.line(&format!("\n{}", self.paint("1", text)));
    }

    /// What is being done now.
    pub fn doing(&self, text: &str) {
        self.line(&self.paint("2", &format!("   … {text}")));
    }

    /// A result that is as it should be.
    pub fn ok(&self, text: &str) {
        self.line(&format!("   {}  {text}", self.paint("32", "ok")));
    }

    /// A result that is not.
    pub fn bad(&self, text: &str) {
        self.line(&format!("   {}  {text}", self.paint("31", "NO")));
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        print(&self.last, text);
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
    }
}

fn print(last: &Mutex<Instant>, text: &str) {
    let mut last = last.lock().expect("no panic while locked");
    let mut out = std::io::stdout().lock();
    // a reader that has gone away must not keep us from cleaning up
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    *last = Instant::now();
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration as people say it.
pub fn human(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.01 => format!("{:.0} ms", s * 1e3),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(12_345_678), "12,345,678");
        assert_eq!(human(Duration::from_micros(13)), "13 µs");
        assert_eq!(human(Duration::from_micros(1500)), "1.5 ms");
        assert_eq!(human(Duration::from_millis(48)), "48 ms");
        assert_eq!(human(Duration::from_millis(2300)), "2.3 s");
    }
}
