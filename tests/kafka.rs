//! Kafka with policies: real client libraries, a real broker, a real agent between them.

mod bed;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{Bed, JASON, LIMIT, Shape, wait_until};
use beeway_testbed::{KafkaClient, Library, Place, Process, create_topic, kafka_broker};
use serde_json::{Value, json};

const SERVICE: &str = "10.96.0.30:9092";
const PORT: u16 = 9092;

/// For who is refused without a reason that his library gives up for.
const BRIEF: Duration = Duration::from_secs(3);

const KAFKA: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: kafka, namespace: default}
spec:
  clusterIP: 10.96.0.30
  selector: {version: v1}
  ports:
  - {name: bootstrap, appProtocol: kafka, port: 9092}
"#;

/// The client may do anything with `orders` and what begins with `audit-`; nobody else may anything.
const ORDERS: &str = r#"
  - from: [{labels: {app: client}}]
    allow:
    - {role: produce, topics: [orders, "audit-*"]}
    - {role: consume, topics: [orders, "audit-*"]}
"#;

/// A mesh in which v1 is a broker with the topics `orders`, `audit-1` and `secret`; v2 is a client too.
struct Brokers {
    bed: Bed,
    _broker: Process,
}

impl Brokers {
    /// With these rules; `None`: without a policy.
    fn new(label: &str, rules: Option<&str>) -> Result<Brokers> {
        let bed = Bed::new(label, Shape { servers_in_mesh: true }, JASON)?;
        let broker = kafka_broker(&bed.v1, PORT)?;
        for topic in ["orders", "audit-1", "secret"] {
            create_topic(&bed.v1, SocketAddr::from(([127, 0, 0, 1], PORT)), topic)?;
        }
        let brokers = Brokers { bed, _broker: broker };
        let before = brokers.bed.generation()?;
        brokers.bed.write("kafka.yaml", KAFKA)?;
        brokers.bed.wait_for_generation(before)?;
        if let Some(rules) = rules {
            brokers.set(rules)?;
        }
        Ok(brokers)
    }

    /// Replaces the rules.
    fn set(&self, rules: &str) -> Result<()> {
        let before = self.bed.generation()?;
        let text = format!(
            "apiVersion: beeway.io/v1alpha1\nkind: KafkaPolicy\n\
             metadata: {{name: brokers, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{version: v1}}}}\n  rules:\n{rules}"
        );
        self.bed.write("policy.yaml", &text)?;
        self.bed.wait_for_generation(before)?;
        Ok(())
    }

    fn client(&self, library: Library) -> Result<KafkaClient> {
        KafkaClient::start(&self.bed.client, library, SERVICE.parse()?, "till-1", LIMIT)
    }

    fn proxy(&self, counter: &str) -> Result<u64> {
        self.bed.status()?["proxy"][counter].as_u64().with_context(|| counter.to_owned())
    }

    /// The records so far.
    fn log(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.bed.state.path().join("access.log"))?;
        let records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        // connections have records too
        Ok(records.filter(|record: &Value| record["method"].is_string()).collect())
    }

    /// Records of requests with this method, once there are so many.
    fn records(&self, method: &str, count: usize) -> Result<Vec<Value>> {
        let mut records = Vec::new();
        wait_until("a record", || {
            let all = self.log()?.into_iter();
            records = all.filter(|record| record["method"] == method).collect();
            Ok(records.len() >= count)
        })?;
        Ok(records)
    }
}

fn produce(client: &mut KafkaClient, topic: &str, value: &str) -> Result<Value> {
    client.ask(&json!({"do": "produce", "topic": topic, "values": [value]}))
}

fn consume(client: &mut KafkaClient, topics: &[&str], group: &str, count: u32) -> Result<Value> {
    client.ask(&json!({"do": "consume", "topics": topics, "group": group, "count": count}))
}

fn is_topic_error(answer: &Value) -> bool {
    let error = answer["error"].as_str().unwrap_or_default();
    ["TOPIC_AUTHORIZATION_FAILED", "TopicAuthorizationFailedError"].contains(&error)
}

