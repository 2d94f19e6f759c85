//! A loader that keeps what it has parsed says the same as one that begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use beeway_config::{Loader, Options, load};

type Files = Vec<(PathBuf, String)>;

/// Documents that depend on one another, stand in one another's way, or are broken.
const DOCUMENTS: [&str; 28] = [
    "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  clusterIP: 10.96.0.1\n  \
     selector: {app: a}\n  ports: [{name: http, port: 80}]\n",
    "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec:\n  clusterIP: 10.96.0.2\n  \
     selector: {app: b}\n  ports: [{name: http, port: 80}, {port: 70000}]\n",
    "# the same name again\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  \
     clusterIP: 10.96.0.3\n  odd: 1\n  ports: [{name: http, port: 8080}]\n",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a-1, labels: {app: a, version: v1}}\n\
     status: {phase: Running, podIP: 10.0.0.1}\n",
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: \
     {name: b-1, labels: {app: b}}\n  status: {podIP: 10.0.0.2}\n- kind: none\n",
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  \
     host: a\n  subsets: [{name: v1, labels: {version: v1}}]\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  \
     hosts: [a, missing]\n  http:\n  - match: [{uri: {prefix: /x}}]\n    route: \
     [{destination: {host: b}}]\n  - route: [{destination: {host: a, subset: v1}}]\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: all}\nspec:\n  \
     hosts: ['*.svc.cluster.local']\n  http:\n  - match: [{uri: {regex: '/r.*'}}]\n    route: \
     [{destination: {host: b}}]\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec:\n  \
     hosts: [b]\n  http:\n  - match: [{uri: {regex: '('}}]\n    route: \
     [{destination: {host: b}}]\n",
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  \
     parentRefs: [{group: '', kind: Service, name: b}]\n  rules:\n  - matches: \
     [{path: {value: /y}}, {path: {value: /z}}]\n    backendRefs: [{name: a, port: 80}]\n",
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: s, \
     namespace: other}\nspec:\n  parentRefs: [{group: '', kind: Service, name: b, namespace: \
     default}]\n  rules: [{backendRefs: [{name: a, namespace: default, port: 80}]}]\n",
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  \
     selector: {matchLabels: {app: a}}\n  action: CUSTOM\n  provider: {name: x}\n  rules: [{}]\n",
    "# the same name again\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
     metadata: {name: p}\nspec:\n  rules:\n  - from: [{source: {}}]\n",
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: q}\nspec: [\n",
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n}\nspec:\n  \
     podSelector: {}\n  ingress:\n  - from: [{namespaceSelector: {matchLabels: {team: x}}}]\n    \
     ports: [{port: http}, {port: 0}]\n",
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {team: x}}\n",
    "apiVersion: v1\nkind: Node\nmetadata: {name: n}\nstatus:\n  addresses: \
     [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: x}]\n",
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  \
     mesh: |\n    extensionProviders:\n    - name: x\n      envoyExtAuthzHttp: \
     {service: a.default.svc.cluster.local, port: 80}\n",
    "a: [1\n",
    "# nothing\n",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n",
    "# an address that others have too\napiVersion: v1\nkind: Pod\nmetadata: {name: a-0, labels: \
     {app: b}}\nstatus: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}\n",
    "# the same name, of another kind\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
     metadata: {name: a-1}\nspec: {address: 10.0.0.9, labels: {app: a, version: v2}}\n",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a-2, labels: {app: a, version: v2}}\n\
     status: {podIP: 10.0.0.3}\n",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a-2, namespace: other, labels: {app: a}}\n\
     status: {podIP: 10.0.0.4}\n",
    "# more behind what b is behind\napiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec:\n  \
     clusterIP: 10.96.0.4\n  selector: {version: v2}\n  ports: [{name: http, port: 80}]\n",
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: v2}\nspec:\n  \
     selector: {matchLabels: {version: v2}}\n  rules: [{from: [{source: {namespaces: [other]}}]}]\n",
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: t}\nspec:\n  \
     targetRefs: [{kind: Service, group: '', name: c}]\n",
];

fn text(random: &mut fastrand::Rng) -> String {
    let documents = (0..random.usize(0..5)).map(|_| DOCUMENTS[random.usize(0..DOCUMENTS.len())]);
    let separators = ["---\n", "...\n---\n", "--- # c\n\n"];
    documents.map(|document| format!("{}{document}", separators[document.len() % 3])).collect()
}

