//! KafkaPolicy: what is read, what closes, and the CRD and the example that go with it.

use std::path::{Path, PathBuf};

use beeway_config::{Loaded, Options, load, load_dir};
use beeway_model::{KafkaGrant, Protocol, kafka_grant};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

const BASE: &str = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: kafka, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: kafka}, ports: [{name: kafka, port: 9092}, {name: http-metrics, port: 9090}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: kafka-0, namespace: shop, labels: {app: kafka}}, status: {podIP: 10.0.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {serviceAccountName: web, containers: []}, status: {podIP: 10.0.0.2, phase: Running}}
- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: ops, labels: {app: web}}, status: {podIP: 10.0.0.3, phase: Running}}
";

fn with(more: &str) -> Loaded {
    let file = |name: &str, text: &str| (PathBuf::from(name), text.to_owned());
    load(&[file("base.yaml", BASE), file("f.yaml", more)], &Options::default())
}

/// A policy whose spec begins on line 4.
fn policy(spec: &str) -> Loaded {
    with(&format!(
        "apiVersion: beeway.io/v1alpha1\nkind: KafkaPolicy\nmetadata: {{name: p, namespace: shop}}\n{spec}"
    ))
}

/// What is wrong, but for the notice that `http-metrics` is none of the policy's business.
fn problems(loaded: &Loaded) -> Vec<String> {
    let lines = loaded.problems.iter().map(ToString::to_string);
    lines.filter(|line| !line.contains("port 9090 of shop/kafka is not said")).collect()
}

/// What a caller may do with the broker at 10.0.0.1.
fn grant<'a>(loaded: &'a Loaded, from: &str, api: i16) -> KafkaGrant<'a> {
    let mesh = &loaded.mesh;
    let broker = mesh.workload_at("10.0.0.1".parse().unwrap()).unwrap();
    let caller =
        mesh.workloads.iter().map(|w| &**w).find(|w| format!("{}/{}", w.namespace, w.name) == from);
    kafka_grant(mesh.kafka_policies_of(broker), caller, api, None)
}

#[test]
fn ports_speak_kafka_by_name_or_by_app_protocol() {
    let loaded = with(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [\
         {name: kafka, port: 1}, {name: kafka-plain, port: 2}, {name: x, port: 3, appProtocol: kafka}, \
         {name: tls-kafka, port: 4}, {name: kafkas, port: 5}, {name: kafka-u, port: 6, protocol: UDP}]}\n",
    );
    let service = loaded.mesh.services.iter().find(|s| s.name == "s").unwrap();
    let spoken: Vec<Protocol> = service.ports.iter().map(|port| port.protocol).collect();
    use Protocol::{Kafka, Opaque, Tls};
    assert_eq!(spoken, [Kafka, Kafka, Kafka, Tls, Opaque, Opaque]);
}

#[test]
fn a_policy_is_read() {
    let loaded = policy(
        "spec:\n  selector: {matchLabels: {app: kafka}}\n  rules:\n  - from: [{labels: {app: web}}]\n    \
         allow: [{role: produce, topics: [a, 'b-*']}, {role: consume, apiKeys: [initproducerid]}]\n  \
         - from: [{namespace: '*', serviceAccount: web}]\n    allow: [{apiKeys: [DeleteTopics]}]\n",
    );
    assert_eq!(problems(&loaded), [""; 0]);
    let produce = grant(&loaded, "shop/web", 0);
    let topics = ["a", "b-", "b-1", "aa"].map(|topic| produce.allows_topic(Some(topic)));
    assert_eq!(topics, [true, true, true, false]);
    assert!(grant(&loaded, "shop/web", 1).allows_any_topic());
    assert!(grant(&loaded, "shop/web", 22).allows());
    assert!(grant(&loaded, "shop/web", 20).allows());
    // the namespace of a caller is the policy's unless it says otherwise
    assert!(!grant(&loaded, "ops/web", 0).allows());
    assert!(!grant(&loaded, "ops/web", 20).allows(), "another service account");
    let any = policy("spec: {rules: [{allow: [{topics: [a]}]}]}\n");
    assert!(grant(&any, "nobody", 77).allows_topic(Some("a")));
    assert!(!grant(&any, "nobody", 77).allows_any_topic());
}