fn what_is_allowed_passes_and_nothing_else(library: Library, label: &str) -> Result<()> {
    let brokers = Brokers::new(label, Some(ORDERS))?;
    let mut client = brokers.client(library)?;
    for (topic, value) in [("orders", "one"), ("orders", "two"), ("audit-1", "three")] {
        let answer = produce(&mut client, topic, value)?;
        assert_eq!(answer["error"], Value::Null, "{answer}");
    }
    let answer = consume(&mut client, &["orders"], "g", 2)?;
    assert_eq!((&answer["error"], &answer["values"]), (&Value::Null, &json!(["one", "two"])));
    // what was committed is remembered
    let answer = produce(&mut client, "orders", "four")?;
    assert_eq!((&answer["error"], &answer["offsets"]), (&Value::Null, &json!([2])), "{answer}");
    let answer = consume(&mut client, &["orders"], "g", 1)?;
    assert_eq!((&answer["error"], &answer["values"]), (&Value::Null, &json!(["four"])));
    // nothing was refused but to tell the broker about itself, which it was not allowed
    let other = brokers.log()?.into_iter().find(|record| {
        record["method"] != "GetTelemetrySubscriptions" || record["response_code"] != 31
    });
    assert_eq!(other, None);

    let answer = produce(&mut client, "secret", "x")?;
    assert!(is_topic_error(&answer), "{answer}");
    let answer = consume(&mut client, &["secret"], "h", 1)?;
    // kafka-python waits in silence for a topic that it may not know
    assert!(is_topic_error(&answer) || library == Library::Python, "{answer}");
    assert_eq!(answer["values"], json!([]));
    let answer = client.ask(&json!({"do": "topics"}))?;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let names: Vec<&str> =
        answer["values"].as_array().context("names")?.iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"orders") && !names.contains(&"secret"), "{names:?}");
    // the connections go on
    let answer = produce(&mut client, "orders", "five")?;
    assert_eq!((&answer["error"], &answer["offsets"]), (&Value::Null, &json!([3])), "{answer}");

    assert!(brokers.proxy("kafka_refused")? > 0);
    assert_eq!(brokers.proxy("kafka_closed")?, 0);
    let record = &brokers.records("Metadata", 1)?[0];
    let said = (&record["path"], &record["response_code"]);
    assert_eq!(said, (&json!("secret"), &json!(29)), "{record}");
    assert_eq!(record["route_name"], "KafkaPolicy default/brokers");
    assert_eq!((&record["authority"], &record["protocol"]), (&json!("till-1"), &json!("Kafka")));
    // the broker has told its own address, and is judged there too
    assert_eq!(record["upstream_host"], brokers.bed.v1.addr4(PORT).to_string());
    Ok(())
}

#[test]
fn librdkafka_may_do_what_is_allowed_and_nothing_else() -> Result<()> {
    what_is_allowed_passes_and_nothing_else(Library::Confluent, "rdkafka")
}

#[test]
fn kafka_python_may_do_what_is_allowed_and_nothing_else() -> Result<()> {
    what_is_allowed_passes_and_nothing_else(Library::Python, "kpython")
}

#[test]
fn a_change_of_policy_counts_for_the_next_request() -> Result<()> {
    for (library, label) in [(Library::Confluent, "change-c"), (Library::Python, "change-p")] {
        let brokers = Brokers::new(label, Some(ORDERS))?;
        let mut client = brokers.client(library)?;
        for round in 0..2 {
            // a client remembers a refusal until it has asked anew what there is
            wait_until("an allowed record", || {
                let answer = produce(&mut client, "orders", "x")?;
                ensure!(answer["error"].is_null() || round > 0, "{library:?}: {answer}");
                Ok(answer["error"].is_null())
            })?;
            // it may ask what there is, so it knows the topic's partition as before
            brokers
                .set("  - {allow: [{apiKeys: [Metadata, ApiVersions]}, {topics: [audit-1]}]}\n")?;
            let answer = produce(&mut client, "orders", "y")?;
            assert!(is_topic_error(&answer), "{library:?} {round}: {answer}");
            wait_until("an allowed record", || {
                let answer = produce(&mut client, "audit-1", "y")?;
                ensure!(answer["error"].is_null() || round > 0, "{library:?}: {answer}");
                Ok(answer["error"].is_null())
            })?;
            brokers.set(ORDERS)?;
        }
        let records = brokers.records("Produce", 2)?;
        let topics: Vec<_> =
            records.iter().map(|record| (&record["path"], &record["response_code"])).collect();
        assert_eq!(topics, [(&json!("orders"), &json!(29)); 2]);
        let answer = consume(&mut client, &["orders"], "g", 2)?;
        assert_eq!(answer["values"], json!(["x", "x"]), "{answer}");
    }
    Ok(())
}

