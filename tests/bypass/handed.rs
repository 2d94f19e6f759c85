//! Connections that change hands: made by one process and used by another, on the other side of the
//! mesh's border.

use anyhow::Result;
use beeway_testbed::{Place, Process, spawn_ready, tcp_echo};
use serde_json::json;

use crate::bed::{Bed, wait_until};
use crate::kit::{
    ALL, Client, SHORTCUT, WEB, apply, assert_not_asked, no_admin, only_from, policy,
};

const ECHO: u16 = 7007;

fn bed(label: &str) -> Result<(Bed, Process)> {
    let mut bed = Bed::new(label, SHORTCUT, ALL)?;
    bed.record_requests()?;
    let echo = spawn_ready(tcp_echo(&bed.v1, ECHO)?)?;
    Ok((bed, echo))
}

/// In the mesh, and beside it: both in the client's network namespace.
fn pair(bed: &Bed) -> Result<(Client, Client)> {
    let outside = Client::start_in(&bed.client, bed.node.plain().path())?;
    Ok((Client::start(&bed.client)?, outside))
}

fn nobody() -> String {
    policy("nobody", "  action: ALLOW\n")
}

/// What a connection of the mesh may bring does not depend on who has it.
fn assert_judged(client: &mut Client, what: &str) -> Result<()> {
    for (path, status) in
        [("/fine", "200"), ("/admin/x", "403"), ("/x/../admin", "403"), ("/fine", "200")]
    {
        assert_eq!(client.get(path)?, status, "{what}: {path}");
    }
    Ok(())
}

#[test]
fn a_connection_that_leaves_the_mesh_is_still_judged() -> Result<()> {
    let (bed, _echo) = bed("out")?;
    apply(&bed, "policy.yaml", &no_admin())?;
    let (mut inside, mut outside) = pair(&bed)?;
    inside.connect(WEB)?;
    inside.hand_to(&mut outside)?;
    assert_judged(&mut outside, "handed over")?;
    // made inside, connected outside
    inside.order(json!({"socket": "10.96.0.10"}))?;
    inside.hand_to(&mut outside)?;
    assert_eq!(outside.order(json!({"finish": WEB}))?, "connected");
    assert_judged(&mut outside, "made inside")?;
    // the process itself leaves
    inside.connect(WEB)?;
    inside.order(json!({"enter": bed.node.plain().path()}))?;
    assert_judged(&mut inside, "left")?;
    assert_not_asked(&bed, "admin")
}

/// A socket's next connection is judged for itself.
#[test]
fn a_socket_that_is_used_again_is_judged_again() -> Result<()> {
    let (bed, _echo) = bed("again")?;
    let stranger = bed.node.plain_pod("stranger")?;
    let _other = spawn_ready(tcp_echo(&stranger, ECHO)?)?;
    let unknown = (stranger.ip4().to_string(), ECHO);
    apply(&bed, "policy.yaml", &no_admin())?;
    let mut client = Client::start(&bed.client)?;
    client.connect(WEB)?;
    assert_eq!(client.get("/fine")?, "200");
    assert_eq!(client.order(json!({"again": unknown}))?, "connected");
    assert!(client.echoes()?, "it is not HTTP any more");
    assert_eq!(client.order(json!({"again": WEB}))?, "connected");
    assert_judged(&mut client, "again")?;
    let forbidden = (bed.v1.ip4().to_string(), ECHO);
    assert_eq!(client.order(json!({"again": forbidden}))?, "ECONNREFUSED");
    assert_not_asked(&bed, "admin")
}

#[test]
fn what_is_not_http_is_cut_off_wherever_it_is() -> Result<()> {
    let (bed, _echo) = bed("cut")?;
    let pod = bed.v1.ip4().to_string();
    let (mut inside, mut outside) = pair(&bed)?;
    let (mut first, mut second) = pair(&bed)?;
    inside.connect((&pod, ECHO))?;
    inside.hand_to(&mut outside)?;
    second.connect((&pod, ECHO))?;
    second.hand_to(&mut first)?;
    for client in [&mut outside, &mut first] {
        assert!(client.echoes()?);
    }
    apply(&bed, "policy.yaml", &only_from("default"))?;
    for client in [&mut outside, &mut first] {
        assert!(client.echoes()?, "its caller may");
    }
    apply(&bed, "policy.yaml", &nobody())?;
    for client in [&mut outside, &mut first, &mut inside, &mut second] {
        wait_until("it is cut off", || client.is_cut_off())?;
    }
    Ok(())
}

#[test]
fn a_connection_that_enters_the_mesh_is_judged_where_it_comes_in() -> Result<()> {
    let (bed, _echo) = bed("in")?;
    let pod = bed.v1.ip4().to_string();
    let web = (pod.as_str(), 8080);
    apply(&bed, "policy.yaml", &only_from("default"))?;
    let (mut inside, mut outside) = pair(&bed)?;
    outside.connect(web)?;
    outside.hand_to(&mut inside)?;
    let (_, mut moved) = pair(&bed)?;
    moved.connect(web)?;
    moved.order(json!({"enter": bed.node.mesh().path()}))?;
    for client in [&mut inside, &mut moved] {
        assert_eq!(client.get("/fine")?, "200", "by its address it may");
    }
    apply(&bed, "policy.yaml", &no_admin())?;
    for client in [&mut inside, &mut moved] {
        assert_eq!(client.get("/admin/x")?, "403");
        assert_eq!(client.get("/fine")?, "200");
    }
    // nor does a socket that was made outside
    let (mut inside, mut outside) = pair(&bed)?;
    outside.order(json!({"socket": pod}))?;
    outside.hand_to(&mut inside)?;
    assert_eq!(inside.order(json!({"finish": web}))?, "connected");
    assert_eq!(inside.get("/admin/x")?, "403");
    assert_not_asked(&bed, "admin")
}