#[test]
fn a_rule_that_is_wrong_allows_nothing() {
    for (allow, line, said) in [
        ("[{role: write}]", 5, "role `write` is none of produce and consume"),
        ("[{apiKeys: [Fetsch]}]", 5, "`Fetsch` is no API key of Kafka that clients use"),
        ("[{topics: ['a*b']}]", 5, "`a*b` is no name, nor the beginning of one with `*`"),
        ("[{topics: ['']}]", 5, "`` is no name, nor the beginning of one with `*`"),
        ("[{topics: ['ä']}]", 5, "`ä` is no name, nor the beginning of one with `*`"),
        ("[{apiKeys: [Heartbeat], topics: [a]}]", 5, "none of these APIs names topics"),
        ("[]", 5, "a rule without `allow`"),
    ] {
        let spec =
            format!("spec: {{rules: [\n  {{allow: {allow}}}, {{allow: [{{topics: [b]}}]}}]}}\n");
        let loaded = policy(&spec);
        let wanted =
            format!("f.yaml:{line}: error: KafkaPolicy shop/p: {said}; the rule allows nothing");
        assert_eq!(problems(&loaded), [wanted], "{allow}");
        let grant = grant(&loaded, "shop/web", 0);
        assert!(!grant.allows_topic(Some("a")) && grant.allows_topic(Some("b")), "{allow}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_closes() {
    let closed = "KafkaPolicy shop/p: what it selects is closed to all Kafka requests";
    let all = "KafkaPolicy shop/p: every workload of its namespace is closed to all Kafka requests";
    for (spec, said) in [
        ("spec: {rules: 1}\n", all),
        ("", all),
        (
            "spec:\n  selector: {matchLabels: {app: kafka}}\n  rules: [{allow: [{topic: [a]}]}]\n",
            closed,
        ),
        (
            "spec:\n  selector: {matchLabels: {app: kafka, x: 1}}\n  rules: [{allow: [{}]}]\n",
            closed,
        ),
        ("spec: {rules: [{allow: [{}]}], selector: {matchExpressions: []}}\n", all),
    ] {
        let loaded = policy(spec);
        let found = problems(&loaded);
        assert!(found.iter().any(|line| line.ends_with(said)), "{spec}{found:?}");
        assert!(found.iter().all(|line| line.contains(": error: ")), "{found:?}");
        assert!(!grant(&loaded, "shop/web", 18).allows(), "{spec}");
        assert_eq!(loaded.mesh.kafka.len(), 1);
    }
    // of two with one name the second allows nothing, of another version nothing
    let text = |version: &str, app: &str| {
        format!(
            "apiVersion: beeway.io/{version}\nkind: KafkaPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{selector: {{matchLabels: {{app: {app}}}}}, rules: [{{allow: [{{}}]}}]}}\n---\n"
        )
    };
    let loaded = with(&(text("v1alpha1", "none") + &text("v1alpha1", "kafka")));
    assert!(problems(&loaded).iter().any(|line| line.ends_with(closed)));
    assert!(!grant(&loaded, "shop/web", 18).allows());
    let loaded = with(&text("v2", "kafka"));
    assert!(problems(&loaded).iter().any(|line| line.ends_with(closed)));
    assert!(!grant(&loaded, "shop/web", 18).allows() && loaded.mesh.kafka.len() == 1);
}

#[test]
fn what_a_policy_does_not_concern_is_said() {
    let nobody = policy("spec: {selector: {matchLabels: {app: nobody}}}\n");
    let said = |loaded: &Loaded, what: &str| {
        let lines: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.contains(what)), "{lines:?}");
    };
    said(&nobody, "f.yaml:4: notice: KafkaPolicy shop/p: it selects no workload");
    said(
        &policy("spec: {selector: {matchLabels: {app: web}}}\n"),
        "f.yaml:4: error: KafkaPolicy shop/p: no service leads to what it selects by a port that is \
         said to speak Kafka (appProtocol kafka): nothing is judged",
    );
    said(
        &policy("spec: {selector: {matchLabels: {app: kafka}}}\n"),
        "notice: KafkaPolicy shop/p: port 9090 of shop/kafka is not said to speak Kafka: nothing is \
         judged there",
    );
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_example_is_clean() {
    let loaded = load_dir(&workspace().join("examples/kafka"), &Options::default()).unwrap();
    assert_eq!(loaded.problems, []);
    let mesh = &loaded.mesh;
    let broker = mesh.workload_at("10.244.0.41".parse().unwrap()).unwrap();
    let may = |from: &str, api, id, topic| {
        let caller = mesh.workloads.iter().map(|w| &**w).find(|w| w.name == from);
        kafka_grant(mesh.kafka_policies_of(broker), caller, api, id).allows_topic(Some(topic))
    };
    assert!(may("checkout", 0, Some("checkout"), "orders"));
    assert!(may("checkout", 0, Some("checkout"), "audit-2"));
    assert!(!may("checkout", 0, Some("other"), "orders"));
    assert!(!may("checkout", 1, Some("checkout"), "orders"));
    assert!(may("billing", 1, None, "orders") && !may("billing", 0, None, "orders"));
    assert!(!may("web", 3, None, "orders"));
}

#[test]
fn the_crd_is_structural_and_knows_what_is_read() {
    let text = std::fs::read_to_string(workspace().join("deploy/kafkapolicies.yaml")).unwrap();
    let crd: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap();
    let (group, plural) = (&crd.spec.group, &crd.spec.names.plural);
    assert_eq!(crd.metadata.name, Some(format!("{plural}.{group}")));
    let version = &crd.spec.versions[0];
    let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    assert_structural(schema, "");
    let example = std::fs::read_to_string(workspace().join("examples/kafka/policy.yaml")).unwrap();
    // every field that the reader knows
    let full = format!(
        "apiVersion: {group}/{}\nkind: {}\nmetadata: {{name: p, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: kafka}}}}, rules: [{{from: [{{namespace: a, \
         labels: {{b: c}}, serviceAccount: d}}], allow: [{{role: consume, apiKeys: [Fetch], \
         topics: ['*', e, 'f*'], clientIds: [g]}}]}}]}}\n",
        version.name, crd.spec.names.kind
    );
    assert_eq!(problems(&with(&full)), [""; 0]);
    for document in [&example, &full] {
        let value: Value = serde_saphyr::from_str(document).unwrap();
        assert_conforms(schema, &value, "");
    }
}

/// A type at each node (apiextensions: structural schemas).
fn assert_structural(schema: &JSONSchemaProps, at: &str) {
    assert!(schema.type_.is_some(), "{at} has no type");
    for (name, property) in schema.properties.iter().flatten() {
        assert_structural(property, &format!("{at}.{name}"));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        assert_structural(items, &format!("{at}[]"));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(more)) = &schema.additional_properties {
        assert_structural(more, &format!("{at}.*"));
    }
}

/// Types, required fields, fields that are known and values of lists.
fn assert_conforms(schema: &JSONSchemaProps, value: &Value, at: &str) {
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        _ => "something else",
    };
    assert_eq!(schema.type_.as_deref(), Some(kind), "{at}");
    for name in schema.required.iter().flatten() {
        assert!(value.get(name).is_some(), "{at} lacks {name}");
    }
    if let Some(allowed) = &schema.enum_ {
        assert!(allowed.iter().any(|allowed| allowed.0 == *value), "{at}: {value}");
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        value.as_array().unwrap().iter().for_each(|item| assert_conforms(items, item, at));
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let known = schema.properties.as_ref().and_then(|known| known.get(name));
        match (known, &schema.additional_properties) {
            (Some(schema), _) => assert_conforms(schema, value, &format!("{at}.{name}")),
            (None, Some(JSONSchemaPropsOrBool::Schema(schema))) => {
                assert_conforms(schema, value, &format!("{at}.{name}"));
            }
            // the API server knows what metadata is
            _ => assert_eq!(at, ".metadata", "{name} is not known"),
        }
    }
}
