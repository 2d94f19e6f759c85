//! Kafka: a broker (Tansu), and clients of two libraries (PyPI's confluent-kafka, which is librdkafka,
//! and kafka-python). `.ci/kafka` makes them in `target/kafka`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::Command;
use crate::node::Place;
use crate::process::{Process, needs_made};
use crate::tools::wait_connect;

/// What it does is written at its top.
const SCRIPT: &str = include_str!("kafka.py");

/// How long a broker may take to start, and a client to do something; clients have limits of their
/// own.
const LIMIT: Duration = Duration::from_secs(90);

/// A client library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// librdkafka, by confluent-kafka.
    Confluent,
    /// kafka-python.
    Python,
}

fn broker_program() -> Result<PathBuf> {
    needs_made("kafka", "bin/tansu")
}

/// Starts a broker on all addresses, which tells clients that it is at the first of this place.
pub fn kafka_broker(place: &impl Place, port: u16) -> Result<Process> {
    let at = place.addr4(port);
    let process = place
        .command(broker_program()?)
        .args(["broker", "--storage-engine", "memory://tansu/"])
        .args(["--listener-url", &format!("tcp://[::]:{port}")])
        .args(["--advertised-listener-url", &format!("tcp://{at}")])
        .spawn()?;
    wait_connect(place, at, LIMIT).with_context(|| process.stderr().join("\n"))?;
    Ok(process)
}

/// Makes a topic of one partition.
pub fn create_topic(place: &impl Place, broker: SocketAddr, name: &str) -> Result<()> {
    let create = place.command(broker_program()?).args(["topic", "create", "--partitions", "1"]);
    create.args(["--broker", &format!("tcp://{broker}"), name]).output(LIMIT)?.success()?;
    Ok(())
}

/// A client that keeps its producers.
#[derive(Debug)]
pub struct KafkaClient {
    process: Process,
}

impl KafkaClient {
    /// Makes a client, which connects when it is asked something, and gives up after `limit`.
    pub fn start(
        place: &impl Place,
        library: Library,
        to: SocketAddr,
        client_id: &str,
        limit: Duration,
    ) -> Result<KafkaClient> {
        let library = match library {
            Library::Confluent => "confluent",
            Library::Python => "python",
        };
        let command: Command =
            place.command(needs_made("kafka", "venv/bin/python")?).args(["-c", SCRIPT]);
        let process = command
            .args([library, &to.to_string(), client_id, &limit.as_secs().to_string()])
            .spawn()?;
        Ok(KafkaClient { process })
    }

    /// Has it do something, as `kafka.py` describes it; what came of it.
    pub fn ask(&mut self, what: &Value) -> Result<Value> {
        self.process.write_line(&what.to_string())?;
        let line = self.process.next_line(LIMIT);
        let line = line.with_context(|| self.process.stderr().join("\n"))?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }
}
