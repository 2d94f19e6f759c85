//! Metrics as a scraper sees them.

use std::fmt;

use anyhow::{Context, Result, ensure};

use crate::{Place, curl};

/// What was scraped.
#[derive(Debug, Default)]
pub struct Scrape(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Scrape {
    /// Asks for `/metrics` in OpenMetrics' text format, from a place.
    pub fn of(place: &impl Place, address: &str) -> Result<Scrape> {
        let accept = "Accept: application/openmetrics-text";
        let url = format!("http://{address}/metrics");
        let output = curl(place, &["-sS", "--fail", "-H", accept, &url])?.success()?;
        Ok(Scrape(output.stdout.lines().filter_map(sample).collect()))
    }

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

    /// The only sample of a name.
    pub fn value(&self, name: &str) -> Result<f64> {
        let mut found = self.0.iter().filter(|sample| sample.name == name);
        let sample = found.next().with_context(|| format!("no {name}"))?;
        ensure!(found.next().is_none(), "{name} has more than one sample");
        Ok(sample.value)
    }
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

/// Requests and connections by the labels that tell most.
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