/// Replaces, adds, removes or renames a file, or puts a line in front of one.
fn edit(files: &mut Files, random: &mut fastrand::Rng) {
    let at = random.usize(0..=files.len());
    match (random.u8(0..5), files.get_mut(at)) {
        (0, Some(file)) => file.1 = text(random),
        (1, Some(file)) => file.1.insert_str(0, "# moved by a line\n"),
        (2, Some(_)) => drop(files.remove(at)),
        (3, Some(file)) => file.0 = format!("{}.yaml", random.u8(..)).into(),
        _ => files.push((format!("{}.yaml", random.u8(..)).into(), text(random))),
    }
    files.sort();
    files.dedup_by(|a, b| a.0 == b.0);
}

#[test]
fn what_is_kept_changes_nothing() {
    let mut random = fastrand::Rng::with_seed(3);
    let options = Options { node: None };
    let mut loader = Loader::new(options.clone());
    let mut files = Files::new();
    let (mut routed, mut problems) = (0, 0);
    for round in 0..400 {
        for _ in 0..random.usize(0..3) {
            edit(&mut files, &mut random);
        }
        let fresh = load(&files, &options);
        assert_eq!(loader.load(files.clone()), fresh, "round {round}: {files:#?}");
        let ports = fresh.mesh.services.iter().flat_map(|service| &service.ports);
        routed += ports.filter(|port| port.rules.is_some()).count();
        problems += fresh.problems.len();
    }
    assert!(routed > 100 && problems > 100, "{routed} ports were routed, {problems} problems");
}

#[test]
fn what_is_said_to_have_changed_is_enough_to_read() {
    let mut random = fastrand::Rng::with_seed(4);
    let options = Options { node: None };
    let mut loader = Loader::new(options.clone());
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &PathBuf, text: &str| std::fs::write(path, text).unwrap();
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut direct = 0;
    for round in 0..400 {
        let mut paths = BTreeSet::new();
        for _ in 0..random.usize(0..3) {
            let path = dir.path().join(format!("{}.yaml", random.u8(0..20)));
            match files.get_mut(&path) {
                Some(_) if random.u8(0..8) == 0 => {
                    files.remove(&path);
                    std::fs::remove_file(&path).unwrap();
                }
                Some(text) if random.bool() => text.insert_str(0, "# moved by a line\n"),
                _ => drop(files.insert(path.clone(), text(&mut random))),
            }
            files.get(&path).into_iter().for_each(|text| write(&path, text));
            paths.insert(path);
        }
        let loaded = loader.load_changed(dir.path(), &paths).unwrap();
        let fresh = load(&files.clone().into_iter().collect::<Files>(), &options);
        direct += fresh.mesh.direct.len();
        if let Some(loaded) = loaded {
            assert_eq!(loaded, fresh, "round {round}: {files:#?}");
        }
        assert_eq!(loader.load_dir(dir.path(), false).unwrap(), None, "round {round}: {files:#?}");
    }
    assert!(direct > 100, "{direct} endpoints were called straight");
}

#[test]
fn only_changed_files_are_read_and_every_change_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut loader = Loader::default();
    let mut load = |again| loader.load_dir(dir.path(), again).unwrap();
    assert!(load(false).is_none(), "as empty as before");
    assert_eq!(load(true).unwrap().problems, []);
    let services = |loaded: Option<beeway_config::Loaded>| {
        let services = loaded.expect("a change").mesh.services;
        services.into_iter().map(|service| service.name).collect::<Vec<_>>()
    };
    std::fs::write(path("a.yaml"), DOCUMENTS[0]).unwrap();
    assert_eq!(services(load(false)), ["a"]);
    assert!(load(false).is_none());
    // of the same size, in place, and within one step of the clock
    for name in ["b", "c", "d"] {
        let text = DOCUMENTS[0].replace("name: a}", &format!("name: {name}}}"));
        std::fs::write(path("a.yaml"), text).unwrap();
        assert_eq!(services(load(false)), [name]);
    }
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert!(load(false).is_none());
    assert!(load(false).is_none(), "known by its stamp now");
    std::fs::write(path("b.yaml"), DOCUMENTS[0]).unwrap();
    assert_eq!(services(load(false)), ["a", "d"]);
    std::fs::rename(path("b.yaml"), path("a.yaml")).unwrap();
    assert_eq!(services(load(false)), ["a"]);
    std::fs::remove_file(path("a.yaml")).unwrap();
    assert_eq!(services(load(false)), [""; 0]);
}
