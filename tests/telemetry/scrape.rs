//! `/metrics` as a scraper sees it.

use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};
use beeway_testbed::Place;

use crate::bed::{Bed, LIMIT};

/// What was scraped.
#[derive(Debug, Default)]
pub struct Scrape(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Where a bed's agent serves metrics.
pub fn address(bed: &Bed) -> Result<String> {
    let agent = bed.agent.as_ref().context("an agent runs")?;
    let line = agent.wait_for_line("metrics=", LIMIT)?;
    let address = line.split("metrics=").nth(1).context("the log names the address")?;
    Ok(address.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Asks the agent of a bed.
pub fn scrape(bed: &Bed) -> Result<Scrape> {
    let address = address(bed)?;
    let text = bed.node.run_in(|| -> Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
              Accept: application/openmetrics-text\r\n\r\n",
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    Ok(Scrape(text.lines().filter_map(sample).collect()))
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    // no value of ours has a comma or a brace in it
    let labels = labels.trim_end_matches('}').split(',').filter_map(|label| {
        let (key, value) = label.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample { name: name.to_owned(), labels: labels.collect(), value: value.parse().ok()? })
}

impl Scrape {
    /// The sum of all samples of a name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let has = |all: &[(String, String)], (key, value): &(&str, &str)| {
            all.iter().any(|(k, v)| k == key && v == value)
        };
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|label| has(&sample.labels, label))
        };
        self.0.iter().filter(fits).map(|sample| sample.value).sum::<f64>() as u64
    }
}

impl fmt::Display for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = ["lane", "response_code", "source_workload", "destination_workload", "reason"];
        for Sample { name, labels, value } in &self.0 {
            if name.contains("requests_total") || name.starts_with("istio_tcp") {
                let labels = labels.iter().filter(|(key, _)| told.contains(&key.as_str()));
                let labels: Vec<String> = labels.map(|(k, v)| format!("{k}={v}")).collect();
                writeln!(f, "{name} {} {value}", labels.join(" "))?;
            }
        }
        Ok(())
    }
}