#[test]
fn large_requests_pass_and_are_refused() -> Result<()> {
    let brokers = Brokers::new("large", Some(ORDERS))?;
    let mut client = brokers.client(Library::Python)?;
    let value = "v".repeat(5_000_000);
    let answer = produce(&mut client, "orders", &value)?;
    assert_eq!((&answer["error"], &answer["offsets"]), (&Value::Null, &json!([0])));
    brokers.set("  - {allow: [{apiKeys: [Metadata, ApiVersions]}, {topics: [audit-1]}]}\n")?;
    let answer = produce(&mut client, "orders", &value)?;
    assert!(is_topic_error(&answer), "{}", answer["error"]);
    let answer = produce(&mut client, "audit-1", &value)?;
    assert_eq!((&answer["error"], &answer["offsets"]), (&Value::Null, &json!([0])));
    assert_eq!(brokers.proxy("kafka_closed")?, 0);
    Ok(())
}

#[test]
fn callers_are_told_apart_by_address_and_by_what_they_call_themselves() -> Result<()> {
    let rules = "  - from: [{labels: {app: client}, serviceAccount: default}]\n    \
                 allow: [{role: produce, topics: [orders], clientIds: [till-*]}]\n";
    let brokers = Brokers::new("callers", Some(rules))?;
    let answer = produce(&mut brokers.client(Library::Confluent)?, "orders", "x")?;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let to = SERVICE.parse()?;
    let mut other =
        KafkaClient::start(&brokers.bed.client, Library::Confluent, to, "kiosk", BRIEF)?;
    let answer = produce(&mut other, "orders", "x")?;
    assert_ne!(answer["error"], Value::Null, "{answer}");
    let mut v2 = KafkaClient::start(&brokers.bed.v2, Library::Confluent, to, "till-1", BRIEF)?;
    let answer = produce(&mut v2, "orders", "x")?;
    assert_ne!(answer["error"], Value::Null, "{answer}");
    // nor by the broker's own address
    let own = brokers.bed.v1.addr4(PORT);
    let mut direct = KafkaClient::start(&brokers.bed.v2, Library::Confluent, own, "till-1", BRIEF)?;
    let answer = produce(&mut direct, "orders", "x")?;
    assert_ne!(answer["error"], Value::Null, "{answer}");
    // none of them has left anything
    brokers.set(ORDERS)?;
    let answer = produce(&mut brokers.client(Library::Confluent)?, "orders", "y")?;
    assert_eq!(answer["offsets"], json!([1]), "{answer}");
    Ok(())
}

#[test]
fn without_a_policy_it_is_native_and_without_an_agent_closed() -> Result<()> {
    let mut brokers = Brokers::new("native", None)?;
    let mut client = brokers.client(Library::Confluent)?;
    let answer = produce(&mut client, "secret", "x")?;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    assert_eq!(brokers.proxy("connections")?, 0);
    brokers.set(ORDERS)?;
    let mut client = brokers.client(Library::Confluent)?;
    let answer = produce(&mut client, "secret", "x")?;
    assert!(is_topic_error(&answer), "{answer}");
    assert!(brokers.proxy("connections")? > 0);
    drop(brokers.bed.agent.take());
    let to = SERVICE.parse()?;
    let mut client =
        KafkaClient::start(&brokers.bed.client, Library::Confluent, to, "till-1", BRIEF)?;
    let answer = produce(&mut client, "orders", "x")?;
    assert_ne!(answer["error"], Value::Null, "{answer}");
    brokers.bed.start_agent()?;
    let answer = produce(&mut client, "orders", "x")?;
    assert_eq!((&answer["error"], &answer["offsets"]), (&Value::Null, &json!([0])), "{answer}");
    Ok(())
}

/// Who comes by himself is judged by nobody: he does not get in.
#[test]
fn brokers_are_closed_to_who_is_outside_of_the_mesh() -> Result<()> {
    let brokers = Brokers::new("outside", None)?;
    let script = format!("exec < /dev/tcp/{}/{PORT}", brokers.bed.v1.ip4());
    let connect = || {
        let bash = brokers.bed.client.command("timeout").plain();
        bash.args(["1", "bash", "-c", &script]).output(LIMIT)
    };
    connect()?.success()?;
    brokers.set(ORDERS)?;
    let refused = connect()?;
    assert!(refused.success().is_err());
    // what is on the way is not cut off with it
    let answer = produce(&mut brokers.client(Library::Confluent)?, "orders", "x")?;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    Ok(())
}
